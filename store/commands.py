"""Commands about the lake itself: ``losslake lake ...`` and ``losslake sql``."""

from __future__ import annotations

import contextlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .command_options import experiment_option, lake_option
from .errors import InvalidOption
from .lake import Lake
from .output import FORMATS, Format, format_of, write_frame

if TYPE_CHECKING:
    import duckdb


@click.group(name="lake")
def lake_group() -> None:
    """Look at a lake: what it holds, which runs, whether it is whole."""


@lake_group.command()
@lake_option
def info(lake: str) -> None:
    """Experiments, samples, runs and bytes.

    \b
    Example:
      losslake lake info --lake my-lake
    """
    from collections import Counter

    opened = Lake.open(lake)
    click.echo(f"lake {opened.path}")
    for name in opened.experiments():
        experiment = opened.experiment(name)
        runs = opened.runs(name)
        roles = Counter(run.info.role for run in runs)
        size = sum(file.bytes for files in (experiment.files, *(run.files for run in runs)) for file in files)
        counts = ", ".join(f"{count} {role}" for role, count in sorted(roles.items())) or "no runs"
        dataset = experiment.dataset.get("name", "")
        click.echo(
            f"  {name}: {experiment.samples} samples{f' of {dataset}' if dataset else ''}; {counts}; {_bytes(size)}"
        )


@lake_group.command()
@lake_option
@experiment_option
@click.option("--format", "chosen", type=click.Choice(FORMATS), help="Default: a table.")
def runs(lake: str, experiment: str | None, chosen: str | None) -> None:
    """The runs: role, model, members, accuracies (train, test), seconds, state, and age since the last write.

    Committed ones, and those in the making, as ``collecting, epoch 7``: a run shows once its first epoch is recorded, one
    that records no epochs once its first signals are. A killed collector leaves the same trace as one at work; its age
    goes on growing. CSV, JSON and Parquet have all columns, with times.

    \b
    Example:
      losslake lake runs --lake my-lake --experiment digits --format csv
    """
    from .run_table import for_reading, run_table

    wanted = format_of(None, chosen)
    frame = run_table(Lake.open(lake), experiment)
    write_frame(for_reading(frame, datetime.now(UTC)) if wanted == "table" else frame, None, wanted)


@lake_group.command()
@lake_option
def verify(lake: str) -> None:
    """Check every manifest and every file it lists; name leftovers of runs that never committed.

    Exit code 1 when anything is damaged.

    \b
    Example:
      losslake lake verify --lake my-lake
    """
    from .verify import verify as check

    result = check(Lake.open(lake))
    for sentence in result.damage:
        click.echo(f"damaged: {sentence}")
    for path in result.leftovers:
        click.echo(f"leftover: {path}")
    click.echo(
        f"{result.manifests} manifests, {result.files} files, {_bytes(result.bytes)}: "
        f"{len(result.damage)} damaged, {len(result.leftovers)} leftovers"
    )
    if result.damage:
        raise SystemExit(1)


@lake_group.command()
@click.argument("file", type=click.Path(path_type=Path))
@lake_option
@experiment_option
@click.option("--views", is_flag=True, help="Views over the lake's files in place of copies of their rows.")
@click.option("--force", is_flag=True, help="Replace the file where it exists.")
def export(file: Path, lake: str, experiment: str | None, views: bool, force: bool) -> None:
    """Write a DuckDB database FILE with the lake's views, for DBeaver, the DuckDB CLI and notebooks.

    It holds copies of all rows as tables (of every experiment, unless one is named) and the macros. With --views it holds
    views over the lake's Parquet files instead: small, and only of use where the lake stays in its place. DuckDB
    1.2 or newer opens the file, with --views 1.3. Either way it shows the lake as it is now; what is collected later
    needs another export.

    \b
    Examples:
      losslake lake export lake.duckdb --lake my-lake
      losslake lake export lake.duckdb --lake my-lake --views --force
    """
    from .export import export as write_export

    rows = write_export(Lake.open(lake), file, experiment, views=views, force=force)
    counted = ", ".join(f"{name} {count}" for name, count in rows.items())
    click.echo(f"{file}: {counted} rows")
    if views:
        click.echo(
            f"note: {file} shows what is committed now, in the files of {lake}: it must stay there, and later runs "
            "need another export",
            err=True,
        )


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
    help='A $parameter of the query; numbers, true, false, null and "text" as in JSON, else text.',
)
@click.option("--memory", metavar="SIZE", help="Memory limit of the query, such as 4GB.")
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
) -> None:
    """Ask the lake in SQL: one QUERY, a file, a named query, or a shell when none is given.

    Views: samples, runs, signals, traces, trace_points, scores, metrics. Macros: phi, cross_entropy, lt_iqr,
    log_normal_density, log_normal_tail. Queries read the lake and nothing else.

    \b
    Examples:
      losslake sql --lake my-lake "from runs"
      losslake sql --lake my-lake --out worst.csv "
        select sample_id, score from scores where analysis = 'lira' and member order by score desc limit 20"
      losslake sql --lake my-lake --query loss --param target=target --format csv
      losslake sql --lake my-lake
    """
    from .answers import print_answer
    from .named_queries import find_query, parse_parameters, ready
    from .patience import wait_for
    from .views import query_frame

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
    with opened.connect(experiment, memory=memory) as connection, contextlib.ExitStack() as stack:
        if known is not None:
            stack.enter_context(ready(connection, known, bound))
            query = known.text
        if query is None:
            _shell(connection, wanted, bound, out)
        elif out is None:
            print_answer(connection, query, bound, wanted)
        else:
            text = query
            write_frame(wait_for(connection, lambda: query_frame(connection, text, bound)), out, wanted)


def _shell(
    connection: duckdb.DuckDBPyConnection, wanted: Format, parameters: dict[str, Any], out: Path | None
) -> None:
    from .shell import run_shell

    if parameters or out is not None or wanted == "parquet":
        raise InvalidOption(
            "--param, --out and Parquet are for a single query; give one, or --file or --query"
        )
    run_shell(connection, wanted)


def _text_of(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidOption(f"cannot read the query in {file}: {error}") from error


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
