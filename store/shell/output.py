"""Writing the rows of an answer: a table for eyes, CSV, JSON or Parquet for programs."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from ..errors import InvalidOption
from ..format.out_file import is_stream, out_file
from ..format.outgoing import FORMATS, FORMULA, Format
from .table import draw_table

if TYPE_CHECKING:
    import polars as pl

_BATCH = 10_000

# No least and greatest value, for the reason that `parquet_writer` gives; Polars chooses for all columns at once.
_STATISTICS = {"min": False, "max": False}


def format_of(path: Path | None, chosen: str | None) -> Format:
    """The format asked for, else by the file's extension, else CSV for a pipe or a device, and a table without any.

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
    if is_stream(path):
        return "csv"
    raise InvalidOption(
        f"{path.name} does not say its format; end it in .csv, .json or .parquet, or add --format"
    )


def write_frame(frame: pl.DataFrame, path: Path | None, chosen: Format) -> None:
    """Write rows to a file as `out_file` does, or to standard output.

    In CSV lists and structs are JSON text and bytes are hexadecimal digits, and an apostrophe stands before text and names of columns
    that a spreadsheet would take for a formula (they begin with = + - @, a tab or a new line, and are no number). In JSON numbers that are not finite
    are null, and decimals are numbers: whole ones with every digit, others as the nearest float. Durations are ISO 8601 text
    (PT1M30S) in both. Raises LosslakeError when the file cannot be written, InvalidOption for values that the format has
    no way to write.
    """
    if chosen == "table":
        click.echo(f"{draw_table(frame.columns, frame.rows())}\n{counted(len(frame))}")
        return
    if path is None:
        if chosen != "parquet" and sys.stdout.isatty():
            shown = io.BytesIO()
            _write(frame, shown, chosen)
            click.echo(shown.getvalue().decode(), nl=False)
            return
        _write(frame, sys.stdout.buffer, chosen)
        sys.stdout.buffer.flush()
        return
    with out_file(path) as file:
        _write(frame, file, chosen)


def counted(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows} rows"


def _write(frame: pl.DataFrame, file: IO[bytes], chosen: Format) -> None:
    import polars as pl

    if chosen == "parquet":
        if file is not sys.stdout.buffer:
            frame.write_parquet(file, statistics=_STATISTICS)
            return
        if sys.stdout.isatty():
            raise InvalidOption("Parquet is no text; write it with --out FILE, or pipe it on")
        whole = io.BytesIO()  # given the pipe itself, Polars calls its end an error in the Parquet file
        frame.write_parquet(whole, statistics=_STATISTICS)
        file.write(whole.getbuffer())
    elif chosen == "csv":
        text = _as_text(frame)
        for start in range(0, max(1, len(text)), _BATCH):  # a pipe that is closed ends it early
            file.write(text.slice(start, _BATCH).write_csv(include_header=start == 0).encode())
    else:
        frame = _as_json_values(frame)
        frame = frame.with_columns(
            pl.col(name).cast(_with_numbers(kind))
            for name, kind in frame.schema.items()
            if _has(kind, pl.Decimal)
        )
        file.write(frame.write_json().encode())
        file.write(b"\n")


def _as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with only columns that CSV can hold."""
    import polars as pl

    frame = _as_json_values(frame)
    columns = []
    for name, kind in frame.schema.items():
        column = pl.col(name)
        if kind.is_nested():
            # Polars writes structs as JSON, so each value is put into one: {"v":VALUE}.
            json = pl.struct(column.cast(_with_numbers(kind)).alias("v")).struct.json_encode()
            column = pl.when(column.is_not_null()).then(json.str.slice(5).str.head(-1)).alias(name)
        elif kind == pl.String or isinstance(kind, pl.Categorical | pl.Enum):
            text = column.cast(pl.String)
            risky = text.str.contains(FORMULA) & text.cast(pl.Float64, strict=False).is_null()
            column = pl.when(risky).then(pl.lit("'") + text).otherwise(text)
        columns.append(column.alias(f"'{name}" if re.match(FORMULA, name) else name))
    return frame.select(columns)


def _as_json_values(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with what JSON does not have as text: bytes as hexadecimal digits, durations as ISO 8601 has them."""
    import polars as pl
    from polars import selectors

    for name, kind in frame.schema.items():
        if kind.is_nested() and _has(kind, pl.Binary):
            raise InvalidOption(f"column {name!r} holds bytes inside a list; leave it out, or write Parquet")
    return frame.with_columns(pl.col(pl.Binary).bin.encode("hex"), selectors.duration().dt.to_string("iso"))


def _with_numbers(kind: Any) -> Any:
    """The type with numbers in place of decimals, which Polars writes to JSON as text."""
    import polars as pl

    if isinstance(kind, pl.Decimal):
        return pl.Float64() if kind.scale else pl.Int128()
    if isinstance(kind, pl.Struct):
        return pl.Struct({field.name: _with_numbers(field.dtype) for field in kind.fields})
    if isinstance(kind, pl.List):
        return pl.List(_with_numbers(kind.inner))
    if isinstance(kind, pl.Array):
        return pl.Array(_with_numbers(kind.inner), kind.size)
    return pl.Map(kind.key, _with_numbers(kind.value)) if isinstance(kind, pl.Map) else kind


def _has(kind: Any, sought: type[pl.DataType]) -> bool:
    """Whether a type is ``sought``, or has it inside."""
    import polars as pl

    if isinstance(kind, pl.Struct):
        return any(_has(field.dtype, sought) for field in kind.fields)
    if isinstance(kind, pl.Map):
        return _has(kind.key, sought) or _has(kind.value, sought)
    return _has(kind.inner, sought) if isinstance(kind, pl.List | pl.Array) else kind == sought
