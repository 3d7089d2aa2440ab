"""`RecordedRun.exposed`: what `analyze lt-iqr` says of the same trace up to that epoch, while training goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from losslake import open as open_lake
from losslake.collect import ranks
from losslake.collect.hook import exposed_so_far
from losslake.collect.hook import start as hook
from losslake.collect.hook.recorded_run import RecordedRun
from losslake.collect.hook.start import start_run
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.lake import Lake

N = 50
MEMBERS = np.arange(N) % 2 == 0
LABELS = np.arange(N) % 3


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return open_lake(tmp_path / "lake")


def epoch(run: RecordedRun, losses: np.ndarray, ids: np.ndarray) -> None:
    """One epoch in which the samples ``ids`` have these losses."""
    run.batch(ids)
    run.record(torch.tensor(losses[ids]))
    run.end_epoch()


def evaluated(run: RecordedRun, losses: np.ndarray) -> None:
    """A point of the eval trace with these losses (N,)."""
    run.trace_eval_by(lambda ids: (torch.tensor(losses[ids]), None, None))


def analysed(lake: Lake, last: int, **options: object) -> pl.DataFrame:
    """The members' scores of `lt-iqr` up to that epoch, highest first."""
    frame = lake.analyze("lt-iqr", experiment="e", last=last, **options).scores.frame  # type: ignore[attr-defined]
    frame = frame.filter(pl.col("member") & pl.col("score").is_not_null())
    return frame.sort(["score", "sample_id"], descending=[True, False]).select("sample_id", "score")


def check(found: pl.DataFrame, want: pl.DataFrame) -> None:
    assert found["sample_id"].to_list() == want["sample_id"].to_list()
    np.testing.assert_allclose(found["score"].to_numpy(), want["score"].to_numpy(), rtol=1e-6, atol=1e-9)


def test_the_train_trace_with_gaps_ties_and_what_is_not_finite(lake: Lake) -> None:
    random = np.random.default_rng(0)
    members = np.flatnonzero(MEMBERS)
    found = {}
    with start_run(lake, "e", samples=LABELS, members=MEMBERS) as run:
        for number in range(1, 7):
            losses = random.gamma(1.0, size=N).astype(np.float32)
            losses[[4, 8]] = 1.0  # never moves
            losses[6] = np.inf if number == 3 else 0.5
            losses[10] = np.nan if number == 5 else 0.5
            # As drop_last leaves a few out.
            epoch(run, losses, random.permutation(members)[: 25 - number % 3])
            if number > 1:
                found[number] = run.exposed(N)
    for number, frame in found.items():
        check(frame, analysed(lake, number))
    assert 6 in found[2]["sample_id"].to_list()
    assert 6 not in found[6]["sample_id"].to_list()
    assert found[6].schema == {"sample_id": pl.Int32, "score": pl.Float64}


