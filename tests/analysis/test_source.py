"""What a source answers when runs change between two questions: the rows of the runs that it opened, or why not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from losslake.analysis.scoring.catalogue import open_source
from losslake.analysis.source import Source
from losslake.store.errors import NotFound
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.remove import remove

RUNS, N = 7, 24


def fleet(lake_of: Callable[..., Lake]) -> Lake:
    rng = np.random.default_rng(0)
    keep = rng.random((RUNS, N)) < 0.5
    return lake_of(keep, rng.normal(0, 1, keep.shape))


def collect_anew(lake: Lake) -> None:
    ids = np.arange(N)
    with lake.write_run("tests", "run-0003", members=ids % 2 == 0) as writer:
        writer.append_signals(ids, ids * 0, ids % 2, loss=np.ones(N), phi=np.ones(N))
        writer.commit(RunInfo(role="shadow"))


def by_rows(source: Source) -> pl.DataFrame:
    columns = ["sample_id", "member", "phi"]
    found = source.rows_of_each(source.runs, "signals", columns)
    named = [
        frame.select(pl.lit(run.run).alias("run"), *columns)
        for run, frame in zip(source.runs, found, strict=True)
    ]
    return pl.concat(named).sort("run", "sample_id")


def by_sql(source: Source) -> pl.DataFrame:
    return source.sql("select run, sample_id, member, phi from signals order by run, sample_id")


@pytest.mark.parametrize("again", [False, True], ids=["removed", "collected anew"])
@pytest.mark.parametrize("second", [by_rows, by_sql])
@pytest.mark.parametrize("first", [by_rows, by_sql])
def test_no_answer_is_of_other_runs_than_the_one_before(
    lake_of: Callable[..., Lake],
    first: Callable[[Source], pl.DataFrame],
    second: Callable[[Source], pl.DataFrame],
    again: bool,
) -> None:
    lake = fleet(lake_of)
    with open_source(lake, "tests", "run-0000") as source:
        before = first(source)
        remove(lake, "tests", ["run-0003"])
        if again:
            collect_anew(lake)
        if first is second is by_rows:  # kept
            assert second(source).equals(before)
            return
        for _ in range(2):
            with pytest.raises(NotFound, match=r"run-0003.*removed or collected anew while it was analysed"):
                second(source)
    with open_source(lake, "tests", "run-0000") as source:
        assert second(source)["run"].n_unique() == RUNS - (not again)


@pytest.mark.parametrize("second", [by_rows, by_sql])
def test_rows_that_were_moved_are_found(
    lake_of: Callable[..., Lake], second: Callable[[Source], pl.DataFrame]
) -> None:
    lake = fleet(lake_of)
    with open_source(lake, "tests", "run-0000") as source:
        before = by_sql(source)
        compact(lake, "tests", least=2)
        collected = {run.run: run.created for run in source.runs}
        assert second(source).equals(before)
        assert {run.run: run.created for run in source.runs} == collected
