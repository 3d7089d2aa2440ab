"""Arrow tables of Python values, made of buffers: PyArrow's own makers import pandas where it is installed, 0.3 s of a command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from .schema import RUN

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def empty_table(schema: pa.Schema) -> pa.Table:
    """No rows of these columns."""
    return pa.Table.from_batches([], schema=schema)


def table_of_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """A table of dicts, of which other keys are left out and missing ones null.

    Columns are texts, whole numbers, floats or moments in milliseconds. Raises TypeError, ValueError or OverflowError for values that
    are not of the column's type.
    """
    columns = [_column([row.get(field.name) for row in rows], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def constant_column(text: str, rows: int) -> pa.Array:
    """The same text in every row."""
    data = text.encode()
    if len(data) * rows >= 1 << 31:
        raise OverflowError(f"{rows} times a text of {len(data)} bytes")
    ends = np.arange(rows + 1, dtype=np.int32) * np.int32(len(data))
    return pa.Array.from_buffers(pa.string(), rows, [None, pa.py_buffer(ends), pa.py_buffer(data * rows)])


def with_run(rows: pa.Table, run: str) -> pa.Table:
    """Rows with a first column that says which run they are of."""
    return rows.add_column(0, RUN, constant_column(run, len(rows)))


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    there = np.array([value is not None for value in values], dtype=np.bool_)
    known = None if there.all() else pa.py_buffer(np.packbits(there, bitorder="little"))
    if pa.types.is_string(kind):
        return pa.Array.from_buffers(kind, len(values), [known, *_texts(values)])
    numbers = _numbers([0 if value is None else _number(value, kind) for value in values], kind)
    return pa.Array.from_buffers(kind, len(values), [known, pa.py_buffer(numbers)])


def _texts(values: Sequence[Any]) -> tuple[pa.Buffer, pa.Buffer]:
    """Where texts end, and their bytes one after the other."""
    wrong = next((value for value in values if value is not None and not isinstance(value, str)), None)
    if wrong is not None:
        raise TypeError(f"{str(wrong)[:100]!r} is no text")
    data = [b"" if value is None else value.encode() for value in values]
    ends = np.cumsum([0, *map(len, data)], dtype=np.int64)
    if ends[-1] >= 1 << 31:
        raise OverflowError(f"texts of {ends[-1]} bytes in one column")
    return pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(data))


def _number(value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_timestamp(kind):
        return (value - _EPOCH) // timedelta(milliseconds=1)
    fits = (int, np.integer) if pa.types.is_integer(kind) else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, fits):
        raise TypeError(f"{str(value)[:100]!r} is no {kind}")
    return value


def _numbers(values: list[Any], kind: pa.DataType) -> np.ndarray[Any, np.dtype[Any]]:
    if pa.types.is_timestamp(kind):
        return np.array(values, dtype=np.int64)
    return np.array(values, dtype=np.dtype(kind.to_pandas_dtype()))
