"""Parquet files with a row a sample and a column an epoch, as pandas writes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...store.errors import InvalidInput
from ..data.npy import brief

_INDEX = ("__index_level_0__", "index", "og_idx")
"""What the index of a data frame, which numbers the samples, may be called in the file."""


@dataclass(frozen=True)
class EpochTable:
    """A file whose schema was read: ``rows`` samples, ``columns`` one an epoch from 0, ``index`` where it has one."""

    path: Path
    rows: int
    columns: tuple[str, ...]
    index: str | None

    @property
    def epochs(self) -> int:
        return len(self.columns)

    def read(self) -> np.ndarray:
        """float32 (rows, epochs), in the order of the samples; NaN where there is no value.

        Raises InvalidInput where the file is damaged, or its index does not number the samples.
        """
        values = np.empty((self.rows, self.epochs), dtype=np.float32)
        try:
            with pq.ParquetFile(self.path) as file:
                index = None
                if self.index is not None:
                    index = file.read(columns=[self.index]).column(0).to_numpy()
                for epoch, name in enumerate(self.columns):
                    column = file.read(columns=[name]).column(0)
                    with np.errstate(over="ignore"):
                        values[:, epoch] = column.to_numpy()
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise InvalidInput(f"{self.path}: cannot be read: {brief(error)}") from error
        if index is None or np.array_equal(index, np.arange(self.rows)):
            return values
        if index.dtype.kind not in "iu" or not np.array_equal(np.sort(index), np.arange(self.rows)):
            raise InvalidInput(
                f"{self.path}: its index {self.index} must number the samples from 0 to {self.rows - 1}, each once"
            )
        return values[np.argsort(index)]


def epoch_table(path: Path) -> EpochTable:
    """The file at ``path``, by its schema alone.

    Raises InvalidInput where it is no Parquet file, or has other columns than epochs 0, 1, 2, ... of floating point.
    """
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise InvalidInput(f"{path}: is not a readable Parquet file: {brief(error)}") from error
    index = next((name for name in schema.names if name in _INDEX), None)
    named = [name for name in schema.names if name != index]
    others = [name for name in named if not (name.isascii() and name.isdigit())]
    if others or not named or not rows:
        what = f"the columns {', '.join(others[:4])}" if others else f"{rows} rows and {len(named)} columns"
        raise InvalidInput(
            f"{path}: has {what}; it must have a row a sample and a column an epoch, called 0, 1, 2, ..."
        )
    wanted = [str(epoch) for epoch in range(len(named))]
    if sorted(named) != sorted(wanted):
        missing = next(name for name in wanted if name not in named)
        raise InvalidInput(
            f"{path}: has no column {missing}: epochs must run from 0 without a gap, each once"
        )
    wrong = next((name for name in named if not pa.types.is_floating(schema.field(name).type)), None)
    if wrong is not None:
        raise InvalidInput(f"{path}: column {wrong} is {schema.field(wrong).type}; it must be floating point")
    return EpochTable(path, rows, tuple(wanted), index)
