"""The answer to a query, waited for patiently: all of its rows, or those that are shown on the screen."""

from __future__ import annotations

import collections
import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, TypeVar, get_args

import click
import duckdb
import pyarrow as pa

from ..format.outgoing import Format, printable
from ..query.connection import frame_of, remove_private_folder, run_query
from ..query.engine_errors import engine_errors
from ..query.limits import StillRunning, memory_ceiling, wait_for
from .apart import query_at_work
from .output import counted, write_frame
from .table import draw_table

if TYPE_CHECKING:
    import polars as pl

T = TypeVar("T")

ShellFormat = Literal["table", "csv", "json"]
SHELL_FORMATS: tuple[ShellFormat, ...] = get_args(ShellFormat)

_SHOWN_ROWS = 40
_COUNTED_ROWS = 100_000
_BATCH = 10_000


@dataclass(frozen=True)
class Limits:
    """What a query may take: ``timeout`` in seconds, ``memory`` in bytes that the process may hold in all; None: no limit."""

    timeout: float | None = None
    memory: int | None = None


NO_LIMITS = Limits()


def print_answer(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    parameters: Mapping[str, Any],
    form: Format,
    limits: Limits,
) -> None:
    """Run one statement that only reads and print its rows. Raises as `answer_to`."""
    if form == "table":
        print_excerpt(_taken(connection, query, parameters, excerpt_of, limits))
    else:
        write_frame(answer_to(connection, query, parameters, limits), None, form)


def answer_to(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    parameters: Mapping[str, Any],
    limits: Limits = NO_LIMITS,
) -> pl.DataFrame:
    """The rows of one statement that only reads.

    Raises as `run_query`, LimitReached where it met a limit, KeyboardInterrupt when cancelled.
    """
    return _taken(connection, query, parameters, frame_of, limits)


def _taken(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    parameters: Mapping[str, Any],
    take: Callable[[duckdb.DuckDBPyRelation], T],
    limits: Limits,
) -> T:
    def work() -> T:
        with query_at_work(), memory_ceiling(limits.memory), engine_errors(connection):
            return take(run_query(connection, query, parameters))

    return wait_for(connection, work, limits.timeout)


class Excerpt(NamedTuple):
    """What is shown of an answer: rows, those after ``gap_after`` of them left out, and how many there are in words."""

    names: list[str]
    rows: list[tuple[object, ...]]
    said: str
    gap_after: int | None = None


def excerpt_of(answer: duckdb.DuckDBPyRelation) -> Excerpt:
    """The first and the last rows of a long answer, the first of a very long one, else all.

    Take it inside `engine_errors`: the answer is computed here.
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
    if count <= _SHOWN_ROWS:
        return Excerpt(names, head, counted(count))
    if count > _COUNTED_ROWS:
        said = f"more than {_COUNTED_ROWS} rows, the first {len(head)} shown; --out FILE writes all"
        return Excerpt(names, head, said, len(head))
    half = _SHOWN_ROWS // 2
    return Excerpt(names, [*head[:half], *tail], f"{counted(count)}, {2 * half} shown", half)


_INSTANTS = (pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.timestamp("us", "Etc/UTC"))
"""What DuckDB's timestamps are in Arrow, for which PyArrow's own way to Python imports pandas, 0.3 s."""


def _instants(column: pa.Array) -> list[object]:
    start = datetime(1970, 1, 1, tzinfo=UTC if column.type.tz else None)
    counted = column.view(pa.int64()).to_pylist()
    return [None if value is None else start + timedelta(microseconds=value) for value in counted]


def _column_values(column: pa.Array) -> list[object]:
    if pa.types.is_interval(column.type):
        return [None if value is None else _interval(value) for value in column.to_pylist()]
    try:
        if column.type in _INSTANTS:
            return _instants(column)
        values: list[object] = column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):  # a date beyond year 9999
        values = column.cast(pa.string()).to_pylist()
    return values


def _interval(value: Any) -> str:
    """An interval in words, months apart: they have no one length."""
    rest = timedelta(days=value.days, microseconds=value.nanoseconds // 1000)
    if not value.months:
        return str(rest)
    months = "1 month" if value.months == 1 else f"{value.months} months"
    return f"{months} {rest}" if rest else months


def print_excerpt(excerpt: Excerpt) -> None:
    """Print the rows as a table, and their number; a plan of the engine as it drew it."""
    names, rows, said, gap_after = excerpt
    if names == ["explain_key", "explain_value"]:
        click.echo("\n".join(printable(line) for _, plan in rows for line in str(plan).split("\n")))
    else:
        click.echo(f"{draw_table(names, rows, gap_after=gap_after)}\n{said}")


def leave(error: StillRunning) -> NoReturn:
    """End the process with the error, for a query that nothing else can end. Nothing waits for it."""
    click.echo(f"losslake: {error}", err=True)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    remove_private_folder()
    os._exit(error.exit_code)
