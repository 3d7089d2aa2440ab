"""Commands about the lake itself: ``losslake lake ...`` and ``losslake sql``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .command_options import experiment_option, lake_option
from .errors import InvalidOption
from .lake import Lake
from .output import FORMATS, format_of, show, write_frame


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
    """The committed runs: role, model, members, accuracies, seconds.

    \b
    Example:
      losslake lake runs --lake my-lake --experiment digits --format csv
    """
    query = """
        select experiment, run, role, model, seed, epochs, members, round(train_accuracy, 4) as train_accuracy,
               round(test_accuracy, 4) as test_accuracy, round(seconds, 1) as seconds, device, created
        from runs order by experiment, role, run
    """
    frame = Lake.open(lake).sql(query, experiment=experiment)
    write_frame(frame, None, format_of(None, chosen))


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
@click.option("--memory", metavar="SIZE", help="Memory limit of the query, such as 4GB.")
def sql(
    query: str | None,
    lake: str,
    experiment: str | None,
    file: Path | None,
    chosen: str | None,
    out: Path | None,
    memory: str | None,
) -> None:
    """Ask the lake in SQL: one QUERY, a file, or a shell when neither is given.

    Views: samples, runs, signals, traces, trace_points, scores, metrics. Macros: phi, cross_entropy, lt_iqr,
    log_normal_density, log_normal_tail. Queries read the lake and nothing else.

    \b
    Examples:
      losslake sql --lake my-lake "from runs"
      losslake sql --lake my-lake --out worst.csv "
        select sample_id, score from scores where analysis = 'lira' and member order by score desc limit 20"
      losslake sql --lake my-lake
    """
    from .engine_errors import engine_errors
    from .views import query_frame, run_query

    if query is not None and file is not None:
        raise InvalidOption("give a query or --file, not both")
    if file is not None:
        query = _text_of(file)
    opened = Lake.open(lake)
    wanted = format_of(out, chosen)
    if out is not None and wanted == "table":
        raise InvalidOption(
            "a table is for reading on the screen; choose --format csv, json or parquet for --out"
        )
    with opened.connect(experiment, memory=memory) as connection:
        if query is None:
            from .shell import run_shell

            run_shell(connection)
        elif wanted == "table":
            with engine_errors(connection):
                text = show(run_query(connection, query))
            click.echo(text)
        else:
            write_frame(query_frame(connection, query), out, wanted)


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
