"""Manifests: small JSON files that make data visible. What no manifest lists does not exist for a reader."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from .errors import CorruptLake, NewerFormat
from .filesystem import Files
from .schema import FORMAT


@dataclass(frozen=True)
class DataFile:
    """One Parquet file that a manifest lists: which table it is part of, its rows, bytes and SHA-256."""

    table: str
    path: str
    rows: int
    bytes: int
    sha256: str


class HashingFile:
    """A write-only file that hashes what passes through, so that a checksum costs no second read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self.bytes += len(view)
        return self._file.write(view)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def sha256(self) -> str:
        return self._hash.hexdigest()


def sha256_of(files: Files, path: str) -> str:
    """The SHA-256 of a stored file, read in pieces."""
    with files.open_input(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def dump(content: Mapping[str, Any]) -> bytes:
    """A manifest's bytes: its content with the format version and a checksum of everything else.

    What JSON does not know is kept as its nearest likeness: NumPy numbers as numbers, the rest as text.
    """
    body = json.loads(json.dumps({"format": FORMAT, **content}, default=_likeness))
    return json.dumps({**body, "checksum": _checksum(body)}, indent=1, sort_keys=True).encode()


def load(files: Files, path: str) -> dict[str, Any]:
    """Read and check a manifest.

    Raises NewerFormat for a newer layout and CorruptLake for anything that `dump` did not write.
    """
    try:
        content = json.loads(files.read(path))
        version = content["format"]
        checksum = content.pop("checksum", None)
        if not isinstance(version, int):
            raise ValueError(f"format {version!r} is no number")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise CorruptLake(
            f"{path} in {files.root} is damaged: {reason}; run 'losslake lake verify'"
        ) from error
    if version > FORMAT:
        raise NewerFormat(
            f"{path} in {files.root} has format {version}, this losslake reads up to {FORMAT}: upgrade losslake"
        )
    if checksum != _checksum(content):
        raise CorruptLake(f"{path} in {files.root} was changed after it was written (checksum differs)")
    return content


def check_names(content: Mapping[str, Any], path: str, **expected: str) -> None:
    """Raises CorruptLake where a manifest does not speak of what its place says: it was copied or renamed."""
    for name, value in expected.items():
        if content.get(name) != value:
            raise CorruptLake(
                f"{path} speaks of {name} {str(content.get(name))[:100]!r}: it was moved or renamed"
            )


def files_to_json(data: tuple[DataFile, ...]) -> list[dict[str, Any]]:
    return [asdict(file) for file in data]


def files_from_json(listed: list[dict[str, Any]], *folders: str) -> tuple[DataFile, ...]:
    """The data files that a manifest lists, which lie below ``folders`` of the lake.

    Raises KeyError, TypeError or ValueError for anything that `files_to_json` did not write.
    """
    found = tuple(DataFile(**entry) for entry in listed)
    for file in found:
        for name, kind in _FIELD_TYPES.items():
            if type(getattr(file, name)) is not kind:
                raise TypeError(f"{name} of a listed file is {getattr(file, name)!r}")
        if folders and not file.path.startswith(tuple(f"{folder}/" for folder in folders)):
            raise ValueError(f"it lists a file elsewhere, {file.path[:200]!r}")
    return found


_FIELD_TYPES = {"table": str, "path": str, "rows": int, "bytes": int, "sha256": str}


def _likeness(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
