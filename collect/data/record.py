"""The record every data source ends in: arrays in memory (or mapped), row by row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ...store.errors import InvalidInput

SPLITS = ("train", "test")


@dataclass(frozen=True, eq=False)
class Dataset:
    """One data set. All arrays have one row a record, in one order.

    name     the spec it was loaded by
    x        pictures: uint8 (N, C, H, W); tabular: float32 (N, F). May be a private memory map: writing to
             it never reaches the file
    y        int64 (N,), 0 <= y < len(classes)
    classes  class names
    split    str (N,), "train" or "test"
    key      str (N,), a stable name of the record, such as "train/123": row 123 of the train split
    group    str (N,) or None: a label of a subpopulation
    columns  a table of N rows with what else the source says about each record, or None

    Raises InvalidInput where the arrays disagree.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...]
    split: np.ndarray
    key: np.ndarray
    group: np.ndarray | None = None
    columns: pa.Table | None = None

    @property
    def pictures(self) -> bool:
        """Whether x holds pictures rather than rows of features."""
        return self.x.dtype == np.uint8 and self.x.ndim == 4

    def __len__(self) -> int:
        return len(self.y)

    def __post_init__(self) -> None:
        rows = len(self.x)
        if not self.pictures and not (self.x.dtype == np.float32 and self.x.ndim == 2):
            raise InvalidInput(
                f"{self.name}: x is {self.x.dtype} {self.x.shape}; it must be uint8 (N, C, H, W) or float32 (N, F)"
            )
        if rows == 0:
            raise InvalidInput(f"{self.name}: no rows")
        if 0 in self.x.shape:
            raise InvalidInput(f"{self.name}: x has shape {self.x.shape}: its records are empty")
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


def row_keys(split: str, count: int) -> np.ndarray:
    """The keys `split/0` ... `split/(count - 1)`, str (count,)."""
    return np.array([f"{split}/{row}" for row in range(count)], dtype=np.str_)
