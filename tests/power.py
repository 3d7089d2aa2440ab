"""A disk that power can fail on: what of a lake is there afterwards, by what was synced before.

As POSIX promises and no more: a file has the bytes that it had when it was synced last, a folder the entries that it had then, or those
that it had at the end; each folder by itself, whatever happened in which order. Real file systems mostly keep more.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Drive:
    """What of the folder of a lake is on stable storage. All that is there to begin with is.

    Given to `interleaved.World`, which tells it of each call.
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root.resolve())
        self._number = 0
        self._files: dict[str, int] = {}  # which file each name is
        self._bytes: dict[int, bytes] = {}  # of the files that were synced
        self._entries: dict[str, set[tuple[str, int]]] = {}  # of the folders that were; 0 for a folder
        self._handles: dict[int, str] = {}
        for path in map(str, root.resolve().rglob("*")):
            if os.path.isfile(path):
                self._number += 1
                self._files[path] = self._number
                self._bytes[self._number] = Path(path).read_bytes()
        for path in (self.root, *map(str, root.resolve().rglob("*"))):
            if os.path.isdir(path):
                self._entries[path] = self._now(path)

    def opened(self, path: str, handle: int, new: bool) -> None:
        """A file or a folder was opened."""
        self._handles[handle] = path
        if new:
            self._number += 1
            self._files[path] = self._number

    def called(self, name: str, given: tuple[Any, ...]) -> None:
        """A call succeeded."""
        match name:
            case "link":
                self._files[given[1]] = self._files[given[0]]
            case "replace":
                self._files[given[1]] = self._files.pop(given[0])
            case "unlink":
                self._files.pop(given[0], None)
            case "mkdir":
                self._entries[given[0]] = set()

    def fsync(self, handle: int) -> None:
        """Its bytes, or its entries, are on stable storage."""
        path = self._handles[handle]
        if os.path.isdir(path):
            self._entries[path] = self._now(path)
        elif path in self._files:
            self._bytes[self._files[path]] = Path(path).read_bytes()

    def fail(self, to: Path, reverts: Callable[[str], bool]) -> None:
        """What is there when the power is back, in a new folder. ``reverts`` says of each folder of the lake whether it has the entries
        that it had when it was synced last."""
        self._restore(self.root, to, reverts)

    def _restore(self, folder: str, to: Path, reverts: Callable[[str], bool]) -> None:
        to.mkdir()
        inside = os.path.relpath(folder, self.root)
        there = os.path.isdir(folder) and not reverts(inside)
        for name, number in self._now(folder) if there else self._entries.get(folder, set()):
            if number:
                (to / name).write_bytes(self._bytes.get(number, b""))
            else:
                self._restore(f"{folder}/{name}", to / name, reverts)

    def _now(self, folder: str) -> set[tuple[str, int]]:
        return {(name, self._files.get(f"{folder}/{name}", 0)) for name in os.listdir(folder)}


def copied(path: Path, to: Path) -> Path:
    """A copy of a lake with the times of its files."""
    shutil.copytree(path, to)
    return to
