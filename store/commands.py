"""Commands about the lake itself: ``losslake lake ...``."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .command_options import choose_experiment, experiment_option, lake_option
from .errors import InvalidOption
from .format.outgoing import FORMATS, printable
from .format.text import bytes_in_words, counted
from .lake import Lake
from .read.catalogue import with_runs
from .shell.output import format_of, write_frame

if TYPE_CHECKING:
    from .upkeep.remove import Removed


@click.group(name="lake")
def lake_group() -> None:
    """Look after a lake: what it holds, which runs, whether it is whole; remove, forget, publish."""


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
        experiment, runs = with_runs(opened, name)
        roles = Counter(run.info.role for run in runs)
        size = sum(file.bytes for files in (experiment.files, *(run.files for run in runs)) for file in files)
        counts = ", ".join(f"{count} {role}" for role, count in sorted(roles.items())) or "no runs"
        dataset = experiment.dataset.get("name", "")
        click.echo(
            f"  {name}: {experiment.samples} samples{f' of {printable(str(dataset))}' if dataset else ''}"
            f"{f' ({len(experiment.forgotten)} of them forgotten)' if experiment.forgotten else ''}; {counts}; {bytes_in_words(size)}"
        )


@lake_group.command()
@lake_option
@experiment_option
@click.option("--format", "chosen", type=click.Choice(FORMATS), help="Default: a table.")
def runs(lake: str, experiment: str | None, chosen: str | None) -> None:
    """The runs: role, model, members, accuracies (train, test), duration, state, and age since the last write.

    Committed ones, and those in the making, as ``collecting, epoch 7``: a run shows once its first epoch is recorded, one
    that records no epochs once its first signals are. One whose collector was killed is shown as ``killed, epoch 7``; of a
    collector on another machine only the age tells. CSV, JSON and Parquet have all columns, with times (UTC) and seconds.

    \b
    Example:
      losslake lake runs --lake my-lake --experiment digits --format csv
    """
    from .upkeep.runs import for_reading, run_table

    wanted = format_of(None, chosen)
    frame = run_table(Lake.open(lake), experiment)
    write_frame(for_reading(frame, datetime.now(UTC)) if wanted == "table" else frame, None, wanted)


@lake_group.command()
@lake_option
def verify(lake: str) -> None:
    """Check every manifest and every file it lists; name leftovers, and what became of their writers.

    Leftovers are files that no manifest names: 'losslake lake gc' removes those of writers that are gone. Of a published lake it
    says where its Delta tables lack what is committed, or name what is not. Exit code 1 when anything is damaged, something is
    left of a sample that was forgotten or a run that was removed, or a table names what it should not.

    \b
    Example:
      losslake lake verify --lake my-lake
    """
    from .upkeep.verify import verify as check

    result = check(Lake.open(lake))
    for sentence in result.damage:
        click.echo(f"damaged: {printable(sentence)}")
    for sentence in result.remembered:
        click.echo(f"not forgotten: {printable(sentence)}")
    for path in result.leftovers:
        click.echo(f"leftover: {printable(path)} (its writer: {printable(result.writers[path])})")
    for sentence in (*result.misnamed, *result.behind):
        click.echo(f"published: {printable(sentence)}")
    click.echo(
        f"{result.manifests} manifests, {result.files} files, {bytes_in_words(result.bytes)}: "
        f"{len(result.damage)} damaged, {len(result.leftovers)} leftover{'' if len(result.leftovers) == 1 else 's'}"
    )
    if "killed" in (result.writers[path] for path in result.leftovers):
        click.echo("note: losslake lake gc removes what killed writers left", err=True)
    if result.damage or result.remembered or result.misnamed:
        raise SystemExit(1)


@lake_group.command()
@lake_option
@click.option(
    "--older-than", metavar="AGE", default="1d", show_default=True, help="Such as 30min, 12h, 1d, 0."
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--checkpoints", is_flag=True, help="Also those that a stopped run could be gone on with.")
def gc(lake: str, older_than: str, dry_run: bool, checkpoints: bool) -> None:
    """Remove what killed writers left, and what was replaced a while ago.

    Files of a writer at work stay, whatever their age. A writer on this machine is known to be at work or not; one on
    another machine renews its lease every five minutes, and counts as gone when its last sign is older than --older-than,
    and than half an hour in any case. What was replaced since then stays as well: somebody may be reading it.

    \b
    Examples:
      losslake lake gc --lake my-lake --dry-run
      losslake lake gc --lake my-lake --older-than 12h
    """
    from .format.text import parse_age
    from .upkeep.gc import collect_garbage

    done = collect_garbage(
        Lake.open(lake), older_than=parse_age(older_than), dry_run=dry_run, checkpoints=checkpoints
    )
    for path in done.removed:
        click.echo(f"{'would remove' if dry_run else 'removed'}: {printable(path)}")
    for reason, count in done.kept.items():
        click.echo(f"kept: {count} {reason}")
    click.echo(f"{len(done.removed)} files, {bytes_in_words(done.bytes)}")
    for sentence in done.damaged:
        click.echo(f"note: {sentence}", err=True)


@lake_group.command()
@lake_option
@click.option("--experiment", metavar="NAME", help="Default: every experiment.")
@click.option(
    "--below",
    metavar="MB",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Leave larger files.",
)
@click.option(
    "--least",
    metavar="FILES",
    type=click.IntRange(min=2),
    default=16,
    show_default=True,
    help="Do nothing where fewer files are that small.",
)
def compact(lake: str, experiment: str | None, below: int, least: int) -> None:
    """Let the small files of many runs become few, so that queries over all of them are faster.

    What queries and analyses find stays the same. It can be stopped at any time, runs beside collectors and readers, and
    does nothing where there is nothing to gain. The old files stay until 'losslake lake gc' removes them. Exit code 1 when
    it met damaged files, which it leaves as they are.

    \b
    Example:
      losslake lake compact --lake my-lake --experiment digits
    """
    from .upkeep.compact import compact as share_files

    opened = Lake.open(lake)
    damaged = False
    for name in opened.experiments() if experiment is None else [experiment]:
        done = share_files(
            opened, name, small=below * 1_000_000, least=least, told=_told(f"compact {name}", "files")
        )
        if done.files_before:
            click.echo(
                f"{name}: {done.files_before} files of {done.runs} runs, {bytes_in_words(done.bytes_before)}, became "
                f"{done.files_after}, {bytes_in_words(done.bytes_after)}"
            )
        else:
            click.echo(f"{name}: nothing to gain")
        for sentence in done.left_out:
            click.echo(f"damaged: {printable(sentence)}")
            damaged = True
    if damaged:
        raise SystemExit(1)


@lake_group.command()
@lake_option
@experiment_option
@click.option(
    "--sample", "samples", metavar="ID", type=int, multiple=True, help="A sample_id; can be given many times."
)
@click.option("--key", "keys", metavar="KEY", multiple=True, help="A sample by its key in the data set.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
def forget(
    lake: str, experiment: str | None, samples: tuple[int, ...], keys: tuple[str, ...], dry_run: bool
) -> None:
    """Remove what an experiment holds of samples, for good: rows of every run, picture, label, key, group, columns.

    Old files are deleted at once; where many runs have small ones the new ones are few, which they share, as after
    'losslake lake compact'. Results that were computed with the samples are removed whole; compute them again. The
    experiment keeps their numbers, with the pool 'forgotten' and nothing else, and when they were forgotten; no run may
    train on them any more. When it was stopped, run it again: without --sample it completes what was begun.

    What it cannot do: models that were trained keep what they learned, and other runs' rows what these models say. Exports, reports and score
    files that were written before, backups, and the data set itself are as they were: delete them yourself. Other experiments with a sample of the
    same key keep it, and are named with the command for them. Metrics that somebody copied stay. A file system may keep blocks of deleted files.
    The data set must still hold the record to collect into this experiment; to go on without it, make another one with --without.

    \b
    Examples:
      losslake lake forget --lake my-lake --experiment digits --sample 17 --sample 203 --dry-run
      losslake lake forget --lake my-lake --experiment digits --key train/17
    """
    from .upkeep.elsewhere import told_elsewhere
    from .upkeep.forget import forget as remove_rows

    opened = Lake.open(lake)
    done = remove_rows(opened, choose_experiment(opened, experiment), samples, keys=keys, dry_run=dry_run)
    counts = ", ".join(f"{name} {count}" for name, count in done.rows.items()) or "nothing"
    named = f" of {len(done.samples)} samples" if done.samples else ""
    click.echo(f"{done.experiment}: {'would remove' if dry_run else 'removed'}{named}: {counts}")
    if done.completed:
        click.echo("completed what was begun before; what a key named then cannot be told any more")
    for path in done.pending:
        click.echo(f"pending: {path}, of a writer at work, which leaves them out when it commits")
    for sentence in map(printable, told_elsewhere(lake, done.elsewhere)):
        click.echo(sentence)
    if not dry_run:
        click.echo(
            "note: models keep what they learned; exports, reports, backups and the data set itself are not in the lake",
            err=True,
        )


@lake_group.command()
@lake_option
@click.option(
    "--experiment",
    metavar="NAME",
    required=True,
    help="The experiment, which goes whole unless runs are named.",
)
@click.option("--run", "runs", metavar="NAME", multiple=True, help="Only this run; can be given many times.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
def remove(lake: str, experiment: str, runs: tuple[str, ...], yes: bool, dry_run: bool) -> None:
    """Remove runs, or an experiment with all that is in it, for good. It asks before, unless there is --yes.

    What hangs on a run goes too: its traces, signals, checkpoints, and every result of the experiment (scores, metrics),
    as it was computed with the run or is stale without it; compute them again. Membership designs stay: 'losslake collect
    shadows' trains a removed shadow model again. Runs that come from another (distilled models, duals) have to be named with it.

    It refuses while anybody writes a run of the experiment. When it was stopped, run it again: until then the experiment shows
    as removed, or its runs as they were. Reports, exports and score files that were written before are not in the lake.

    \b
    Examples:
      losslake lake remove --lake my-lake --experiment digits --run shadow-0003 --run shadow-0004
      losslake lake remove --lake my-lake --experiment first-try --yes
    """
    from .upkeep.remove import remove as take_out

    opened, named = Lake.open(lake), runs or None
    if not (yes or dry_run):
        planned = take_out(opened, experiment, named, dry_run=True)
        try:
            click.confirm(f"remove {_what_goes(planned)}?", abort=True, err=True)
        except click.Abort:
            raise InvalidOption(
                "nothing was removed: not confirmed; --yes removes without a question"
            ) from None
    done = take_out(opened, experiment, named, dry_run=dry_run)
    click.echo(f"{'would remove' if dry_run else 'removed'}: {_what_goes(done)}")
    if done.completed:
        click.echo("completed what was begun before")


def _what_goes(removed: Removed) -> str:
    """An experiment or runs in words, with what hangs on them."""
    names = ", ".join([*removed.runs[:8], "..."] if len(removed.runs) > 8 else removed.runs)
    runs = counted(len(removed.runs), "run") + (f" ({names})" if names else "")
    parts = [runs, counted(removed.results, "result"), bytes_in_words(removed.bytes)]
    if removed.samples is not None:
        return f"experiment {removed.experiment}: {', '.join([counted(removed.samples, 'sample'), *parts])}"
    return f"of experiment {removed.experiment}: {', '.join(parts)}"


@lake_group.command()
@lake_option
def migrate(lake: str) -> None:
    """Bring a lake that an older losslake wrote to today's format.

    Older lakes can be read as they are; this is needed to collect into them and to compact them. Older versions of
    losslake cannot open the lake afterwards: end their collectors first. It can be stopped at any time and done again.

    \b
    Example:
      losslake lake migrate --lake my-lake
    """
    from .format.schema import FORMAT
    from .upkeep.migrate import migrate as bring_up_to_date

    count = bring_up_to_date(Lake.open(lake), told=_told("migrate", "manifests"))
    click.echo(f"{count} manifests brought to format {FORMAT}" if count else f"format {FORMAT} already")


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
    from .upkeep.export import export as write_export

    rows = write_export(Lake.open(lake), file, experiment, views=views, force=force)
    counted = ", ".join(f"{name} {count}" for name, count in rows.items())
    click.echo(f"{file}: {counted} rows")
    if views:
        click.echo(
            f"note: {file} shows what is committed now, in the files of {lake}: it must stay there, and later runs "
            "need another export",
            err=True,
        )


@lake_group.command()
@lake_option
@click.option(
    "--keep/--no-keep",
    default=None,
    help="Whether every commit brings the tables up to date from now on. Default: as it is, and at first not.",
)
@click.option("--drop", is_flag=True, help="Remove the tables, and nothing of the lake itself.")
def publish(lake: str, keep: bool | None, drop: bool) -> None:
    """Let other engines read the lake as Delta Lake tables: samples, classes, runs, signals, traces, scores, metrics in LAKE/delta/.

    The tables name the lake's own Parquet files, by links beside their logs, and no row is copied. Where no file has the rows as a
    Delta table can name them a copy is written: classes, runs and metrics, which lie in manifests; columns of types that Delta lacks, or that two
    experiments have in two types; runs that an older losslake wrote, until 'losslake lake compact' has put them into shared files.

    Readers see committed runs and nothing else: what was committed when the tables were published last. compact, forget, remove and gc
    publish a published lake anew; collect and analyze do with --keep. Versions from before something was removed or replaced
    cannot be read any more. It can be stopped at any time and done again, and many may publish at once. Lakes in object stores are refused.

    \b
    Examples:
      losslake lake publish --lake my-lake
      losslake lake publish --lake my-lake --keep
      losslake lake publish --lake my-lake --drop
    """
    from .delta.publish import publish as bring_up_to_date
    from .delta.publish import unpublish

    if drop:
        if keep is not None:
            raise InvalidOption("--drop removes the tables: leave --keep and --no-keep out")
        click.echo(f"{counted(unpublish(Lake.open(lake)), 'file')} removed")
        return
    opened = Lake.open(lake)
    for each in bring_up_to_date(opened, keep=keep):
        copied = f" ({counted(each.copies, 'copy', 'copies')})" if each.copies else ""
        click.echo(
            f"{each.table}: {counted(each.rows, 'row')} in {counted(each.files, 'file')}{copied}; version {each.version}"
        )


def _told(what: str, unit: str) -> Callable[[int, int], None]:
    """Says on standard error now and then how far work is that takes long."""
    last = time.monotonic()

    def told(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 2:
            last = time.monotonic()
            click.echo(f"{what}: {done}/{total} {unit}", err=True)

    return told
