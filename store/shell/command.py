"""The command ``losslake sql``: one query, a file, a named query, or a shell."""

from __future__ import annotations

from pathlib import Path

import click

from ..command_options import engine_options, experiment_option, lake_option
from ..format.outgoing import FORMATS
from . import apart
from .asked import Asked


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

    Views: samples, classes, runs, signals, traces, trace_points, scores, metrics, risk (a target's scores with key, label, its name and
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
    single = any(given is not None for given in (query, file, named))
    asked = Asked(
        query, lake, experiment, file, chosen, out, named, parameters, memory, timeout, engine, spark_master
    )

    def work() -> None:
        from .ask import ask  # all that the engine needs, in the child alone

        ask(asked, apart.serving())

    child = apart.fork() if engine != "spark" and apart.possible() else None
    if child is None:
        work()
    elif single:
        apart.wait(child)
    else:
        from .interactive import run_shell_apart

        run_shell_apart(child, lambda: apart.fork() or apart.carry_out(work))
