"""The seam between the lake and where it lies: every byte of a lake is read and written through `Files`.

Paths are relative to the lake's root, with forward slashes. A backend for an object store implements the
same few calls; nothing here assumes rename, locks or a consistent listing beyond what the docstrings say.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from .errors import CorruptLake, InvalidInput, LosslakeError

TEMPORARY = ".tmp-"


class Files(Protocol):
    """Where a lake lies."""

    @property
    def root(self) -> str:
        """What a person calls this place: a folder or a URL."""

    def location(self, path: str) -> str:
        """What a query engine opens to read ``path``."""

    def exists(self, path: str) -> bool: ...

    def size(self, path: str) -> int:
        """Bytes of a file; CorruptLake when it is missing."""

    def read(self, path: str) -> bytes: ...

    def open_input(self, path: str) -> BinaryIO: ...

    def create(self, path: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """A new file, on stable storage when the block ends, removed when the block raises."""

    def put(self, path: str, data: bytes) -> None:
        """Write or replace a small file in one atomic step."""

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write a small file in one atomic step unless it exists; say whether this call wrote it."""

    def list(self, folder: str, suffix: str = "") -> list[str]:
        """Files below ``folder``, sorted, temporary ones left out; empty when there is no such folder."""

    def delete(self, path: str) -> None:
        """Remove a file; no error when it is gone already."""


class LocalFiles:
    """A lake in a folder of a local or network disk."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().resolve()

    @property
    def root(self) -> str:
        return str(self._root)

    def _path(self, path: str) -> Path:
        parts = path.split("/")
        if path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in parts):
            raise InvalidInput(f"{path!r} is not a path inside the lake")
        return self._root.joinpath(*parts)

    def _folder_of(self, target: Path) -> None:
        # The lake says which records a model exposes: nobody but its owner may look.
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    def location(self, path: str) -> str:
        return str(self._path(path))

    def exists(self, path: str) -> bool:
        return self._path(path).is_file()

    def size(self, path: str) -> int:
        with _explained(self.root, path):
            return self._path(path).stat().st_size

    def read(self, path: str) -> bytes:
        with _explained(self.root, path):
            return self._path(path).read_bytes()

    def open_input(self, path: str) -> BinaryIO:
        with _explained(self.root, path):
            return self._path(path).open("rb")

    @contextlib.contextmanager
    def create(self, path: str) -> Iterator[BinaryIO]:
        target = self._path(path)
        with _explained(self.root, path):
            self._folder_of(target)
            file = open(target, "xb", opener=_private)  # noqa: SIM115 - closed below, on both ways out
        try:
            with file:
                yield file
                with _explained(self.root, path):
                    file.flush()
                    os.fsync(file.fileno())
            _sync_folder(target.parent)
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    def put(self, path: str, data: bytes) -> None:
        target = self._path(path)
        with self._temporary(target, path, data) as temporary:
            os.replace(temporary, target)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        target = self._path(path)
        if target.exists():
            return False
        with self._temporary(target, path, data) as temporary:
            try:
                # A hard link appears whole or not at all, and fails where the name is taken; NFS keeps both promises.
                os.link(temporary, target)
            except FileExistsError:
                return False
        return True

    @contextlib.contextmanager
    def _temporary(self, target: Path, path: str, data: bytes) -> Iterator[Path]:
        temporary = target.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
        with _explained(self.root, path):
            self._folder_of(target)
            try:
                with open(temporary, "xb", opener=_private) as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield temporary
                _sync_folder(target.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def list(self, folder: str, suffix: str = "") -> list[str]:
        base = self._path(folder)
        found = []
        for where, _, names in os.walk(base):
            for name in names:
                if name.endswith(suffix) and not name.startswith(TEMPORARY):
                    found.append(Path(where, name).relative_to(self._root).as_posix())
        return sorted(found)

    def delete(self, path: str) -> None:
        target = self._path(path)
        with _explained(self.root, path):
            target.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the folder goes with its last file, never before
            target.parent.rmdir()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _explained(root: str, path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CorruptLake(f"{path} is missing from the lake {root}; run 'losslake lake verify'") from error
    except OSError as error:
        raise LosslakeError(f"{path} in the lake {root}: {error.strerror or error}") from error
