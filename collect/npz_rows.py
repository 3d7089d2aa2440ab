"""Arrays of an .npz file read row by row: in bounded memory, compressed or not, and never unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..store.errors import InvalidInput


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
        except (OSError, zipfile.BadZipFile) as error:
            raise InvalidInput(f"{path}: not an .npz file ({error}); write one with numpy.savez") from error
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
        """One array. Raises InvalidInput where the file is damaged."""
        with self._opened(name) as (stream, shape, fortran, kind):
            data = self._read(stream, name, int(np.prod(shape, dtype=np.int64)) * kind.itemsize)
            flat = np.frombuffer(data, dtype=kind)
            return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)

    def rows(self, name: str) -> Iterator[np.ndarray]:
        """array[0], array[1], ...: one in memory at a time, unless the array is in Fortran order."""
        with self._opened(name) as (stream, shape, fortran, kind):
            if fortran:
                yield from self.whole(name)
                return
            size = int(np.prod(shape[1:], dtype=np.int64)) * kind.itemsize
            for _ in range(shape[0]):
                yield np.frombuffer(self._read(stream, name, size), dtype=kind).reshape(shape[1:])

    def _read(self, stream: IO[bytes], name: str, size: int) -> bytes:
        try:
            data = stream.read(size)
        except (OSError, zipfile.BadZipFile, EOFError) as error:
            raise InvalidInput(f"{self.path}: array {name} cannot be read: {error}") from error
        if len(data) != size:
            raise InvalidInput(f"{self.path}: array {name} ends early; is the file complete?")
        return data

    def _opened(self, name: str) -> _Opened:
        return _Opened(self._zip, self.path, name)


class _Opened:
    """A member of the file, opened past its header: (stream, shape, Fortran order, dtype)."""

    def __init__(self, archive: zipfile.ZipFile, path: Path, name: str) -> None:
        self._archive, self._path, self._name = archive, path, name

    def __enter__(self) -> tuple[IO[bytes], tuple[int, ...], bool, np.dtype[Any]]:
        try:
            self._stream = self._archive.open(f"{self._name}.npy")
            version = np.lib.format.read_magic(self._stream)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, kind = read(self._stream)
        except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
            raise InvalidInput(f"{self._path}: array {self._name} cannot be read: {error}") from error
        if kind.hasobject:
            raise InvalidInput(
                f"{self._path}: array {self._name} holds Python objects, which could run code when read; convert it, "
                f"for example with {self._name}.astype(float) or .astype(str), and save it again"
            )
        return self._stream, shape, fortran, kind

    def __exit__(self, *_: object) -> None:
        self._stream.close()
