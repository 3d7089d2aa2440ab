"""The runs of a lake as a table: those that are committed, and those in the making."""

from __future__ import annotations

from datetime import datetime

import polars as pl

from ..ages import age
from ..lake import Lake
from .running import running

_COMMITTED = """
    select experiment, run, role, model, seed, epochs, members, round(train_accuracy, 4) as train_accuracy,
           round(test_accuracy, 4) as test_accuracy, round(seconds, 1) as seconds, device, created,
           'committed' as state, created as written
    from runs order by experiment, role, run
"""


def run_table(lake: Lake, experiment: str | None = None) -> pl.DataFrame:
    """One row a run: what the view ``runs`` says, its ``state`` and when it was last ``written``.

    A run in the making has a state such as ``collecting, epoch 7``, or ``killed, epoch 7``; nothing else of it is known before it commits.
    """
    # Before the committed ones: a run that commits in the meantime stands in both, and counts as committed.
    begun = running(lake, [experiment] if experiment is not None else lake.experiments())
    committed = lake.sql(_COMMITTED, experiment=experiment)
    there = set(committed.select("experiment", "run").iter_rows())
    rows = [
        {"experiment": one.experiment, "run": one.run, "state": one.state, "written": one.written}
        for one in begun
        if (one.experiment, one.run) not in there
    ]
    schema = {name: committed.schema[name] for name in ("experiment", "run", "state", "written")}
    return pl.concat([committed, pl.DataFrame(rows, schema=schema)], how="diagonal")


def for_reading(frame: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """The same with ages in place of times, short names, and without columns that say nothing here."""
    ages = [age(now - written) for written in frame["written"]]
    dropped = [
        name
        for name in frame.columns
        if name not in ("run", "state") and frame[name].null_count() == len(frame)
    ]
    if frame["experiment"].n_unique() <= 1:
        dropped.append("experiment")
    return (
        frame.with_columns(pl.Series("age", ages, pl.String))
        .drop([*dropped, "seed", "device", "created", "written"], strict=False)
        .rename({"train_accuracy": "train", "test_accuracy": "test"}, strict=False)
    )
