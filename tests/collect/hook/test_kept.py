"""A finished training is not lost to what goes wrong after it or beside it, and what would be lost silently is told."""

from __future__ import annotations

import gc
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from losslake.collect.fleet.own_loop import shadow_runs
from losslake.collect.hook.evaluate_later import evaluate_run
from losslake.collect.hook.recorded_run import RecordedRun
from losslake.collect.hook.start import start_run
from losslake.store.errors import AlreadyExists, InvalidInput
from losslake.store.lake import Lake
from losslake.store.upkeep.forget import forget
from losslake.store.upkeep.verify import verify
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

N, C = 12, 3
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % C
NET = nn.Linear(4, C)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def begin(lake: Lake, **options: Any) -> RecordedRun:
    return start_run(lake, "e", samples=Y, **{"members": range(N), **options})


def train(run: RecordedRun, *, scale: float = 1.0, epochs: int = 2) -> None:
    watched = run.watch_criterion(nn.CrossEntropyLoss())
    for _ in range(epochs):
        ids = np.flatnonzero(run.members)
        run.batch(ids)
        watched(scale * NET(X[ids]), Y[ids])
        run.end_epoch()


def losses(lake: Lake, run: str) -> list[float]:
    rows = lake.sql(
        "select run, sample_id, loss[2] as l from traces where source = 'train' order by sample_id"
    )
    return rows.filter(rows["run"] == run)["l"].to_list()  # type: ignore[no-any-return]


def own(scale: float = 1.0) -> list[float]:
    return nn.functional.cross_entropy(scale * NET(X), Y, reduction="none").tolist()


# --- a name that another process takes meanwhile ------------------------------------------------------------


@pytest.mark.parametrize("name", [None, "mine"])
def test_a_name_taken_meanwhile_leaves_the_data_under_the_next_one(lake: Lake, name: str | None) -> None:
    run, other = begin(lake, run=name), begin(lake, run=name)  # the other one as another process would
    for each, scale in ((other, 1.0), (run, 2.0)):
        train(each, scale=scale)
        each.evaluate(NET, (X, Y))
    other.commit()
    with pytest.warns(UserWarning, match="-2'"):
        run.commit()
    first = name or "target"
    assert (other.name, run.name) == (first, f"{first}-2")
    assert run.committed is not None
    assert run.committed.run == run.name
    assert np.allclose(losses(lake, first), own(), atol=1e-6)
    assert np.allclose(losses(lake, run.name), own(2.0), atol=1e-6)
    counts = lake.sql("select run, count(*) as n from signals group by run order by run")
    assert counts.rows() == [(first, N), (run.name, N)]
    found = verify(lake)
    assert (found.damage, found.leftovers) == ((), ())


def test_two_names_taken_one_after_the_other(lake: Lake) -> None:
    run = begin(lake)
    train(run)
    for name in ("target", "target-2"):
        with begin(lake, run=name) as other:
            train(other)
    with pytest.warns(UserWarning, match="target-3"):
        run.commit()
    assert sorted(each.run for each in lake.runs("e")) == ["target", "target-2", "target-3"]


def test_a_run_of_a_design_that_another_process_committed_is_dropped(lake: Lake) -> None:
    with begin(lake) as run:
        train(run)
    done: list[str] = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for run in shadow_runs(lake, "e", count=2):
            with run:
                train(run)
                if not done:
                    for other in shadow_runs(lake, "e", count=1):
                        with other:
                            train(other)
            done.append(run.name)
    assert done == ["shadow-0000", "shadow-0001"]
    assert sorted(each.run for each in lake.runs("e")) == [*done, "target"]
    assert len([each for each in told if "recorded here is dropped" in str(each.message)]) == 1


def test_a_name_that_is_there_before_the_run_begins_is_refused(lake: Lake) -> None:
    with begin(lake, run="mine") as run:
        train(run)
    with pytest.raises(AlreadyExists):
        begin(lake, run="mine")


# --- what would be lost without a word ----------------------------------------------------------------------


def told_of(record: list[Any]) -> list[str]:
    return [str(each.message) for each in record if issubclass(each.category, UserWarning)]


@pytest.fixture
def told() -> Iterator[list[Any]]:
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        yield record


def test_a_run_without_a_block_says_what_is_lost(lake: Lake, told: list[Any]) -> None:
    run = begin(lake)
    train(run)
    del run
    gc.collect()
    (said,) = told_of(told)
    assert "never committed" in said
    assert "2 epochs" in said
    assert lake.runs("e") == []
    assert not [path for path in lake.files.list("staging") if "run=target" in path]