def test_the_eval_trace_is_taken_where_there_is_one(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    samples = {"label": LABELS, "pool": ["population" if i >= 45 else "audit" for i in range(N)]}
    members = MEMBERS & (np.arange(N) < 45)
    with start_run(lake, "e", samples=samples, members=members) as run:
        evaluated(run, random.gamma(1.0, size=N).astype(np.float32))
        with pytest.raises(NotEnoughData, match=r"'target' has 1 recorded epochs"):
            run.exposed()
        for _ in (1, 2):
            epoch(run, random.gamma(1.0, size=N).astype(np.float32), np.flatnonzero(members))
            evaluated(run, random.gamma(1.0, size=N).astype(np.float32))
        found = run.exposed(4)
        # Another process of a training by several has nothing.
        monkeypatch.setattr(ranks, "writes", lambda: False)
        assert run.exposed().shape == (0, 2)
        monkeypatch.undo()
    check(found, analysed(lake, 2).head(4))


def test_an_eval_trace_that_stays_at_its_first_point_is_told(lake: Lake) -> None:
    """Before training alone: refused while it goes on, warned of at its end, and the train trace is pointed at."""
    random = np.random.default_rng(5)
    members = np.flatnonzero(MEMBERS)
    run = start_run(lake, "e", samples=LABELS, members=MEMBERS)
    evaluated(run, random.gamma(1.0, size=N).astype(np.float32))
    for _ in range(3):
        epoch(run, random.gamma(1.0, size=N).astype(np.float32), members)
    with pytest.raises(NotEnoughData, match=r"before training alone, and 3 epochs.*after each epoch"):
        run.exposed()
    with pytest.warns(UserWarning, match=r"before training alone.*nothing of the 3 epochs"):
        run.commit()
    with pytest.raises(NotEnoughData, match=r"one loss of each record.*--source train has 3"):
        analysed(lake, 3)
    assert len(analysed(lake, 3, source_="train")) == len(members)


def test_margins_beside_the_losses_make_no_difference(lake: Lake) -> None:
    random = np.random.default_rng(4)
    members = np.flatnonzero(MEMBERS)
    with start_run(lake, "e", samples=LABELS, members=MEMBERS) as run:
        for _ in range(3):
            loss = torch.tensor(random.gamma(1.0, size=len(members)), dtype=torch.float32)
            run.batch(members)
            run.record(loss, -loss)
            run.end_epoch()
        found = run.exposed(5)
    check(found, analysed(lake, 3).head(5))


def test_the_most_exposed_of_many_pieces() -> None:
    """Pieces of the samples, as traces too large for the memory come in, make no difference."""
    random = np.random.default_rng(2)
    loss = random.integers(0, 4, (90, 5)).astype(np.float32)
    recorded = np.ones(loss.shape, dtype=bool)
    ids, wanted = np.arange(90), np.arange(90) % 7 != 0
    whole = exposed_so_far.most_exposed([(ids, loss, recorded)], wanted, 12, "r")
    parts = ((ids[at : at + 9], loss[at : at + 9], recorded[at : at + 9]) for at in range(0, 90, 9))
    assert exposed_so_far.most_exposed(parts, wanted, 12, "r").equals(whole)
    q = np.quantile(loss.astype(float), [0.25, 0.75], axis=1)
    want = sorted(((q[0][i] - q[1][i]), i) for i in ids[wanted])[:12]
    assert whole["sample_id"].to_list() == [i for _, i in want]
    np.testing.assert_allclose(whole["score"].to_numpy(), [-score for score, _ in want])


def test_before_two_epochs_and_wrong_numbers(lake: Lake) -> None:
    run = start_run(lake, "e", samples=LABELS, members=MEMBERS)
    with pytest.raises(NotEnoughData, match="0 recorded epochs"):
        run.exposed()
    epoch(run, np.ones(N), np.flatnonzero(MEMBERS))
    run.batch([0])  # an epoch under way does not count
    run.record(torch.ones(1))
    with pytest.raises(NotEnoughData, match=r"1 recorded epochs.*two or more"):
        run.exposed()
    with pytest.raises(InvalidOption, match="k is 0"):
        run.exposed(0)
    run.discard()


def test_asking_changes_nothing_that_is_recorded(lake: Lake) -> None:
    rows = []
    for asks in (False, True):
        random = np.random.default_rng(3)
        with start_run(lake, "e", samples=LABELS, members=MEMBERS, run=f"r{asks}") as run:
            for _ in range(4):
                epoch(run, random.gamma(1.0, size=N).astype(np.float32), np.flatnonzero(MEMBERS))
                if asks and _ > 0:
                    run.exposed(3)
        rows.append(lake.sql("select sample_id, loss from traces where run = $run", {"run": run.name}))
    assert rows[0].sort("sample_id").equals(rows[1].sort("sample_id"))


def test_an_error_of_the_writer_thread_comes_up(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    run = hook.start_run(lake, "e", samples=LABELS, members=MEMBERS)
    monkeypatch.setattr(run._writer, "append_epoch", full)
    epoch(run, np.ones(N), np.flatnonzero(MEMBERS))
    with pytest.raises(OSError, match="No space left"):
        run.exposed()
    run.discard()
