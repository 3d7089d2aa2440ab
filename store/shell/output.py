"""Writing the rows of an answer: a table for eyes, CSV, JSON or Parquet for programs."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import secrets
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Literal

import duckdb
import polars as pl
import pyarrow as pa

from ..errors import InvalidOption, LosslakeError

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


_LEAST = 6
"""Characters that a column keeps however narrow the screen is, if it has so many."""

_MOST = 48
"""Characters of a cell that are shown at most; what is longer is read better as CSV or JSON."""

_GAP = "…"


def draw_table(
    names: Sequence[str], rows: Sequence[Sequence[object]], width: int, *, gap_after: int | None = None
) -> str:
    """Rows under their column names, at most ``width`` characters wide (but never under about 20).

    Long cells are cut; columns that do not fit even so are left out in the middle, and rows are after
    ``gap_after``: both show as an ellipsis. Numbers stand to the right. Control characters are not passed on.
    """
    columns = [
        [_printable(name), *(cell_text(row[place]) for row in rows)] for place, name in enumerate(names)
    ]
    right = [all(_is_number(row[place]) for row in rows) for place in range(len(names))]
    widths = [min(_MOST, max(map(_wide, column))) for column in columns]
    kept = _fit(widths, width)
    lines = []
    for line in range(len(rows) + 1):
        cells = []
        for place in kept:
            if place is None:
                cells.append(_GAP)
            else:
                cells.append(_padded(columns[place][line], widths[place], right[place]))
        lines.append("│ " + " │ ".join(cells) + " │")
    if gap_after is not None:
        cells = [
            _padded(_GAP, 1 if place is None else widths[place], place is not None and right[place])
            for place in kept
        ]
        lines.insert(gap_after + 1, "│ " + " │ ".join(cells) + " │")
    rules = ["─" * (3 if place is None else widths[place] + 2) for place in kept]
    top, middle, bottom = (f"{a}{b.join(rules)}{c}" for a, b, c in ("┌┬┐", "├┼┤", "└┴┘"))
    return "\n".join([top, lines[0], middle, *lines[1:], bottom])


def cell_text(value: object) -> str:
    """A value as a reader wants to see it: six digits of a number that is not whole, NULL for none."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        shown = [cell_text(part) for part in value[:16]]
        return f"[{', '.join(shown)}{', ' + _GAP if len(value) > 16 else ''}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{cell_text(key)}: {cell_text(part)}' for key, part in value.items())}}}"
    if isinstance(value, bytes):
        return f"{value[:16].hex()}{_GAP if len(value) > 16 else ''} ({len(value)} bytes)"
    return _printable(str(value))


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _fit(widths: list[int], width: int) -> list[int | None]:
    """Narrow ``widths`` in place until they fit; the columns to show, None for a gap."""

    def total(places: Sequence[int | None]) -> int:
        return 1 + sum(3 + (1 if place is None else widths[place]) for place in places)

    every: list[int | None] = list(range(len(widths)))
    while total(every) > width and max(widths) > _LEAST:
        widest = widths.index(max(widths))
        widths[widest] -= 1
    kept = every
    left = len(widths)
    while total(kept) > width and left > 1:
        left -= 1
        kept = [*range((left + 1) // 2), None, *range(len(widths) - left // 2, len(widths))]
    return kept


def _padded(text: str, width: int, right: bool) -> str:
    if _wide(text) > width:
        while text and _wide(text) > width - 1:
            text = text[:-1]
        text += _GAP
    space = " " * (width - _wide(text))
    return space + text if right else text + space


def _wide(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def _printable(text: str) -> str:
    if len(text) > 10 * _MOST:
        text = text[: 10 * _MOST]
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "·" for letter in text)
