"""NumPy files of strangers: the headers checked first, nothing unpickled.

An .npy file is mapped into memory; arrays of an .npz archive are read whole, or row by row.
"""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...store.errors import InvalidInput
from .room import check_room

_HEADER_ERRORS = (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError)
"""What NumPy raises on a header that is broken, or made to break its reader."""

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
_AXES = 64
_BYTES = (1 << 63) - 1

_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib")
_PICKLE_START = b"\x80"


@dataclass(frozen=True)
class NpyFile:
    """An .npy file whose header was read: shape and type. `open` maps the values into memory."""

    path: Path
    shape: tuple[int, ...]
    kind: np.dtype[Any]

    def open(self) -> np.ndarray:
        """The values, memory-mapped and read-only. Raises InvalidInput where the file cannot be read any more."""
        try:
            return np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, *_HEADER_ERRORS) as error:
            raise InvalidInput(f"{self.path}: cannot be read: {brief(error)}") from error


def npy_file(path: Path) -> NpyFile:
    """The .npy file at ``path``, by its header alone.

    Raises InvalidInput for a file that is missing, pickled, damaged, of another size than its header says, or that
    holds anything but numbers or booleans.
    """
    refuse_pickle(path)
    try:
        with path.open("rb") as stream:
            if stream.peek(1)[:1] == _PICKLE_START:
                raise _pickled(path)
            shape, _, kind = read_header(stream, str(path))
            promised, there = stream.tell() + math.prod(shape) * kind.itemsize, path.stat().st_size
    except FileNotFoundError as error:
        raise InvalidInput(f"{path}: no such file") from error
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {brief(error)}") from error
    if kind.kind not in "biuf":
        raise InvalidInput(f"{path}: holds {cut(kind)}; it must hold numbers or booleans")
    if 0 in shape:
        raise InvalidInput(f"{path}: has shape {cut(shape)}: it holds no values")
    if promised != there:
        raise InvalidInput(
            f"{path}: is {there} bytes long, its header promises {promised}; is the file complete? Copy it again"
        )
    return NpyFile(path, shape, kind)


def read_header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, Fortran order, dtype) of an .npy stream, which is left at its first value.

    ``where`` names it in errors. Raises InvalidInput for a broken header and for Python objects.
    """
    try:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, kind = read(stream)
    except _HEADER_ERRORS as error:
        raise InvalidInput(
            f"{where}: cannot be read: not the header of an .npy file ({brief(error)})"
        ) from error
    if kind.hasobject:
        raise InvalidInput(
            f"{where}: holds Python objects, which could run code when read; convert it where you trust it, for example "
            "with .astype(float) or .astype(str), and save it again"
        )
    # True is a whole number to Python and no length; NumPy makes no array of more axes or bytes.
    plain = all(type(length) is int and length >= 0 for length in shape) and len(shape) <= _AXES
    if not plain or not kind.itemsize or math.prod(shape) * kind.itemsize > _BYTES:
        raise InvalidInput(f"{where}: cannot be read: its header gives the shape {cut(shape)} of {cut(kind)}")
    return shape, fortran, kind


def brief(error: Exception) -> str:
    """What a library says of a broken file, cut to one line: it may quote the file at length."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return cut(lines[0])


def cut(value: object) -> str:
    """A value as text of at most 200 characters, for an error."""
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def refuse_pickle(path: Path) -> None:
    """Raises InvalidInput for a file that only unpickling could read, by its name."""
    if path.suffix.casefold() in _PICKLES:
        raise _pickled(path)


def _pickled(path: Path) -> InvalidInput:
    return InvalidInput(
        f"{path}: is pickled, and could run code when read; where you trust it, load it and save the array with "
        "numpy.save('FILE.npy', numpy.asarray(values))"
    )


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
            check_room(math.prod(shape) * kind.itemsize, self.path)
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
            check_room(shape[0] * size, self.path)
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
