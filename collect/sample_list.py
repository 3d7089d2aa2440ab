"""Reading which samples are meant from a file."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ..store.errors import InvalidInput, InvalidOption, NotFound

_COLUMN = "sample_id"


def read_sample_ids(path: Path) -> list[int]:
    """The column sample_id of a .csv or .parquet file, as ``analyze --out`` writes it, in its order.

    A .txt file has one id a line, under the heading sample_id or none. Raises NotFound, InvalidOption for another kind
    of file, InvalidInput for one without such a column or with something else than whole numbers in it.
    """
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    try:
        if path.suffix == ".parquet":
            column = pl.read_parquet(path, columns=[_COLUMN])[_COLUMN]
        elif path.suffix == ".csv":
            column = pl.read_csv(path, columns=[_COLUMN])[_COLUMN]
        elif path.suffix == ".txt":
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            column = pl.Series(lines[1:] if lines[:1] == [_COLUMN] else lines, dtype=pl.String)
        else:
            raise InvalidOption(f"{path}: samples are read from .csv, .parquet and .txt files")
        whole = column.cast(pl.Int64, strict=True) if column.dtype == pl.String else column
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInput(f"{path}: no whole numbers in a column {_COLUMN} to be read: {reason}") from error
    if not whole.dtype.is_integer() or whole.null_count():
        raise InvalidInput(
            f"{path}: column {_COLUMN} is {column.dtype} with {whole.null_count()} empty rows; it must hold a whole number in each"
        )
    return whole.to_list()
