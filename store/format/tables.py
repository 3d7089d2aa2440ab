"""Arrow tables of Python values, made by Polars: PyArrow's own makers import pandas where it is installed, 0.3 s of a command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa


def empty_table(schema: pa.Schema) -> pa.Table:
    """No rows of these columns."""
    return pa.Table.from_batches([], schema=schema)


def polars_schema(schema: pa.Schema) -> pl.Schema:
    """The same columns as Polars knows them."""
    return pl.DataFrame(empty_table(schema)).schema


def table_of_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """A table of dicts, of which other keys are left out and missing ones null.

    Raises TypeError, ValueError, OverflowError or Arrow's or Polars' errors for values that are not of the column's type.
    """
    given = {name: [row.get(name) for row in rows] for name in schema.names}
    return pl.DataFrame(given, schema=polars_schema(schema), strict=True).to_arrow().cast(schema)


def constant_column(text: str, rows: int) -> pa.Array:
    """The same text in every row."""
    return pl.repeat(text, rows, dtype=pl.String, eager=True).to_arrow().cast(pa.string())
