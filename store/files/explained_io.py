"""Files of a disk whose errors name the file and what to do about it."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from typing import Any

from ..errors import CorruptLake, LosslakeError

_ADVICE = {
    errno.ENOSPC: "; free some space and run the same command again",
    errno.EDQUOT: "; free some space and run the same command again",
    errno.EACCES: "; a lake belongs to the user who made it",
    errno.EROFS: "; copy the lake to a place that can be written to",
    errno.EIO: "; the disk failed: run 'losslake lake verify' to learn what is affected",
    errno.EMFILE: "; raise the limit of open files (ulimit -n)",
    errno.EFBIG: "; raise the limit of a file's size (ulimit -f)",
}


@contextlib.contextmanager
def explained(root: str, path: str) -> Iterator[None]:
    """Turns an error of the operating system into one that names ``path`` in the lake at ``root``: CorruptLake where it is
    missing, else LosslakeError."""
    try:
        yield
    except FileNotFoundError as error:
        raise CorruptLake(f"{path} is missing from the lake {root}; run 'losslake lake verify'") from error
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "")
        raise LosslakeError(f"{path} in the lake {root}: {error.strerror or error}{advice}") from error


class NewFile(io.FileIO):
    """A new private file whose write errors (a full disk) name it, whoever does the writing."""

    def __init__(self, target: str, root: str, path: str) -> None:
        super().__init__(target, "xb", opener=_private)
        self._named = (root, path)

    def write(self, data: Any) -> int:
        with explained(*self._named):
            return super().write(data)


class FileToRead(io.FileIO):
    """A file to read whose errors (a failing disk) name it, whoever does the reading."""

    def __init__(self, target: str, root: str, path: str) -> None:
        super().__init__(target, "rb", opener=_to_read)
        self._named = (root, path)

    def readinto(self, buffer: Any) -> int | None:
        with explained(*self._named):
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with explained(*self._named):
            return super().readall()


def _to_read(path: str, flags: int) -> int:
    return os.open(path, flags)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
