"""Operating-system calls of the lake's file system that fail when they are told to.

The file system's module sees an `os` that counts calls; the call of one number fails, or every one from it
on. Reads and writes of an open file count as calls of their own, and may be cut short, as the system is free to do.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from losslake.store.files import local as local_files
from losslake.store.files import stable
from losslake.store.files.faults import disk_explained

TAKING_SPACE = {"write", "mkdir", "link", "fsync", "create"}
"""Calls that fail on a full disk; the others go on working there."""

_COUNTED = ("fsync", "link", "replace", "unlink", "mkdir", "rmdir", "scandir", "stat", "lstat")


class Faults:
    """Which calls fail: number ``at`` (from 0), with ``lasting`` all of them from there on, with ``error`` (an errno).

    ``hook`` is called before every call. ``short`` cuts every read and write to half. ``calls`` are the names of those that
    were made, ``failed`` of those that failed.
    """

    def __init__(
        self,
        at: int | None = None,
        error: int = errno.EIO,
        *,
        lasting: bool = False,
        short: bool = False,
        hook: Callable[[int], object] = lambda number: None,
    ) -> None:
        self.at, self.error, self.lasting, self.short, self.hook = at, error, lasting, short, hook
        self.calls: list[str] = []
        self.failed: list[str] = []

    def meet(self, name: str, target: object = None) -> None:
        """Count a call, and raise OSError where it is one that fails."""
        number = len(self.calls)
        self.calls.append(name)
        self.hook(number)
        if self.at is None or number < self.at or (number > self.at and not self.lasting):
            return
        if self.error in (errno.ENOSPC, errno.EDQUOT) and self.lasting and name not in TAKING_SPACE:
            return
        self.failed.append(name)
        raise OSError(self.error, os.strerror(self.error), target if isinstance(target, str) else None)


class _FaultyOs:
    """The os module, as the modules of the file system see it."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in _COUNTED:
            return real

        def call(*given: Any) -> Any:
            self._faults.meet(name, given[0] if given else None)
            return real(*given)

        return call

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        self._faults.meet("create" if flags & os.O_CREAT else "open", path)
        return os.open(path, flags, mode)


@contextmanager
def faulty(faults: Faults) -> Iterator[None]:
    """In the block the lake's file system meets ``faults``."""

    class Reading(local_files.FileToRead):
        def readinto(self, buffer: Any) -> int | None:
            with disk_explained(*self._named):
                faults.meet("read", self.name)
            view = memoryview(buffer)
            return super().readinto(view[: max(1, len(view) // 2)] if faults.short else view)

        def readall(self) -> bytes:
            with disk_explained(*self._named):
                faults.meet("read", self.name)
            return super().readall()

    class Writing(local_files.NewFile):
        def write(self, data: Any) -> int:
            with disk_explained(*self._named):
                faults.meet("write", self.name)
            view = memoryview(data).cast("B")
            return super().write(view[: max(1, len(view) // 2)] if faults.short else view)

    with (
        patch.object(local_files, "os", _FaultyOs(faults)),
        patch.object(stable, "os", _FaultyOs(faults)),
        patch.object(local_files, "FileToRead", Reading),
        patch.object(local_files, "NewFile", Writing),
    ):
        yield
