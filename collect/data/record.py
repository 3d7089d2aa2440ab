"""What every data source ends in: arrays in memory (or mapped), row by row, with labels as numbers of classes."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...store.errors import InvalidInput

if TYPE_CHECKING:
    from .nested import Nested  # which brings torch

SPLITS = ("train", "test")
MAX_LABEL = 1_000_000

_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True, eq=False)
class Dataset:
    """One data set. All arrays have one row a record, in one order.

    name     the spec it was loaded by
    x        pictures: uint8 (N, C, H, W); tabular: float32 (N, F); several inputs: `Nested`. May be a private memory
             map: writing to it never reaches the file
    y        int64 (N,), 0 <= y < len(classes)
    classes  class names
    split    str (N,), "train" or "test"
    key      str (N,), a stable name of the record, such as "train/123": row 123 of the train split
    group    str (N,) or None: a label of a subpopulation
    columns  a table of N rows with what else the source says about each record, or None

    Raises InvalidInput where the arrays disagree.
    """

    name: str
    x: np.ndarray | Nested
    y: np.ndarray
    classes: tuple[str, ...]
    split: np.ndarray
    key: np.ndarray
    group: np.ndarray | None = None
    columns: pa.Table | None = None

    @property
    def pictures(self) -> bool:
        """Whether x holds pictures rather than rows of features."""
        return isinstance(self.x, np.ndarray) and self.x.dtype == np.uint8 and self.x.ndim == 4

    def __len__(self) -> int:
        return len(self.y)

    def __post_init__(self) -> None:
        rows = len(self.x)
        if isinstance(self.x, np.ndarray):
            _check_plain(self.name, self.x, pictures=self.pictures)
        if rows == 0:
            raise InvalidInput(f"{self.name}: no rows")
        if self.y.dtype != np.int64:
            raise InvalidInput(f"{self.name}: y is {self.y.dtype}; it must be int64")
        for field, array in (("y", self.y), ("split", self.split), ("key", self.key), ("group", self.group)):
            if array is not None and array.shape != (rows,):
                raise InvalidInput(f"{self.name}: {field} has shape {array.shape}, x has {rows} rows")
        if self.columns is not None and self.columns.num_rows != rows:
            raise InvalidInput(f"{self.name}: columns has {self.columns.num_rows} rows, x has {rows}")
        if int(self.y.min()) < 0 or int(self.y.max()) >= len(self.classes):
            raise InvalidInput(
                f"{self.name}: labels run from {self.y.min()} to {self.y.max()}, but there are "
                f"{len(self.classes)} classes (0..{len(self.classes) - 1})"
            )
        wrong = ~np.isin(self.split, SPLITS)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InvalidInput(
                f"{self.name}: split of row {row} is {str(self.split[row])!r}; valid: train, test"
            )


def _check_plain(name: str, x: np.ndarray, *, pictures: bool) -> None:
    if not pictures and not (x.dtype == np.float32 and x.ndim == 2):
        raise InvalidInput(
            f"{name}: x is {x.dtype} {x.shape}; it must be uint8 (N, C, H, W) or float32 (N, F)"
        )
    if len(x) and 0 in x.shape:
        raise InvalidInput(f"{name}: x has shape {x.shape}: its records are empty")


def row_keys(split: np.ndarray) -> np.ndarray:
    """The keys `split/row`, counted within each split in row order: str (N,)."""
    rows = defaultdict[str, Iterator[int]](count)
    return np.array([f"{name}/{next(rows[name])}" for name in split.tolist()], dtype=np.str_)


def content_digest(x: np.ndarray | Nested, y: np.ndarray) -> str:
    """sha256 (64 hex digits) over the dtype, shape and bytes of x and then y; of several inputs over how they are nested first.

    Arrays of equal content have equal digests however they lie in memory. Reads x piece by piece, so that a
    memory map is never loaded whole. Raises InvalidInput for arrays of Python objects.
    """
    digest = hashlib.sha256()
    if not isinstance(x, np.ndarray):
        digest.update(json.dumps([x.layout, x.label], sort_keys=True).encode())
    for array in (*((x,) if isinstance(x, np.ndarray) else x.arrays), y):
        if array.dtype.hasobject:
            raise InvalidInput("arrays of Python objects have no content digest; give plain numbers")
        digest.update(f"{array.dtype.str} {array.shape}\n".encode())
        rows = max(1, _CHUNK_BYTES // max(1, array.nbytes // max(1, len(array))))
        for start in range(0, len(array), rows):
            digest.update(np.ascontiguousarray(array[start : start + rows]).tobytes())
    return digest.hexdigest()


def encode_labels(
    values: np.ndarray, *, where: str, names: Sequence[str] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N,) as int64 class numbers (N,), and the class names.

    Integers (and floats that are whole numbers) are used as they are: there are max + 1 classes, or as many
    as `names`; classes that never occur are fine. Strings are numbered in sorted order, as objects too, which is how
    Pandas and Polars hand them to NumPy. `where` says in errors where the labels came from.

    Raises InvalidInput for a label that is negative, not whole, or beyond `names` or MAX_LABEL, with its row.
    """
    if values.ndim != 1:
        raise InvalidInput(f"{where}: labels have shape {values.shape}; they must have one dimension")
    if values.dtype.kind == "O":
        values = _from_objects(values, where)
    if values.dtype.kind in "US":
        classes, numbers = np.unique(values.astype(np.str_), return_inverse=True)
        if names is not None and set(classes.tolist()) <= set(names):
            at = {name: number for number, name in enumerate(names)}
            remapped = np.array([at[name] for name in classes.tolist()], dtype=np.int64)
            return remapped[numbers], tuple(names)
        return numbers.astype(np.int64), tuple(str(name) for name in classes)
    if values.dtype.kind not in "biuf":
        raise InvalidInput(f"{where}: labels are {values.dtype}; they must be integers or strings")
    if values.dtype.kind == "f":
        _refuse_first(
            ~np.isfinite(values) | (values != np.floor(values)),
            values,
            where,
            "is not a whole number; losslake trains classifiers, and a regression is recorded in a loop of your own (start_run)",
        )
    if values.dtype.kind in "if":
        _refuse_first(values < 0, values, where, "is negative; labels run from 0")
    _refuse_first(
        values > MAX_LABEL, values, where, f"is above {MAX_LABEL:,}; is this an id rather than a class?"
    )
    labels = values.astype(np.int64)
    if names is not None:
        _refuse_first(labels >= len(names), values, where, f"has no name: {len(names)} classes are declared")
        return labels, tuple(names)
    return labels, tuple(str(number) for number in range(int(labels.max(initial=-1)) + 1))


def label_values(column: pa.ChunkedArray, *, where: str) -> np.ndarray:
    """A label column (N,) as a NumPy array of numbers or strings.

    Raises InvalidInput for a null (with its row) and for types that cannot be labels.
    """
    if column.null_count:
        row = int(pc.index(column.is_null(), True).as_py())
        raise InvalidInput(f"{where}: the label of row {row} is missing")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return np.array(column.to_pylist(), dtype=np.str_)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return np.asarray(column.to_numpy())
    raise InvalidInput(f"{where}: labels are {kind}; they must be integers or strings")


def _from_objects(values: np.ndarray, where: str) -> np.ndarray:
    try:
        column = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InvalidInput(
            f"{where}: labels are objects of several kinds ({error}); they must be integers or strings"
        ) from error
    return label_values(pa.chunked_array([column]), where=where)


def _refuse_first(wrong: np.ndarray, values: np.ndarray, where: str, why: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InvalidInput(f"{where}: label {values[row].item()} of row {row} {why}")
