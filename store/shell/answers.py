"""Printing the answer to a query, patiently: the shell's way and that of ``losslake sql``."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeVar, get_args

import click
import duckdb
import polars as pl

from ..query.connection import frame_of, remove_private_folder, run_query
from ..query.engine_errors import engine_errors
from ..query.limits import StillRunning, ceiling_for, memory_ceiling, wait_for
from .output import Format, show, write_frame

T = TypeVar("T")

ShellFormat = Literal["table", "csv", "json"]
SHELL_FORMATS: tuple[ShellFormat, ...] = get_args(ShellFormat)


@dataclass(frozen=True)
class Limits:
    """What a query may take: ``timeout`` in seconds, ``memory`` in bytes that the process may hold in all; None: no limit."""

    timeout: float | None = None
    memory: int | None = None


NO_LIMITS = Limits()


def limits_of(connection: duckdb.DuckDBPyConnection, timeout: float | None) -> Limits:
    """The limits for queries over a connection of this process's own, as the command line's is."""
    return Limits(timeout, ceiling_for(connection))


def print_answer(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    parameters: Mapping[str, Any],
    form: Format,
    limits: Limits = NO_LIMITS,
) -> None:
    """Run one statement that only reads and print its rows. Raises as `answer_to`."""
    if form == "table":
        click.echo(_taken(connection, query, parameters, show, limits))
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
        with memory_ceiling(limits.memory), engine_errors(connection):
            return take(run_query(connection, query, parameters))

    return wait_for(connection, work, limits.timeout)


def leave(error: StillRunning) -> NoReturn:
    """End the process with the error, for a query that nothing else can end. Nothing waits for it."""
    click.echo(f"losslake: {error}", err=True)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    remove_private_folder()
    os._exit(error.exit_code)
