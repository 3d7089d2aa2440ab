"""Arrays of an .npz file read row by row: in bounded memory, compressed or not, and never unpickled."""

from __future__ import annotations

import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...store.errors import InvalidInput
from .npy import brief, cut, read_header

# What zipfile raises on archives that are damaged, encrypted, or made to break it.
_DAMAGED = (
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    struct.error,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    lzma.LZMAError,
)
_PIECE = 1 << 24


class NpzArrays:
    """The arrays of an .npz file: their shapes and types at once, their values when asked for.

    Use as a context manager. Raises InvalidInput for what is not an .npz file, and for an array of Python
    objects, which only pickle can read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except FileNotFoundError as error:
            raise InvalidInput(f"{path}: no such file") from error
        except (*_DAMAGED, MemoryError) as error:
            raise InvalidInput(
                f"{path}: not an .npz file ({brief(error)}); write one with numpy.savez"
            ) from error
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, np.dtype[Any]] = {}
        for entry in self._zip.namelist():
            if entry.endswith(".npy"):
                name = entry.removesuffix(".npy")
                with self._opened(name) as (_, shape, _, kind):
                    self.shapes[name], self.types[name] = shape, kind

    def __enter__(self) -> NpzArrays:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def whole(self, name: str) -> np.ndarray:
        """One array. Raises InvalidInput where the file is damaged, or memory has no room for the array."""
        with self._opened(name) as (stream, shape, fortran, kind):
            # All at once and before it is unpacked: a small file may hold more zeros than there is memory.
            try:
                data = np.empty(math.prod(shape) * kind.itemsize, dtype=np.uint8)
            except MemoryError as error:
                raise InvalidInput(
                    f"{self.path}: array {name}: its shape {cut(shape)} takes more memory than there is"
                ) from error
            for start in range(0, len(data), _PIECE):
                piece = data[start : start + _PIECE]
                piece[:] = np.frombuffer(self._read(stream, name, len(piece)), dtype=np.uint8)
            flat = data.view(kind)
            return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)

    def rows(self, name: str) -> Iterator[np.ndarray]:
        """array[0], array[1], ...: one in memory at a time, unless the array is in Fortran order."""
        with self._opened(name) as (stream, shape, fortran, kind):
            if fortran:
                yield from self.whole(name)
                return
            size = math.prod(shape[1:]) * kind.itemsize
            for _ in range(shape[0]):
                yield np.frombuffer(self._read(stream, name, size), dtype=kind).reshape(shape[1:])

    def _read(self, stream: IO[bytes], name: str, size: int) -> bytes:
        try:
            data = stream.read(size)
        except (*_DAMAGED, MemoryError) as error:
            raise InvalidInput(f"{self.path}: array {name}: cannot be read: {brief(error)}") from error
        if len(data) != size:
            raise InvalidInput(f"{self.path}: array {name}: ends early; is the file complete?")
        return data

    @contextmanager
    def _opened(self, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], bool, np.dtype[Any]]]:
        """One array of the file, opened past its header: (stream, shape, Fortran order, dtype)."""
        where, member = f"{self.path}: array {cut(name)}", f"{name}.npy"
        try:
            opened = self._zip.open(member)
        except (KeyError, *_DAMAGED) as error:
            raise InvalidInput(f"{where}: cannot be read: {brief(error)}") from error
        with opened as stream:
            try:
                shape, fortran, kind = read_header(stream, where)
                promised = stream.tell() + math.prod(shape) * kind.itemsize
            except _DAMAGED as error:
                raise InvalidInput(f"{where}: cannot be read: {brief(error)}") from error
            if promised != self._zip.getinfo(member).file_size:
                raise InvalidInput(
                    f"{where}: is not of the size that its header promises; is the file complete?"
                )
            yield stream, shape, fortran, kind
