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
        return hashlib.file_digest(file, "sha256").hexdigest()


def dump(content: Mapping[str, Any]) -> bytes:
    """A manifest's bytes: its content with the format version and a checksum of everything else."""
    body = {"format": FORMAT, **content}
    return json.dumps({**body, "checksum": _checksum(body)}, indent=1, sort_keys=True).encode()


def load(files: Files, path: str) -> dict[str, Any]:
    """Read and check a manifest.

    Raises NewerFormat for a newer layout and CorruptLake for anything that `dump` did not write.
    """
    try:
        content = json.loads(files.read(path))
        version = content["format"]
        checksum = content.pop("checksum", None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptLake(f"{path} in {files.root} is not a manifest: {error}; run 'losslake lake verify'") from error
    if not isinstance(version, int) or version > FORMAT:
        raise NewerFormat(
            f"{path} in {files.root} has format {version}, this losslake reads up to {FORMAT}: upgrade losslake"
        )
    if checksum != _checksum(content):
        raise CorruptLake(f"{path} in {files.root} was changed after it was written (checksum differs)")
    return content


def files_to_json(data: tuple[DataFile, ...]) -> list[dict[str, Any]]:
    return [asdict(file) for file in data]


def files_from_json(listed: list[dict[str, Any]]) -> tuple[DataFile, ...]:
    return tuple(DataFile(**entry) for entry in listed)


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
