"""Manifests: small JSON files that make data visible. What no manifest lists does not exist for a reader."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO

from ..errors import CorruptLake, NewerFormat, OlderFormat
from ..files.filesystem import Files
from . import contents, paths
from .schema import FORMAT

STEPS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (lambda content: content,)
"""Step i turns a manifest's content of format i + 1 into that of format i + 2. It touches no file."""


@dataclass(frozen=True)
class Shared:
    """A file with the rows of several runs, and where in it those of one run lie.

    ``rows``, ``bytes`` and ``sha256`` are of the whole file. A run's rows begin at ``first_row`` and fill ``groups`` row
    groups, the first of which is ``first_group``.
    """

    rows: int
    bytes: int
    sha256: str
    first_row: int
    first_group: int
    groups: int


@dataclass(frozen=True)
class DataFile:
    """Rows that a manifest lists: which table they are part of, in which Parquet file, how many, bytes and SHA-256.

    Where the file is ``shared``, ``bytes`` are those of the row groups, and ``sha256`` stays that of the file in which
    the rows were written first: it stands for the rows, wherever they lie.
    """

    table: str
    path: str
    rows: int
    bytes: int
    sha256: str
    shared: Shared | None = None


class HashingFile(io.RawIOBase):
    """A write-only file that hashes what passes through, so that a checksum costs no second read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.bytes = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self.bytes += len(view)
        return self._file.write(view)

    def tell(self) -> int:
        return self.bytes

    def writable(self) -> bool:
        return True

    def sha256(self) -> str:
        return self._hash.hexdigest()


def sha256_of(files: Files, path: str) -> str:
    """The SHA-256 of a stored file, read in pieces."""
    with files.open_input(path) as file:
        return digest_of(file)


def digest_of(file: BinaryIO) -> str:
    """The SHA-256 of what is left to read of a file."""
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def dump(content: Mapping[str, Any]) -> bytes:
    """A manifest's bytes: its content with the format version and a checksum of everything else.

    What JSON does not know is kept as its nearest likeness: NumPy numbers as numbers, the rest as text.
    """
    body = contents.as_json({"format": FORMAT, **content})
    return json.dumps({**body, "checksum": _checksum(body)}, indent=1, sort_keys=True).encode()


_COMPACT = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_COMPACT.encode(body).encode()).hexdigest()


def now() -> str:
    """This moment as manifests say it, by the clock of this machine."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def load(files: Files, path: str) -> dict[str, Any]:
    """Read and check the JSON file of a lake at ``path``; one of an older format says what it would say in today's.

    Raises NewerFormat for a newer layout, and CorruptLake for anything that `dump` did not write or that does not say what
    such a file says (`contents.check`).
    """
    return checked(load_as_written(files, path), path)


def load_if_there(files: Files, path: str) -> dict[str, Any] | None:
    """The same; None where there is nothing: looked for after it was not found, as it may be removed at any moment."""
    try:
        return load(files, path)
    except CorruptLake:
        if files.exists(path):
            raise
        return None


def checked(content: dict[str, Any], path: str) -> dict[str, Any]:
    """What a file says in today's format, of what `parsed` gives. Raises CorruptLake as `contents.check`."""
    content = upgraded(content)
    contents.check(content, path)
    return content


def load_as_written(files: Files, path: str) -> dict[str, Any]:
    """The same in the format that it was written in."""
    return parsed(files.read(path), path, files.root)


def upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """A manifest's content as today's format has it."""
    for step in STEPS[content["format"] - 1 :]:
        content = step(content)
    return {**content, "format": FORMAT}


def parsed(data: bytes, path: str, root: str) -> dict[str, Any]:
    """What the bytes of the manifest ``path`` in the lake at ``root`` say, checked as by `load_as_written`."""
    try:
        content = json.loads(data)
        version = content["format"]
        checksum = content.pop("checksum", None)
        if type(version) is not int or version < 1:
            raise ValueError(f"format {version!r} is no number")
        told = _checksum(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise CorruptLake(f"{path} in {root} is damaged: {reason}; run 'losslake lake verify'") from error
    if version > FORMAT:
        raise NewerFormat(
            f"{path} in {root} has format {version}, this losslake reads up to {FORMAT}: upgrade losslake"
        )
    if checksum != told:
        raise CorruptLake(f"{path} in {root} was changed after it was written (checksum differs)")
    return content


def check_current(files: Files) -> None:
    """Raises OlderFormat where the lake is not of today's format: nothing may be written into it."""
    version = load_as_written(files, paths.LAKE)["format"]
    if version < FORMAT:
        raise OlderFormat(
            f"the lake {files.root} has format {version} and can only be read; "
            f"'losslake lake migrate' turns it into format {FORMAT}"
        )


def files_to_json(data: tuple[DataFile, ...]) -> list[dict[str, Any]]:
    return [{name: value for name, value in asdict(file).items() if value is not None} for file in data]


def files_from_json(listed: list[dict[str, Any]]) -> tuple[DataFile, ...]:
    """The data files that a checked manifest lists."""
    return tuple(
        DataFile(**{**entry, "shared": Shared(**entry["shared"]) if "shared" in entry else None})
        for entry in listed
    )