def test_a_program_that_ends_says_what_is_lost(lake: Lake, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, torch, losslake\n"
        "run = losslake.open(sys.argv[1]).start_run('e', samples=[0, 1, 0], members=[0, 1])\n"
        "run.batch([0, 1]); run.record(torch.ones(2)); run.end_epoch()\n"
    )
    done = subprocess.run([sys.executable, program, lake.path], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "run 'target' of experiment 'e' was never committed" in done.stderr


@pytest.mark.parametrize("end", ["commit", "discard", "block", "nothing recorded"])
def test_a_run_that_ends_says_nothing(lake: Lake, told: list[Any], end: str) -> None:
    run = begin(lake)
    if end == "block":
        with run:
            train(run)
    elif end != "nothing recorded":
        train(run)
        getattr(run, end)()
    del run
    gc.collect()
    assert told_of(told) == []


def loop(run: RecordedRun, batches: Any, criterion: Any) -> None:
    for x, y in batches:
        criterion(NET(x), y).backward()


def loader(run: RecordedRun, *, watched: bool = True) -> Any:
    plain = DataLoader(TensorDataset(X, Y), batch_size=5)
    return run.watch_loader(plain) if watched else plain


def test_a_forgotten_watch_loader_is_told_when_it_happens(lake: Lake, told: list[Any]) -> None:
    with pytest.raises(InvalidInput, match="recorded nothing"), begin(lake) as run:
        loop(run, loader(run, watched=False), run.watch_criterion(nn.CrossEntropyLoss()))
    (said,) = told_of(told)  # once, not at each of three batches
    assert "nothing has said which samples are in the batch" in said


@pytest.mark.parametrize("by_hand", [False, True])
def test_an_epoch_in_which_nothing_was_recorded_is_told_when_it_happens(
    lake: Lake, told: list[Any], by_hand: bool
) -> None:
    with begin(lake) as run:
        run.watch_criterion(nn.CrossEntropyLoss())
        if by_hand:
            run.batch([0, 1])
            run.end_epoch()
        else:
            loop(run, loader(run), nn.CrossEntropyLoss())
        assert "recorded nothing" in told_of(told)[0]
        train(run)
    assert len(told_of(told)) == 1


def test_looking_at_a_batch_and_passes_without_gradients_are_no_such_epochs(
    lake: Lake, told: list[Any]
) -> None:
    with begin(lake) as run:
        batches, criterion = loader(run), run.watch_criterion(nn.CrossEntropyLoss())
        next(iter(batches))
        with torch.no_grad():
            loop_without_gradients = [criterion(NET(x), y) for x, y in batches]
        run.trace_eval(NET, (X, Y))
        loop(run, batches, criterion)
        with torch.no_grad():
            loop_without_gradients += [criterion(NET(x), y) for x, y in batches]
    assert told_of(told) == []
    assert run.committed is not None
    assert run.committed.info.epochs == 1


def test_next_of_shadow_runs_is_a_run_that_its_block_commits(lake: Lake, told: list[Any]) -> None:
    begin(lake).discard()
    run = next(shadow_runs(lake, "e", count=4))
    gc.collect()
    with run:
        train(run)
    assert [each.run for each in lake.runs("e")] == ["shadow-0000"]
    with next(shadow_runs(lake, "e", count=4)) as run:
        train(run)
    assert [each.run for each in lake.runs("e")] == ["shadow-0000", "shadow-0001"]
    assert told_of(told) == []


# --- an evaluation that fails -------------------------------------------------------------------------------


class Failing(nn.Module):
    """NET, which fails while its list says so."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.fails = NET, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fails:
            raise RuntimeError("CUDA out of memory")
        out: torch.Tensor = self.net(x)
        return out


@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_failed_trace_eval_keeps_the_training(lake: Lake, which: int) -> None:
    model = Failing()
    with begin(lake) as run:
        run.trace_eval(model, (X, Y))
        for epoch in (1, 2, 3):
            train(run, epochs=1)
            model.fails = epoch == which
            if model.fails:
                with pytest.warns(UserWarning, match=f"after epoch {which} has no values.*out of memory"):
                    run.trace_eval(model, (X, Y))
            else:
                run.trace_eval(model, (X, Y))
    rows = lake.sql("select sample_id, source, loss from traces order by sample_id").rows()
    for sample, source, loss in rows:
        missing = {0} if source == "train" else {which}
        assert [value is None for value in loss] == [at in missing for at in range(4)]
        assert all(value is None or abs(value - own()[sample]) < 1e-5 for value in loss)
    assert len(rows) == 2 * N


def test_the_first_trace_eval_raises_as_there_is_nothing_to_keep(lake: Lake) -> None:
    model = Failing()
    model.fails = True
    with pytest.raises(RuntimeError, match="out of memory"), begin(lake) as run:
        run.trace_eval(model, (X, Y))
    run = begin(lake)
    run.trace_eval(NET, (X, Y))
    train(run, epochs=1)
    run.trace_eval(NET, (X, Y))
    with pytest.raises(InvalidInput, match="twice after epoch 1"):
        run.trace_eval(NET, (X, Y))
    run.discard()


def test_epochs_without_a_point_have_no_values(lake: Lake) -> None:
    with begin(lake) as run:
        run.trace_eval(NET, (X, Y))
        train(run, epochs=3)
        run.trace_eval(NET, (X, Y))
    for (loss,) in lake.sql("select loss from traces where source = 'eval'").rows():
        assert [value is None for value in loss] == [False, True, True, False]


# --- signals of a run that is committed without them --------------------------------------------------------


def signal_losses(lake: Lake) -> list[float]:
    rows = lake.sql("select loss, member from signals order by sample_id")
    assert rows["member"].to_list() == [True] * 10 + [False] * 2
    return rows["loss"].to_list()


@pytest.mark.parametrize("way", ["the run", "the lake", "the lake, whose traces lack a member"])
def test_a_committed_run_without_signals_is_evaluated_later(lake: Lake, way: str) -> None:
    with begin(lake, members=range(10)) as run:
        if "lack" in way:
            run.batch(range(9))
            run.watch_criterion(nn.CrossEntropyLoss())(NET(X[:9]), Y[:9])
        else:
            train(run)
    before = run.committed
    assert before is not None
    model = Failing()
    model.fails = True
    for fails in (True, False):
        model.fails = fails
        try:
            if way == "the run":
                run.evaluate(model, (X, Y))
            elif way == "the lake":
                evaluate_run(lake, "e", "target", model, (X, Y))
            else:
                with pytest.raises(InvalidInput, match="hold 9 of its 10 members"):
                    evaluate_run(lake, "e", "target", model, (X, Y))
                evaluate_run(lake, "e", "target", model, (X, Y), members=range(10))
        except RuntimeError:
            assert fails
            assert lake.run("e", "target") == before
    assert np.allclose(signal_losses(lake), own(), atol=1e-5)
    after = lake.run("e", "target")
    assert set(before.files) < set(after.files)
    assert (after.created, after.members, after.info.epochs) == (before.created, 10, before.info.epochs)
    right = NET(X).argmax(1) == Y
    assert after.info.train_accuracy == pytest.approx(right[:10].float().mean().item())
    found = verify(lake)
    assert (found.damage, found.leftovers) == ((), ())
    for again in (run.evaluate, lambda *given: evaluate_run(lake, "e", "target", *given)):
        with pytest.raises(AlreadyExists, match="has signals"):
            again(NET, (X, Y))
    assert lake.run("e", "target") == after


def test_signals_that_come_later_are_of_the_run_s_loss(lake: Lake) -> None:
    with begin(lake) as run:
        train(run)
    with pytest.raises(InvalidInput, match="records one loss"):
        evaluate_run(lake, "e", "target", One(), (X, Y.float()), criterion=nn.MSELoss())
    assert lake.run("e", "target") == run.committed


class One(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0]


def test_a_sample_forgotten_meanwhile_is_not_among_them(lake: Lake) -> None:
    with begin(lake, members=range(10)) as run:
        train(run)
    forget(lake, "e", samples=[3])
    evaluate_run(lake, "e", "target", NET, (X, Y))
    assert 3 not in lake.sql("select sample_id from signals")["sample_id"].to_list()
    assert lake.run("e", "target").members == 9
    del run


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_an_evaluation_that_fails_before_it_begins_leaves_the_one_before(
    lake: Lake, leaves: bool, trained: bool
) -> None:
    def both() -> None:
        with begin(lake) as run:
            if trained:
                train(run)
            run.evaluate(NET, (X, Y))
            with pytest.raises(InvalidInput) as failed:
                run.evaluate(NET, (X[:3], Y[:3]))
            assert failed.value.__notes__ == ["the signals of the evaluation before are kept"]
            if leaves:
                raise failed.value

    if leaves:
        with pytest.raises(InvalidInput, match="data holds 3 records"):
            both()
    else:
        both()
    assert lake.sql("select count(*) as n from signals")["n"][0] == len(Y)


def test_a_run_that_has_ended_tells_of_batches_that_come_still(lake: Lake, told: list[Any]) -> None:
    with begin(lake) as run:
        train(run)
    train(run)
    with torch.no_grad():
        run.batch([0])
    (said,) = told_of(told)
    assert "has ended, and records nothing" in said
    assert lake.runs("e")[0].info.epochs == 2


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (lambda x: NET(x), (X, Y), "the model is a function; give the torch module"),
        ([NET], (X, Y), "the model is a list"),
        (NET, X, r"data is one Tensor \(\d+, \d+\), without targets"),
    ],
)
def test_what_cannot_be_asked_is_told(lake: Lake, model: Any, data: Any, message: str) -> None:
    with begin(lake) as run:
        train(run)
        with pytest.raises(InvalidInput, match=message):
            run.evaluate(model, data)
