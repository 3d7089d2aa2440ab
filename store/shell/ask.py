"""What ``losslake sql`` does: one query, a file, a named query, or a shell."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidOption
from ..format.outgoing import Format
from ..format.text import parse_age
from ..lake import Lake
from ..query.connection import connect, private_folder
from ..query.limits import StillRunning, ceiling_for
from ..read.catalogue import listed_files
from ..read.changes import read_again
from . import apart
from .answers import Limits, answer_to, leave, print_answer
from .asked import Asked
from .interactive import run_shell, serve_shell
from .named_queries import find_query, parse_parameters, ready
from .output import format_of, write_frame

if TYPE_CHECKING:
    from .named_queries import NamedQuery


def ask(asked: Asked, serving: bool) -> None:
    """Answer it. ``serving``: as the child of a process that reads what a shell is given."""
    if sum(given is not None for given in (asked.query, asked.file, asked.named)) > 1:
        raise InvalidOption("give a query, --file or --query, not both")
    query, out = asked.query, asked.out
    if asked.file is not None:
        query = _text_of(asked.file)
    bound = parse_parameters(asked.parameters)
    known = None if asked.named is None else find_query(asked.named)
    wanted = format_of(out, asked.chosen)
    if out is not None and wanted == "table":
        raise InvalidOption(
            "a table is for reading on the screen; choose --format csv, json or parquet for --out"
        )
    seconds = None if asked.timeout is None else parse_age(asked.timeout).total_seconds()
    if seconds == 0:
        raise InvalidOption("--timeout 0 leaves a query no time; write for example 30s")
    text = query if known is None else known.text
    if asked.engine == "spark" and (text is None or asked.memory is not None or seconds is not None):
        raise InvalidOption(
            "the shell, --memory and --timeout are DuckDB's; with --engine spark give a query, and limits to Spark"
        )
    if text is None and (bound or out is not None or wanted == "parquet"):
        raise InvalidOption(
            "--param, --out and Parquet are for a single query; give one, or --file or --query"
        )

    if asked.engine == "spark" and text is not None:
        _ask_spark(Lake.open(asked.lake), asked, text, known, bound, wanted)
        return

    def answer() -> None:
        with (
            connect(opened, asked.experiment, memory=asked.memory) as connection,
            contextlib.ExitStack() as stack,
        ):
            limits = Limits(seconds, ceiling_for(connection))
            apart.tell({"folder": private_folder(), "limit": seconds})
            values = bound if known is None else stack.enter_context(ready(connection, known, bound))
            try:
                if text is None:
                    assert wanted != "parquet"
                    (serve_shell if serving else run_shell)(connection, wanted, limits)
                elif out is None:
                    print_answer(connection, text, values, wanted, limits)
                else:
                    write_frame(answer_to(connection, text, values, limits), out, wanted)
            except StillRunning as error:
                leave(error)

    opened = Lake.open(asked.lake)
    read_again(answer, lambda: listed_files(opened, asked.experiment))


def _ask_spark(
    lake: Lake,
    asked: Asked,
    text: str,
    known: NamedQuery | None,
    parameters: dict[str, Any],
    wanted: Format,
) -> None:
    import duckdb
    import polars as pl

    from ..spark.connection import connect_spark
    from .answers import excerpt_of, print_excerpt
    from .named_queries import ready

    with (
        connect_spark(lake, asked.experiment, master=asked.spark_master) as connection,
        contextlib.ExitStack() as stack,
    ):
        if known is not None:
            parameters = stack.enter_context(ready(connection, known, parameters))
        answer = connection.sql(text, parameters)
    if asked.out is None and wanted == "table":
        print_excerpt(excerpt_of(duckdb.from_arrow(answer)))
    else:
        write_frame(pl.DataFrame(answer), asked.out, wanted)


def _text_of(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidOption(f"cannot read the query in {file}: {error}") from error
