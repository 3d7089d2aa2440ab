"""Stable storage: what was written outlasts a failure of power once it is synced, many files in the time of few."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 8
"""Files that are synced at the same time: a file system's journal takes many with one write, of which each would wait for its own."""


def at_once(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """What ``work`` gives for each item, some of them at the same time."""
    listed = list(items)
    if len(listed) < 2 or AT_ONCE < 2:
        return [work(item) for item in listed]
    with ThreadPoolExecutor(min(AT_ONCE, len(listed))) as pool:
        return list(pool.map(work, listed))


def sync_if_there(path: str) -> bool:
    """Sync a file or a folder; whether there is one."""
    try:
        sync_path(path)
    except FileNotFoundError:
        return False
    return True


def sync_path(path: str) -> None:
    """Put a file's bytes, or a folder's entries, on stable storage, whoever wrote them."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems sync folders by themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not stat.S_ISDIR(os.fstat(handle).st_mode):
            raise
    finally:
        os.close(handle)
