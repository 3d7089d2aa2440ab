"""Reading objects as files: for Parquet, which jumps, for hashing, which goes on, and for DuckDB, which sees nothing else.

DuckDB reads through a file system that this process lends it. So it needs no extension and holds no credentials that a
query could look at, its own reader of Parquet fetches the columns and row groups that a query needs and no others, and
what is not a listed file stays out of reach as in a local lake. It can open objects to read them and do nothing else.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import fsspec
import obstore

from ..errors import CorruptLake

_TAIL = 64 << 10
"""Bytes at the end of an object that come with its size: most footers, and the whole of a small file."""

_AHEAD = 8 << 20
"""Bytes that are fetched at once, at most, where somebody reads on and on."""

_KNOWN = 512
"""Objects whose ends a connection remembers: DuckDB opens each file several times a query."""

_NO_PARTS = ("NotPartial", "416 Range Not Satisfiable")
"""What obstore says where a store gives no part of an empty object, and where it refuses one."""


class ObjectEnd:
    """The size of an object and its last bytes, in one request; in two from Azure where they are not all.

    ``explain`` gives what turns the store's errors into losslake's.
    """

    def __init__(self, store: Any, key: str, explain: Callable[[], AbstractContextManager[None]]) -> None:
        self.store, self.key, self.explain = store, key, explain
        with explain():
            try:
                self.size, self.tail = _part(store, key, {"suffix": _TAIL})
            except obstore.exceptions.NotSupportedError:  # Azure counts from the beginning only
                self.size, self.tail = _part(store, key, (0, _TAIL))
                if self.size > _TAIL:
                    start = self.size - _TAIL
                    self.tail = bytes(obstore.get_range(store, key, start=start, length=_TAIL))


def _part(store: Any, key: str, part: Any) -> tuple[int, bytes]:
    """The size of an object, and a part of it; all of one that is empty and has no parts."""
    try:
        found = obstore.get(store, key, options={"range": part})
        data = bytes(found.bytes())
    except obstore.exceptions.GenericError as error:
        if not any(word in str(error) for word in _NO_PARTS):
            raise
        found = obstore.get(store, key)
        data = bytes(found.bytes())
    return int(found.meta["size"]), data


class ObjectReader(io.RawIOBase):
    """An object as a file to read from any position. What is fetched ahead grows while one reads on."""

    def __init__(self, end: ObjectEnd) -> None:
        self._end, self._size = end, end.size
        self._start, self._window = end.size - len(end.tail), end.tail
        self._at = 0
        self._ahead = _TAIL

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        if not self._start <= self._at <= self._start + len(self._window) - wanted:
            self._fetch(wanted)
        first = self._at - self._start
        buffer[:wanted] = self._window[first : first + wanted]
        self._at += wanted
        return wanted

    def _fetch(self, wanted: int) -> None:
        end = self._end
        if self._at >= self._size - len(end.tail):
            self._start, self._window = self._size - len(end.tail), end.tail
            return
        # Who goes on where the last bytes ended will go on: twice as many the next time.
        goes_on = self._start <= self._at <= self._start + len(self._window)
        self._ahead = min(2 * self._ahead, _AHEAD) if goes_on else 0
        length = min(max(wanted, self._ahead), self._size - self._at)
        with end.explain():
            self._window = bytes(obstore.get_range(end.store, end.key, start=self._at, length=length))
        self._start = self._at
        self._ahead = max(self._ahead, _TAIL)
        if len(self._window) < wanted:
            raise CorruptLake(f"{end.key} is shorter than it was; run 'losslake lake verify'")


class ReadingFileSystem(fsspec.AbstractFileSystem):
    """What DuckDB opens objects with. ``look`` takes what `Files.location` gives."""

    cachable = False

    def __init__(self, scheme: str, look: Callable[[str], ObjectEnd]) -> None:
        super().__init__()
        self.protocol = scheme
        self._look = lru_cache(_KNOWN)(look)  # what a manifest lists is never written again

    def glob(self, path: str, **_: Any) -> list[str]:
        return [path]  # the views name files, not patterns

    def open(self, path: str, mode: str = "rb", **_: Any) -> ObjectReader:
        if mode != "rb":
            raise PermissionError(f"{path} can only be read")
        return ObjectReader(self._look(path))

    def size(self, path: str) -> int:
        return self._look(path).size

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(0, UTC)

    def isdir(self, path: str) -> bool:
        return False
