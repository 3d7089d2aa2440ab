"""The command ``losslake sql``: one query, a file, a named query, or a shell."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..command_options import engine_options, experiment_option, lake_option
from ..errors import InvalidOption
from ..lake import Lake
from .output import FORMATS, Format, format_of, write_frame

if TYPE_CHECKING:
    from .named_queries import NamedQuery


@click.command()
@click.argument("query", required=False)
@lake_option
@experiment_option
@click.option(
    "-f", "--file", type=click.Path(path_type=Path), help="Read the query from a file; - is standard input."
)
@click.option(
    "--format", "chosen", type=click.Choice(FORMATS), help="Default: by --out's extension, else a table."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write the rows to this file (.csv, .json, .parquet)."
)
@click.option(
    "--query",
    "named",
    metavar="NAME",
    help="Run a query that comes with losslake; .queries in the shell lists them.",
)
@click.option(
    "--param",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help='A $parameter of the query; numbers, true, false, null and "text" as in JSON, else text. A named query checks '
    "them, and has the analysis's defaults for most.",
)
@click.option("--memory", metavar="SIZE", help="Memory limit of the query, such as 4GB.")
@click.option("--timeout", metavar="TIME", help="How long a query may run, such as 30s or 10min.")
@engine_options
def sql(
    query: str | None,
    lake: str,
    experiment: str | None,
    file: Path | None,
    chosen: str | None,
    out: Path | None,
    named: str | None,
    parameters: tuple[str, ...],
    memory: str | None,
    timeout: str | None,
    engine: str,
    spark_master: str | None,
) -> None:
    """Ask the lake in SQL: one QUERY, a file, a named query, or a shell when none is given.

    Views: samples, runs, signals, traces, trace_points, scores, metrics, risk (a target's scores with key, label and
    group). Macros: phi, cross_entropy, lt_iqr, log_normal_density, log_normal_tail. Queries read the lake and nothing else, and change nothing. One that goes over
    --memory or --timeout ends with an error; in the shell the next one runs all the same.

    \b
    Examples:
      losslake sql --lake my-lake "from runs"
      losslake sql --lake my-lake --out worst.csv "
        select key, label, score from risk where experiment = 'cifar10' and analysis = 'lira' and member
        order by score desc limit 20"
      losslake sql --lake my-lake --query loss --param target=target --format csv
      losslake sql --lake my-lake --engine spark "select role, count(*) from runs group by role"
      losslake sql --lake my-lake
    """
    from ..format.text import parse_age
    from ..query.connection import connect
    from ..query.limits import StillRunning, ceiling_for
    from ..read.catalogue import listed_files
    from ..read.changes import read_again
    from .answers import Limits, answer_to, leave, print_answer
    from .interactive import run_shell
    from .named_queries import find_query, parse_parameters, ready

    if sum(given is not None for given in (query, file, named)) > 1:
        raise InvalidOption("give a query, --file or --query, not both")
    if file is not None:
        query = _text_of(file)
    bound = parse_parameters(parameters)
    known = None if named is None else find_query(named)
    opened = Lake.open(lake)
    wanted = format_of(out, chosen)
    if out is not None and wanted == "table":
        raise InvalidOption(
            "a table is for reading on the screen; choose --format csv, json or parquet for --out"
        )
    seconds = None if timeout is None else parse_age(timeout).total_seconds()
    if seconds == 0:
        raise InvalidOption("--timeout 0 leaves a query no time; write for example 30s")
    text = query if known is None else known.text
    if engine == "spark" and (text is None or memory is not None or seconds is not None):
        raise InvalidOption(
            "the shell, --memory and --timeout are DuckDB's; with --engine spark give a query, and limits to Spark"
        )
    if text is None and (bound or out is not None or wanted == "parquet"):
        raise InvalidOption(
            "--param, --out and Parquet are for a single query; give one, or --file or --query"
        )

    def ask() -> None:
        if engine == "spark" and text is not None:
            _ask_spark(opened, experiment, spark_master, text, known, bound, wanted, out)
            return
        with connect(opened, experiment, memory=memory) as connection, contextlib.ExitStack() as stack:
            limits = Limits(seconds, ceiling_for(connection))
            values = bound if known is None else stack.enter_context(ready(connection, known, bound))
            try:
                if text is None:
                    assert wanted != "parquet"
                    run_shell(connection, wanted, limits)
                elif out is None:
                    print_answer(connection, text, values, wanted, limits)
                else:
                    write_frame(answer_to(connection, text, values, limits), out, wanted)
            except StillRunning as error:
                leave(error)

    read_again(ask, lambda: listed_files(opened, experiment))


def _ask_spark(
    lake: Lake,
    experiment: str | None,
    master: str | None,
    text: str,
    known: NamedQuery | None,
    parameters: dict[str, Any],
    wanted: Format,
    out: Path | None,
) -> None:
    import duckdb
    import polars as pl

    from ..spark.connection import connect_spark
    from .answers import excerpt_of, print_excerpt
    from .named_queries import ready

    with connect_spark(lake, experiment, master=master) as connection, contextlib.ExitStack() as stack:
        if known is not None:
            parameters = stack.enter_context(ready(connection, known, parameters))
        answer = connection.sql(text, parameters)
    if out is None and wanted == "table":
        print_excerpt(excerpt_of(duckdb.from_arrow(answer)))
    else:
        write_frame(pl.DataFrame(answer), out, wanted)


def _text_of(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidOption(f"cannot read the query in {file}: {error}") from error
