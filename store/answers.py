"""Printing the answer to a query, patiently: the shell's way and that of ``losslake sql``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import click
import duckdb

from .engine_errors import engine_errors
from .output import Format, show, write_frame
from .patience import wait_for
from .views import query_frame, run_query

ShellFormat = Literal["table", "csv", "json"]
SHELL_FORMATS: tuple[ShellFormat, ...] = get_args(ShellFormat)


def print_answer(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, Any], form: Format
) -> None:
    """Run one statement that only reads and print its rows. Raises as `run_query`; KeyboardInterrupt when cancelled."""
    if form == "table":
        click.echo(wait_for(connection, lambda: _table(connection, query, parameters)))
    else:
        write_frame(wait_for(connection, lambda: query_frame(connection, query, parameters)), None, form)


def _table(connection: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, Any]) -> str:
    with engine_errors(connection):
        return show(run_query(connection, query, parameters))
