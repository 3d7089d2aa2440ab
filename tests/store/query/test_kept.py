"""What was read once and is kept: the same rows, read no second time, within the bytes that it may take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from losslake.analysis.attacks import logits
from losslake.analysis.attacks.each_run import attack_each
from losslake.analysis.scoring.catalogue import open_source
from losslake.store.lake import Lake
from losslake.store.query import kept
from losslake.store.query.kept import Kept, kept_rows_of_each
from losslake.store.query.scan import rows_of_each

MakeLake = Callable[..., Lake]
WANTED = (["sample_id", "query", "member"], ["sample_id", "query", "member", "phi"], ["phi", "loss"])


@pytest.fixture(scope="module")
def fleet(lake_of: MakeLake) -> Lake:
    rng = np.random.default_rng(0)
    keep = rng.random((6, 40)) < 0.5
    held = np.ones((6, 40), dtype=bool)
    held[4, :7] = False  # one run has other samples than the rest
    z = rng.normal(0, 1, (6, 40, 3)).astype(np.float16)
    labels = rng.integers(0, 3, 40).astype(np.int32)
    return lake_of(keep, logits=z, held=held, labels=labels)


@pytest.mark.parametrize("room", [0, 900, 1 << 20])
def test_rows_are_those_of_the_files(fleet: Lake, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, store, read = fleet.runs("tests"), Kept(room), []

    def counted(lake: Lake, some: list, table: str, columns: list[str]) -> list:
        read.extend((run.run, column) for run in some for column in columns)
        return rows_of_each(lake, some, table, columns)

    monkeypatch.setattr(kept, "rows_of_each", counted)
    for columns in WANTED * 2:
        for some in (runs[2:5], runs):
            found = kept_rows_of_each(store, fleet, some, "signals", columns, 40 * 6)
            for one, expected in zip(found, rows_of_each(fleet, some, "signals", list(columns)), strict=True):
                assert one.equals(expected)
    assert store.room >= 0
    if room == 1 << 20:
        assert len(read) == len(set(read)) == 6 * 5  # each column of each run once
        first = store.find(("signals", "sample_id"))
        shared = [store.find(("signals", "sample_id", kept.place_of(run, "signals"))) for run in runs]
        assert [column is first for column in shared] == [True] * 4 + [False, True]


def test_more_is_kept_where_more_may_be(fleet: Lake) -> None:
    runs, store = fleet.runs("tests"), Kept(0)
    kept_rows_of_each(store, fleet, runs, "signals", ["phi"], 240)
    place = kept.place_of(runs[0], "signals")
    assert store.find(("signals", "phi", place)) is None
    store.raise_to(1 << 20)
    store.raise_to(1 << 20)
    assert store.room == 1 << 20
    kept_rows_of_each(store, fleet, runs, "signals", ["phi"], 240)
    assert store.find(("signals", "phi", place)) is not None
    assert store.room == (1 << 20) - 4 * 240


def test_logits_are_read_once(fleet: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_source(fleet, "tests") as source, open_source(fleet, "tests") as none:
        none.kept = Kept(0)
        runs = source.need_shadows()
        for _ in range(2):
            for run in runs:
                found, expected = (list(logits.logits_of(one, run)) for one in (source, none))
                for piece, other in zip(found, expected, strict=True):
                    assert piece.values.dtype == np.float32
                    for name in ("sample_id", "query", "member", "label", "values"):
                        np.testing.assert_array_equal(getattr(piece, name), getattr(other, name))
            monkeypatch.setattr(
                logits, "_opened", lambda given, run, stack, old=logits._opened: old(none, run, stack)
            )
        with source.beside(runs[0].run) as other:  # what is kept is kept for those beside it
            monkeypatch.setattr(logits, "_opened", lambda *_: pytest.fail("read again"))
            assert sum(map(len, logits.logits_of(other, runs[1]))) == 40


def test_an_attack_on_each_run_is_made_once_for_each_target_and_what_is_left_out(fleet: Lake) -> None:
    with open_source(fleet, "tests") as source:
        analysis, options = source.analysis("lira")
        first = attack_each(source, analysis, options, None)
        assert attack_each(source, analysis, options, None) is first
        assert attack_each(source, analysis, options, 2) is not first
        with source.without(["run-0003"]) as fewer:
            again = attack_each(fewer, analysis, options, None)
        assert len(again.runs) == len(first.runs) - 1
        analysis, options = source.analysis("lira[variance=sample]")
        assert not np.array_equal(
            attack_each(source, analysis, options, None).score, first.score, equal_nan=True
        )


def test_an_engine_is_started_where_a_query_is_asked(fleet: Lake) -> None:
    with open_source(fleet, "tests") as source:
        source.need_shadows()
        assert not source._queries.started
        assert source.sql("select count(*) as n from signals")["n"].to_list() == [233]
        assert source._queries.started
