"""The SQL shell: queries over several lines, ended by a semicolon, and a few dot commands."""

from __future__ import annotations

import contextlib
import sys
import time

import click
import duckdb

from .engine_errors import engine_errors
from .errors import InvalidInput, LosslakeError
from .output import show
from .views import VIEWS, run_query

HELP = """\
.views           the views of the lake
.schema [VIEW]   columns of a view, or of all
.help            this
.quit            leave (also Ctrl-D)
A query ends with a semicolon and may span lines."""


def run_shell(connection: duckdb.DuckDBPyConnection) -> None:
    """Read queries from the terminal, or from a pipe, and print their answers until the input ends."""
    talking = sys.stdin.isatty()
    if talking:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives input() its line editing and history
        click.echo("losslake SQL. '.help' for help, a query ends with ';'", err=True)
    pending = ""
    failed = False
    while True:
        try:
            line = input(("losslake> " if not pending else "     ...> ") if talking else "")
        except EOFError:
            break
        except KeyboardInterrupt:
            pending = ""
            click.echo("", err=True)
            continue
        except UnicodeDecodeError as error:
            raise InvalidInput(f"the input is not UTF-8 text: {error}") from error
        if not pending and line.strip().startswith("."):
            if line.strip() in (".quit", ".exit"):
                break
            failed |= not _dot_command(connection, line.split())
            continue
        pending += line + "\n"
        if line.rstrip().endswith(";"):
            failed |= not _answer(connection, pending, talking)
            pending = ""
    if pending.strip():
        failed |= not _answer(connection, pending, talking)
    if failed and not talking:
        raise SystemExit(1)


def _answer(connection: duckdb.DuckDBPyConnection, query: str, talking: bool) -> bool:
    started = time.perf_counter()
    try:
        with engine_errors(connection):
            text = show(run_query(connection, query))
        click.echo(text)
    except LosslakeError as error:
        click.echo(f"error: {error}", err=True)
        return False
    if talking:
        click.echo(f"{time.perf_counter() - started:.2f} s", err=True)
    return True


def _dot_command(connection: duckdb.DuckDBPyConnection, words: list[str]) -> bool:
    if words[0] == ".help":
        click.echo(HELP)
    elif words[0] == ".views":
        click.echo("\n".join(VIEWS))
    elif words[0] == ".schema":
        for view in words[1:] or VIEWS:
            if view not in VIEWS:
                click.echo(f"error: there is no view {view!r} (views: {', '.join(VIEWS)})", err=True)
                return False
            try:
                with engine_errors(connection):
                    relation = connection.view(view)
                    pairs = zip(relation.columns, relation.types, strict=True)
                    columns = ", ".join(f"{name} {kind}" for name, kind in pairs)
            except LosslakeError as error:
                click.echo(f"error: {error}", err=True)
                return False
            click.echo(f"{view}({columns})")
    else:
        click.echo(f"error: unknown command {words[0]!r}\n{HELP}", err=True)
        return False
    return True
