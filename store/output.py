"""Writing the rows of an answer: a table for eyes, CSV, JSON or Parquet for programs."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import IO, Literal

import duckdb
import polars as pl

from .errors import InvalidOption, LosslakeError

Format = Literal["table", "csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = ("table", "csv", "json", "parquet")


def format_of(path: Path | None, chosen: str | None) -> Format:
    """The format asked for, else by the file's extension, else a table.

    Raises InvalidOption for an extension that says nothing.
    """
    if chosen is not None:
        if chosen not in FORMATS:
            raise InvalidOption(f"there is no format {chosen!r} (formats: {', '.join(FORMATS)})")
        return chosen
    if path is None:
        return "table"
    for known in ("csv", "json", "parquet"):
        if path.suffix == f".{known}":
            return known  # type: ignore[return-value]
    raise InvalidOption(f"{path.name} does not say its format; end it in .csv, .json or .parquet, or add --format")


def show(answer: duckdb.DuckDBPyRelation) -> str:
    """An answer as a table that fits the terminal; long ones are cut in the middle, and say so."""
    wide = shutil.get_terminal_size((120, 24)).columns
    return str(answer) if answer.shape[0] == 0 else _drawn(answer, wide)


def _drawn(answer: duckdb.DuckDBPyRelation, wide: int) -> str:
    import contextlib
    import io

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        answer.show(max_width=wide, max_rows=40)
    return text.getvalue().rstrip("\n")


def write_frame(frame: pl.DataFrame, path: Path | None, chosen: Format) -> None:
    """Write rows to a file, whole or not at all, or to standard output.

    Lists in a CSV file become JSON text. Raises LosslakeError when the file cannot be written.
    """
    if path is None:
        _write(frame, sys.stdout.buffer, chosen)
        sys.stdout.buffer.flush()
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            _write(frame, file, chosen)
        os.replace(temporary, path)
    except OSError as error:
        raise LosslakeError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _write(frame: pl.DataFrame, file: IO[bytes], chosen: Format) -> None:
    if chosen == "csv":
        nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
        flat = frame.with_columns(
            pl.col(name).map_elements(_as_json, return_dtype=pl.String, skip_nulls=True) for name in nested
        )
        flat.write_csv(file)
    elif chosen == "json":
        frame.write_json(file)
        file.write(b"\n")
    elif chosen == "parquet":
        if file is sys.stdout.buffer and sys.stdout.isatty():
            raise InvalidOption("Parquet is no text; write it with --out FILE, or pipe it on")
        frame.write_parquet(file)
    else:
        with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=-1):
            file.write(f"{frame}\n".encode())


def _as_json(value: object) -> str:
    import json

    return json.dumps(value.to_list() if isinstance(value, pl.Series) else value, default=str)
