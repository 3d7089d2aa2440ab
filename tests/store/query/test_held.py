"""Small tables that lie in many files are read once, and say the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from losslake.analysis.scoring.catalogue import open_source
from losslake.store.format.records import Run
from losslake.store.lake import Lake
from losslake.store.query import held, scan
from losslake.store.query.kept import Kept, kept_rows_of_each, place_of
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.forget import forget

RUNS, N = 12, 30
COLUMNS = ["sample_id", "query", "member", "phi", "loss", "correct"]


@pytest.fixture
def lake(lake_of: Callable[..., Lake], monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setattr(held, "FILES", 4)
    rng = np.random.default_rng(0)
    keep = rng.random((RUNS, N)) < 0.5
    logits = rng.normal(0, 2, (RUNS, N, 3)).astype(np.float16)
    return lake_of(keep, logits=logits, traces={"loss": rng.random((N, 4))})


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How many files Polars was asked for, and how often."""
    seen: Counter[int] = Counter()
    real = scan._read

    def counted(lake: Lake, paths: list[str], *given: Any) -> pl.DataFrame:
        seen[len(paths)] += 1
        return real(lake, paths, *given)

    monkeypatch.setattr(scan, "_read", counted)
    return seen


def rows(store: Kept, lake: Lake, runs: list[Run], columns: list[str]) -> list[pl.DataFrame]:
    return kept_rows_of_each(store, lake, runs, "signals", columns, RUNS * N)


def test_rows_are_those_of_the_files_whichever_runs_and_columns_are_asked_for(
    lake: Lake, read: Counter[int]
) -> None:
    runs, store = lake.runs("tests"), Kept(1 << 20)
    some = [
        runs,
        runs[1:],
        runs[:-1],
        [run for run in runs if run.run != "run-0005"],
        runs[::2],
        runs[3:8],
        runs[::-1],
        runs[:2],
        [runs[4], runs[4], *runs[3:8]],
    ]
    kept = [
        [rows(store, lake, chosen, columns) for columns in (COLUMNS[:3], COLUMNS, ["logits"])]
        for chosen in some
    ]
    assert read == {RUNS: 2}  # all columns of numbers, and the lists
    for chosen, found in zip(some, kept, strict=True):
        for columns, frames in zip((COLUMNS[:3], COLUMNS, ["logits"]), found, strict=True):
            plain = scan.rows_of_each(lake, chosen, "signals", columns)
            assert all(one.equals(other) for one, other in zip(frames, plain, strict=True))


def test_what_is_forgotten_or_moved_is_read_anew(lake: Lake) -> None:
    store = Kept(1 << 20)
    before = rows(store, lake, lake.runs("tests"), COLUMNS)
    forget(lake, "tests", [7])
    after = rows(store, lake, lake.runs("tests"), COLUMNS)
    for old, new in zip(before, after, strict=True):
        assert new.equals(old.filter(pl.col("sample_id") != 7))
    compact(lake, "tests", least=2)
    for old, new in zip(after, rows(store, lake, lake.runs("tests"), COLUMNS), strict=True):
        assert new.equals(old)


@pytest.mark.parametrize("table", ["signals", "traces"])
def test_queries_say_the_same_from_memory(lake: Lake, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held_of: list[str] = []
    real = held.hold

    def hold(connection: Any, runs: Any, name: str) -> None:
        real(connection, runs, name)
        held_of.append(name)

    monkeypatch.setattr("losslake.analysis.queries.hold", hold)
    monkeypatch.setattr(held, "FILES", 1)
    text = f"from {table} order by experiment, run, sample_id"
    with open_source(lake, "tests", "run-0000") as source:
        first = source.sql(text)
        points = source.sql("from trace_points order by sample_id, epoch")
        assert held_of == []
        assert source.sql(text).equals(first)
        assert held_of == [table]
        assert source.sql(text).equals(first)
        assert source.sql("from trace_points order by sample_id, epoch").equals(points)
        assert held_of == [table]


@pytest.mark.parametrize("bound", ["FILES", "ROWS", "BYTES"])
def test_what_is_large_or_lies_in_few_files_is_not_held(
    lake: Lake, read: Counter[int], monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(held, bound, 1000 if bound == "FILES" else 10)
    store = Kept(1 << 20)
    rows(store, lake, lake.runs("tests"), COLUMNS[:3])
    assert store.find(("signals", "sample_id")) is not None
    assert store.find(("signals", "phi", place_of(lake.runs("tests")[0], "signals"))) is None
    assert read == {RUNS: 1}
