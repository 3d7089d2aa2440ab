"""Probabilities where logits are meant: -log p of the true class is stored, or they are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from losslake.collect.hook.start import start_run
from losslake.store.errors import InvalidInput
from losslake.store.lake import Lake
from torch import nn
from torch.nn import functional

N, C = 24, 4
X = torch.randn(N, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % C
TRUE = nn.Linear(5, C)
WANT = functional.cross_entropy(TRUE(X), Y, reduction="none").detach()


def nll(p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return -p.gather(1, y[:, None]).log().mean()


def nll_by_name(p: torch.Tensor, y: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    return functional.nll_loss(torch.log(p), y, reduction=reduction)


def soft(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return -(t * p.log()).sum(1).mean()


def focal(p: torch.Tensor, y: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    mine = p.gather(1, y[:, None])[:, 0]
    each = -((1 - mine) ** 2) * mine.log()
    return each if reduction == "none" else each.mean()


class Nll(nn.Module):
    def forward(self, p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nll(p, y)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def recorded(
    lake: Lake,
    criterion: Any,
    model: Callable[[torch.Tensor], torch.Tensor],
    y: torch.Tensor = Y,
    *,
    labels: torch.Tensor = Y,
    batch: int = 8,
) -> np.ndarray:
    with start_run(lake, "e", samples=labels, members=range(N)) as run:
        watched = run.watch_criterion(criterion)
        for ids in torch.arange(N).split(batch):
            run.batch(ids)
            watched(model(X[ids]), y[ids])
    assert run.committed is not None
    column = "list_extract(loss, 2) as l, list_extract(margin, 2) as m"
    rows = lake.sql(f"select {column} from traces order by sample_id")  # noqa: S608
    return rows["l"].to_numpy()


def shares(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(TRUE(x), 1)


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("criterion", [nll, nll_by_name, focal, Nll()])
def test_a_criterion_of_probabilities_has_their_cross_entropy(lake: Lake, criterion: Any, batch: int) -> None:
    assert np.allclose(recorded(lake, criterion, shares, batch=batch), WANT, atol=1e-5)
    assert lake.runs("e")[0].info.extra["outputs"] == "probabilities"


def test_of_soft_targets_too(lake: Lake) -> None:
    target = functional.one_hot(Y, C).float() * 0.9 + 0.025
    assert np.allclose(recorded(lake, soft, shares, target), WANT, atol=1e-5)


def test_of_positions_too(lake: Lake) -> None:
    def each(p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return -p.gather(2, y[..., None]).log().mean()

    def twice(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([shares(x), shares(-x), shares(x)], 1)  # (B, positions, classes)

    target = torch.stack([Y, Y, Y], 1)
    other = functional.cross_entropy(TRUE(-X), Y, reduction="none").detach()
    assert np.allclose(recorded(lake, each, twice, target), (2 * WANT + other) / 3, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize(
    "criterion",
    [nn.CrossEntropyLoss(), functional.cross_entropy, nn.NLLLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)],
)
def test_a_criterion_of_logits_is_refused_with_probabilities(lake: Lake, criterion: Any, batch: int) -> None:
    with pytest.raises(InvalidInput, match="called with probabilities"):
        recorded(lake, criterion, shares, batch=batch)


@pytest.mark.parametrize(
    ("criterion", "model"),
    [
        (nn.CrossEntropyLoss(), TRUE),
        (nn.NLLLoss(), lambda x: torch.log_softmax(TRUE(x), 1)),
        (nn.CrossEntropyLoss(), lambda x: torch.log_softmax(TRUE(x), 1)),
        (nn.CrossEntropyLoss(), lambda x: TRUE(x) + 100),  # all above 0
    ],
)
def test_logits_are_left_alone(lake: Lake, criterion: Any, model: Any) -> None:
    assert np.allclose(recorded(lake, criterion, model), WANT, atol=1e-4)
    assert "outputs" not in lake.runs("e")[0].info.extra


# --- one number a record ------------------------------------------------------------------------------------

TWO = Y % 2
ONE = functional.binary_cross_entropy_with_logits(TRUE(X)[:, 0], TWO.float(), reduction="none").detach()


def bce_of_p(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return -(t * p.log() + (1 - t) * (1 - p).log()).mean()


def bce_of_z(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return functional.softplus(torch.where(t == 1, -z, z)).sum()


@pytest.mark.parametrize("kind", [torch.float32, torch.int64])
def test_one_number_is_taken_as_the_criterion_takes_it(lake: Lake, tmp_path: Path, kind: torch.dtype) -> None:
    def sigmoid(x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(TRUE(x)[:, 0])

    assert np.allclose(recorded(lake, bce_of_p, sigmoid, TWO.to(kind), labels=TWO), ONE, atol=1e-5)
    small = torch.sigmoid(TRUE(X)[:, 0])  # as logits, all from 0 to 1
    want = functional.binary_cross_entropy_with_logits(small, TWO.float(), reduction="none").detach()
    other = Lake.open(tmp_path / "other", create=True)
    assert np.allclose(recorded(other, bce_of_z, sigmoid, TWO.to(kind), labels=TWO), want, atol=1e-5)


def test_outputs_whose_value_is_the_same_either_way_are_told_by_others(lake: Lake) -> None:
    """.7371 as probabilities, .7372 as logits."""
    p = torch.tensor([0.6667, 0.4449, 0.6210, 0.6935, 0.7254, 0.7277, 0.4836, 0.5400, 0.5072, 0.4865, 0.4497, 0.8150,
                      0.5947, 0.4473, 0.4614, 0.6381, 0.5322, 0.5958, 0.5682, 0.4327, 0.7257, 0.4603, 0.5871, 0.5252])  # fmt: skip
    assert len(p) == N
    for criterion, truth in ((bce_of_p, p), (bce_of_z, torch.sigmoid(p))):
        own = torch.where(TWO == 1, truth, 1 - truth)
        with start_run(lake, criterion.__name__, samples=TWO, members=range(N)) as run:
            watched = run.watch_criterion(criterion)
            run.batch(range(N))
            watched(p.clone().requires_grad_(), TWO.float())
            run.end_epoch()
        rows = lake.sql(
            "select loss[-1] as l from traces where experiment = $e order by sample_id",
            {"e": criterion.__name__},
        )
        np.testing.assert_allclose(rows["l"], -own.log(), atol=1e-5)


def test_one_number_that_may_be_either_is_refused(lake: Lake) -> None:
    def odd(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (p - t).square().mean()

    with pytest.raises(InvalidInput, match="not known which"):
        recorded(lake, odd, lambda x: torch.sigmoid(TRUE(x)[:, 0]), TWO.float(), labels=TWO)


# --- asked afterwards ---------------------------------------------------------------------------------------


def test_a_model_asked_for_logits_may_give_probabilities(lake: Lake) -> None:
    model = nn.Sequential(TRUE, nn.Softmax(1))
    with start_run(lake, "e", samples=Y, members=[0]) as run:
        with pytest.warns(UserWarning, match="gives probabilities"):
            run.trace_eval(model, (X, Y))
        with pytest.warns(UserWarning, match="gives probabilities"):
            run.evaluate(model, (X, Y))
    rows = lake.sql("select loss, phi, correct from signals order by sample_id")
    assert np.allclose(rows["loss"], WANT, atol=1e-5)
    assert np.allclose(lake.sql("select loss[1] as l from traces order by sample_id")["l"], WANT, atol=1e-5)
    right = (TRUE(X).argmax(1) == Y).tolist()
    assert rows["correct"].to_list() == right
    p = torch.softmax(TRUE(X).double(), 1).gather(1, Y[:, None])[:, 0]
    assert np.allclose(rows["phi"], torch.log(p / (1 - p)).detach(), atol=1e-4)


def test_norms_of_probabilities_are_refused(lake: Lake) -> None:
    model = nn.Sequential(TRUE, nn.Softmax(1))
    with (
        pytest.raises(InvalidInput, match="leave the softmax out"),
        start_run(lake, "e", samples=Y, members=[0]) as run,
    ):
        run.trace_eval(model, (X, Y), grad_norm=True)


class Sigmoid(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(TRUE(x)[:, 0])


def test_a_model_of_one_probability_is_asked_as_its_criterion_takes_it(lake: Lake) -> None:
    with start_run(lake, "e", samples=TWO, members=range(N)) as run:
        watched = run.watch_criterion(bce_of_p)
        run.trace_eval(Sigmoid(), (X, TWO))
        run.batch(range(N))
        watched(Sigmoid()(X), TWO.float())
        run.end_epoch()
        run.trace_eval(Sigmoid(), (X, TWO))
        run.evaluate(Sigmoid(), (X, TWO))
    for column in (
        "select loss from signals order by sample_id",
        "select loss[1] as loss from traces where source = 'eval' order by sample_id",
    ):
        assert np.allclose(lake.sql(column)["loss"], ONE, atol=1e-5)


def test_one_number_from_0_to_1_of_every_record_is_no_logit(lake: Lake) -> None:
    x, y = torch.cat([X, X]), torch.cat([TWO, TWO])
    with (
        pytest.raises(InvalidInput, match="leave the sigmoid out"),
        start_run(lake, "e", samples=y, members=[0]) as run,
    ):
        run.evaluate(Sigmoid(), (x, y))
    with start_run(lake, "e", samples=y, members=[0]) as run:
        run.evaluate(Sigmoid(), (x, y), criterion=nn.BCELoss())
    assert np.allclose(lake.sql("select loss from signals order by sample_id")["loss"][:N], ONE, atol=1e-5)


# --- targets ------------------------------------------------------------------------------------------------


def by_batches(lake: Lake, criterion: Any, targets: list[torch.Tensor]) -> None:
    with start_run(lake, "e", samples=Y, members=range(N)) as run:
        watched = run.watch_criterion(criterion)
        for ids, target in zip(torch.arange(N).split(8), targets, strict=True):
            run.batch(ids)
            watched(TRUE(X[ids]), target)


def squares(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return (z - t).square().mean()


@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss(), squares])
def test_targets_of_probabilities_leave_the_label_to_the_table(lake: Lake, criterion: Any) -> None:
    hot = functional.one_hot(Y, C).float()
    by_batches(lake, criterion, list((0.7 * hot + 0.3 * hot.flip(0)).split(8)))
    losses = lake.sql("select loss[2] as l from traces order by sample_id")["l"].to_numpy()
    assert np.allclose(losses, WANT, atol=1e-5)


def test_numbers_that_looked_like_one_hot_targets_at_first_are_refused(lake: Lake) -> None:
    hot = functional.one_hot(Y, C).float()
    with pytest.raises(InvalidInput, match="are not the labels of their samples"):
        by_batches(lake, squares, [hot[:8], hot[8:16] * 3, hot[16:]])
