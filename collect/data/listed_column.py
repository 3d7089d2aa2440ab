"""Reading one column from a file that lists samples or records."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ...store.errors import InvalidInput, InvalidOption, NotFound


def read_column(path: Path, column: str) -> pl.Series:
    """A column of a .csv or .parquet file in its order; a .txt file has a value a line, with or without the heading.

    Parquet says what its values are; those of the others are text, so that 007 stays 007. Raises NotFound, InvalidOption
    for another kind of file, InvalidInput for one without the column.
    """
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path, columns=[column])[column]
        if path.suffix == ".csv":
            return pl.read_csv(path, columns=[column], schema_overrides={column: pl.String})[column]
        if path.suffix == ".txt":
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            return pl.Series(column, lines[1:] if lines[:1] == [column] else lines, dtype=pl.String)
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInput(f"{path}: there is no column {column} to be read: {reason}") from error
    raise InvalidOption(f"{path}: a list is read from .csv, .parquet and .txt files")
