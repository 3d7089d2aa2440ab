"""The table of runs: the committed ones, and those in the making as far as files and leases of their writers tell."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from ..errors import CorruptLake
from ..files import tokens
from ..format import paths
from ..format.records import Run
from ..format.text import age, took
from ..query.views import runs_table
from ..read.catalogue import Catalogue, listed_files, with_runs
from ..read.changes import check_unchanged, read_again
from ..write import leases
from .leftovers import what_became_of

_STAGED = re.compile(r"staging/experiment=([^/]+)/run=([^/]+)/[^/]+/(?:train|eval)-(\d+)\.arrow")
_SIGNALS = re.compile(r"signals/experiment=([^/]+)/run=([^/]+)/[^/]+\.parquet")

_COLUMNS = (
    *("experiment", "run", "role", "model", "seed", "epochs", "members", "train_accuracy", "test_accuracy"),
    *("seconds", "device", "created"),
)


def run_table(lake: Catalogue, experiment: str | None = None) -> pl.DataFrame:
    """One row a run: what the view ``runs`` says, its ``state`` and when it was last ``written``; times are UTC.

    A run in the making has a state such as ``collecting, epoch 7``, or ``killed, epoch 7``; nothing else of it is known before it commits.
    """
    experiments = [experiment] if experiment is not None else lake.experiments()
    # Before the committed ones: a run that commits in the meantime stands in both, and counts as committed.
    laid = {name: _laid(lake, name) for name in experiments}

    def read() -> list[Run]:
        listed = [with_runs(lake, name) for name in experiments]
        runs = [run for _, found in listed for run in found]
        check_unchanged(lake.files, [*(known for known, _ in listed), *runs])
        return runs

    runs = read_again(read, lambda: listed_files(lake, experiment))
    there: dict[str, set[str]] = {name: set() for name in experiments}
    for run in runs:
        there[run.experiment].add(run.run)
    committed = _committed(runs)
    rows = [
        (one.experiment, one.run, one.state, one.written)
        for name in experiments
        for one in _begun(lake, name, laid[name], there[name])
    ]
    schema = {name: committed.schema[name] for name in ("experiment", "run", "state", "written")}
    return pl.concat([committed, pl.DataFrame(rows, schema=schema, orient="row")], how="diagonal")


def _committed(runs: Iterable[Run]) -> pl.DataFrame:
    # Not by an engine, which would take as long to start as all else here.
    told = pl.DataFrame(runs_table(runs)).with_columns(
        pl.col("train_accuracy", "test_accuracy").round(4, mode="half_away_from_zero"),
        pl.col("seconds").round(1, mode="half_away_from_zero"),
        pl.col("created").dt.cast_time_unit("us"),
        pl.lit("committed").alias("state"),
    )
    return told.select(*_COLUMNS, "state", pl.col("created").alias("written")).sort(
        "experiment", "role", "run"
    )


def for_reading(frame: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """The same with ages and durations in place of times and seconds, short names, and without columns that say nothing here."""
    ages = [age(now - written) for written in frame["written"]]
    durations = [None if seconds is None else took(seconds) for seconds in frame["seconds"]]
    dropped = [
        name
        for name in frame.columns
        if name not in ("run", "state") and frame[name].null_count() == len(frame)
    ]
    if frame["experiment"].n_unique() <= 1:
        dropped.append("experiment")
    return (
        frame.with_columns(pl.Series("age", ages, pl.String), pl.Series("seconds", durations, pl.String))
        .drop([*dropped, "seed", "device", "created", "written"], strict=False)
        .rename({"train_accuracy": "train", "test_accuracy": "test", "seconds": "duration"}, strict=False)
    )


@dataclass(frozen=True)
class RunningRun:
    """A run that a writer has begun and not committed; ``epoch`` is the latest recorded one, None before any.

    ``signals`` says whether the finished model's answers are being written, ``written`` when the latest file was.
    ``killed`` says that its writer is no more. Of a writer on another machine only the age tells.
    """

    experiment: str
    run: str
    epoch: int | None
    signals: bool
    written: datetime
    killed: bool

    @property
    def state(self) -> str:
        """In words, such as ``collecting, epoch 7`` or ``killed, epoch 7``."""
        epoch = "" if self.epoch is None else f", epoch {self.epoch}"
        return f"{'killed' if self.killed else 'collecting'}{epoch}{', signals' if self.signals else ''}"


def running(lake: Catalogue, experiments: Iterable[str]) -> list[RunningRun]:
    """The runs in the making, by experiment and name.

    A run shows from its first recorded epoch on, or where it records none from its first signals on. Of its writers
    that one counts which is not known to be gone, and of several the latest.
    """
    found = []
    for experiment in experiments:
        # What lies there is noted first: a run that commits in the meantime must not look like one in the making.
        laid, folder = _laid(lake, experiment), f"runs/experiment={experiment}"
        committed = {path[len(folder) + 1 : -len(".json")] for path in lake.files.list(folder, ".json")}
        found += _begun(lake, experiment, laid, committed)
    return found


def _laid(lake: Catalogue, experiment: str) -> list[str]:
    """Where files of runs in the making are, and signals of committed ones."""
    folders = [f"{folder}/experiment={experiment}" for folder in ("staging", "signals")]
    return [path for listed in lake.files.each(lake.files.list, folders) for path in listed]


def _begun(
    lake: Catalogue, experiment: str, laid: Iterable[str], committed: Collection[str]
) -> list[RunningRun]:
    """The runs in the making by files that were ``laid`` down before those ``committed`` were listed."""
    by_writer: dict[tuple[str, str | None], list[str]] = {}
    for path in laid:
        match = _STAGED.fullmatch(path) or _SIGNALS.fullmatch(path)
        if match and match[2] not in committed:
            by_writer.setdefault((match[2], tokens.writer_of(path)), []).append(path)
    if not by_writer:
        return []
    # After the files: a writer that has none of its own left by now had its lease when they were listed.
    states = leases.states(lake.files)
    begun: dict[str, list[RunningRun]] = {}
    for (run, _), own in by_writer.items():
        gone = what_became_of(own[0], states) in ("killed", "ended")
        one = _running(lake, experiment, run, own, killed=gone)
        if one:
            begun.setdefault(run, []).append(one)
    return [max(begun[run], key=lambda one: (not one.killed, one.written)) for run in sorted(begun)]


def _running(
    lake: Catalogue, experiment: str, run: str, files: list[str], *, killed: bool
) -> RunningRun | None:
    """What the files of a run's writer say; None where they went while one looked, or the run was committed."""
    try:
        written = max(lake.files.modified(path) for path in files)
    except CorruptLake:
        if lake.files.exists(paths.run_manifest(experiment, run)):
            return None
        left = [path for path in files if lake.files.exists(path)]
        return _running(lake, experiment, run, left, killed=killed) if left and left != files else None
    epochs = [int(match[3]) for path in files if (match := _STAGED.fullmatch(path))]
    signals = any(_SIGNALS.fullmatch(path) for path in files)
    return RunningRun(
        experiment, run, max(epochs, default=None), signals, datetime.fromtimestamp(written, UTC), killed
    )
