"""Reading which samples are meant from a file."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ...store.errors import InvalidInput
from .listed_column import read_column


def read_sample_ids(path: Path) -> list[int]:
    """The column sample_id of a .csv or .parquet file, as ``analyze --out`` writes it, in its order.

    A .txt file has one id a line, under the heading sample_id or none. Raises NotFound, InvalidOption for another kind
    of file, InvalidInput for one without such a column or with something else than whole numbers in it.
    """
    column = read_column(path, "sample_id")
    try:
        whole = column.str.strip_chars().cast(pl.Int64) if column.dtype == pl.String else column
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput(f"{path}: no whole numbers in column sample_id: {reason}") from error
    if not whole.dtype.is_integer() or whole.null_count():
        raise InvalidInput(
            f"{path}: column sample_id is {column.dtype} with {whole.null_count()} empty rows; it must hold a whole number "
            "in each"
        )
    return whole.to_list()
