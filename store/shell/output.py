"""Writing the rows of an answer: a table for eyes, CSV, JSON or Parquet for programs."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import duckdb
import polars as pl
import pyarrow as pa

from ..errors import InvalidOption, LosslakeError
from .draw import draw_table

Format = Literal["table", "csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = ("table", "csv", "json", "parquet")

_SHOWN_ROWS = 40
_COUNTED_ROWS = 100_000
_BATCH = 10_000


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
            return known
    raise InvalidOption(
        f"{path.name} does not say its format; end it in .csv, .json or .parquet, or add --format"
    )


def show(answer: duckdb.DuckDBPyRelation) -> str:
    """An answer as a table that fits the terminal (120 characters in a pipe), and its number of rows.

    Of a long one the first and the last rows are shown, of a very long one the first. Take it inside
    `engine_errors`: the answer is computed here.
    """
    names = list(answer.columns)
    head: list[tuple[object, ...]] = []
    tail: collections.deque[tuple[object, ...]] = collections.deque(maxlen=_SHOWN_ROWS // 2)
    count = 0
    for batch in answer.to_arrow_reader(_BATCH):
        if count > _COUNTED_ROWS:
            break
        rows = list(zip(*(_column_values(column) for column in batch.columns), strict=True))
        head += rows[: _SHOWN_ROWS - len(head)]
        tail.extend(rows[-_SHOWN_ROWS:])
        count += len(rows)
    if names == ["explain_key", "explain_value"]:
        return "\n".join(str(row[1]) for row in head)
    width = shutil.get_terminal_size((120, 24)).columns
    if count <= _SHOWN_ROWS:
        return f"{draw_table(names, head, width)}\n{_counted(count)}"
    if count > _COUNTED_ROWS:
        text = draw_table(names, head, width, gap_after=len(head))
        return f"{text}\nmore than {_COUNTED_ROWS} rows, the first {len(head)} shown; --out FILE writes all"
    half = _SHOWN_ROWS // 2
    text = draw_table(names, [*head[:half], *tail], width, gap_after=half)
    return f"{text}\n{_counted(count)}, {2 * half} shown"


def write_frame(frame: pl.DataFrame, path: Path | None, chosen: Format) -> None:
    """Write rows to a file, whole or not at all, or to standard output.

    In CSV lists and structs are JSON text and bytes are hexadecimal digits; in JSON numbers that are not finite
    are null. Raises LosslakeError when the file cannot be written, InvalidOption for values that the format has
    no way to write.
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
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise LosslakeError(f"cannot write {path}: {reason}") from error
    finally:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)


def _write(frame: pl.DataFrame, file: IO[bytes], chosen: Format) -> None:
    if chosen == "parquet":
        if file is not sys.stdout.buffer:
            frame.write_parquet(file)
            return
        if sys.stdout.isatty():
            raise InvalidOption("Parquet is no text; write it with --out FILE, or pipe it on")
        whole = io.BytesIO()  # given the pipe itself, Polars calls its end an error in the Parquet file
        frame.write_parquet(whole)
        file.write(whole.getbuffer())
    elif chosen == "csv":
        text = _as_text(frame)
        for start in range(0, max(1, len(text)), _BATCH):  # a pipe that is closed ends it early
            file.write(text.slice(start, _BATCH).write_csv(include_header=start == 0).encode())
    elif chosen == "json":
        file.write(_as_json_values(frame).write_json().encode())
        file.write(b"\n")
    else:
        width = shutil.get_terminal_size((120, 24)).columns
        file.write(f"{draw_table(frame.columns, frame.rows(), width)}\n{_counted(len(frame))}\n".encode())


def _as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with only columns that CSV can hold."""
    columns = []
    for name, kind in _as_json_values(frame).schema.items():
        column = pl.col(name)
        if kind.is_nested():
            # Polars writes structs as JSON, so each value is put into one: {"v":VALUE}.
            json = pl.struct(column.alias("v")).struct.json_encode()
            column = pl.when(column.is_not_null()).then(json.str.slice(5).str.head(-1)).alias(name)
        elif kind == pl.Duration:
            column = column.dt.to_string("iso")
        columns.append(column)
    return _as_json_values(frame).select(columns)


def _as_json_values(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with bytes, which JSON does not have, as hexadecimal digits."""
    for name, kind in frame.schema.items():
        if kind.is_nested() and any(inner == pl.Binary for inner in _inner_types(kind)):
            raise InvalidOption(f"column {name!r} holds bytes inside a list; leave it out, or write Parquet")
    return frame.with_columns(pl.col(pl.Binary).bin.encode("hex"))


def _inner_types(kind: pl.DataType) -> Iterator[pl.DataType]:
    inner = (
        [field.dtype for field in kind.fields]
        if isinstance(kind, pl.Struct)
        else [getattr(kind, "inner", None)]
    )
    for part in inner:
        if isinstance(part, pl.DataType):
            yield part
            yield from _inner_types(part)


def _column_values(column: pa.Array) -> list[object]:
    try:
        values: list[object] = column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):  # a date beyond year 9999
        values = column.cast(pa.string()).to_pylist()
    return values


def _counted(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows} rows"
