"""Models x losses: what is recorded is what each record has in a batch of its own, or it is refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.collect.hook.start import start_run
from losslake.store.errors import InvalidInput, NotEnoughData
from losslake.store.lake import Lake
from torch import nn
from torch.nn import functional

N, B, T, F, V, C, K = 16, 8, 6, 5, 11, 4, 3


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    torch.manual_seed(0)
    return Lake.open(tmp_path / "lake", create=True)


class Tokens(nn.Module):
    """Tokens (B, T) to logits (B, classes, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(V, F), nn.Linear(F, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(self.table(x)).transpose(1, 2)
        return logits


class SequenceFirst(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.each, self.out = nn.Linear(F, F), nn.Linear(F, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(torch.relu(self.each(x.transpose(0, 1))).mean(0))
        return out


class Positions(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.place, self.out = nn.Embedding(B, F), nn.Linear(F, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out((x + self.place(torch.arange(B))).tanh().mean(1))
        return out


class Prototypes(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.held, self.each = nn.Parameter(torch.randn(B, F)), nn.Linear(F, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = torch.softmax(x.mean(1) @ self.held.T, 1)
        return near @ self.each(self.held) + self.each(x.mean(1))


class Attention(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.attend, self.out = nn.MultiheadAttention(F, 1, batch_first=True), nn.Linear(F, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.triu(torch.ones(B, B, dtype=torch.bool), 1)
        out: torch.Tensor = self.out(self.attend(x, x, x, attn_mask=mask)[0].mean(1))
        return out


class Scaled(nn.Module):
    """With a parameter of no dimension."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.out, self.scale = nn.Linear(F, outputs), nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(x.mean(1)) * self.scale
        return out


MODELS: dict[str, tuple[Callable[[int], nn.Module], bool]] = {
    "linear": (lambda outputs: nn.Sequential(nn.Flatten(), nn.Linear(B * F, outputs)), True),
    "dropout": (
        lambda outputs: nn.Sequential(
            nn.Flatten(), nn.Linear(B * F, 9), nn.Dropout(0.0), nn.Linear(9, outputs)
        ),
        True,
    ),
    "convolution": (
        lambda outputs: nn.Sequential(nn.Conv1d(B, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, outputs)),
        True,
    ),
    "scalar parameter": (Scaled, True),
    "causal attention as long as the batch": (Attention, True),
    "sequence first": (SequenceFirst, False),
    "positions as many as the batch": (Positions, True),
    "prototypes as many as the batch": (Prototypes, False),
}

NUMBERS = torch.randn(N, K, generator=torch.Generator().manual_seed(1))
CLASSES = torch.randint(0, K, (N,), generator=torch.Generator().manual_seed(2))
LOSSES: dict[str, tuple[Any, torch.Tensor, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = {
    "cross-entropy": (nn.CrossEntropyLoss(), CLASSES, functional.cross_entropy),
    "cross-entropy sum": (nn.CrossEntropyLoss(reduction="sum"), CLASSES, functional.cross_entropy),
    "own": (lambda z, y: functional.cross_entropy(z, y), CLASSES, functional.cross_entropy),
    "mse": (nn.MSELoss(), NUMBERS, functional.mse_loss),
    "mse sum": (nn.MSELoss(reduction="sum"), NUMBERS, functional.mse_loss),
    "l1 sum": (nn.L1Loss(reduction="sum"), NUMBERS, functional.l1_loss),
    "labels sum": (
        nn.BCEWithLogitsLoss(reduction="sum"),
        (NUMBERS > 0).float(),
        functional.binary_cross_entropy_with_logits,
    ),
    "poisson": (nn.PoissonNLLLoss(), NUMBERS.abs().round(), functional.poisson_nll_loss),
}


def recorded(
    lake: Lake,
    model: nn.Module,
    criterion: Any,
    x: torch.Tensor,
    y: torch.Tensor,
    step: Callable[[Any, torch.Tensor], torch.Tensor] | None = None,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Loss and norm of each record in one epoch of batches of B."""
    unlabelled = {"key": [str(i) for i in range(N)]}
    with start_run(lake, "e", samples=unlabelled, members=np.ones(N, dtype=bool)) as run:
        run.watch_model(model, **options)
        watched = run.watch_criterion(criterion)
        for ids in torch.arange(N).split(B):
            run.batch(ids)
            (step(watched, ids) if step else watched(model(x[ids]), y[ids])).backward()
        run.end_epoch()
    rows = lake.sql("select loss[2] as l, grad_norm[2] as g from traces order by sample_id")
    return rows["l"].to_numpy(), rows["g"].to_numpy()


def alone(
    model: nn.Module, of: Callable[..., torch.Tensor], x: torch.Tensor, y: torch.Tensor
) -> tuple[list[float], list[float]]:
    """Obviously correct, but slow."""
    losses, norms = [], []
    for i in range(N):
        loss = of(model(x[i : i + 1]), y[i : i + 1])
        grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        losses.append(float(loss))
        norms.append(float(torch.stack([g.square().sum() for g in grads if g is not None]).sum().sqrt()))
    return losses, norms


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", MODELS)
def test_norms_are_those_of_the_recorded_loss(lake: Lake, kind: str, loss: str) -> None:
    make, right = MODELS[kind]
    criterion, y, of = LOSSES[loss]
    model, x = make(K), torch.randn(N, B, F)
    want = alone(model, of, x, y)
    if not right:
        with pytest.raises(InvalidInput, match="not that of its own loss"):
            recorded(lake, model, criterion, x, y)
        return
    losses, norms = recorded(lake, model, criterion, x, y)
    np.testing.assert_allclose(losses, want[0], rtol=1e-4)
    np.testing.assert_allclose(norms, want[1], rtol=1e-4)


def ours(z: torch.Tensor, y: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    return functional.cross_entropy(z, y, reduction=reduction)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("own", [False, True])
def test_tokens_of_different_lengths(lake: Lake, own: bool, reduction: str) -> None:
    x, y = torch.randint(0, V, (N, T)), torch.randint(0, C, (N, T))
    for i in range(N):
        y[i, 1 + i % T :] = -100
    model = Tokens()
    criterion = (
        (lambda z, t, reduction=reduction: ours(z, t, reduction))
        if own
        else nn.CrossEntropyLoss(reduction=reduction)
    )
    losses, norms = recorded(lake, model, criterion, x, y)
    want = alone(model, functional.cross_entropy, x, y)
    np.testing.assert_allclose(losses, want[0], rtol=1e-4)
    np.testing.assert_allclose(norms, want[1], rtol=1e-4)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.first, self.second = nn.Linear(F, 9), nn.Linear(9, K), nn.Linear(9, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = torch.tanh(self.body(x))
        return self.first(h), self.second(h).squeeze(1), h


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("term", ["a second task", "of the batch"])
def test_terms_beside_the_criterion_are_refused(lake: Lake, term: str, check: bool) -> None:
    model, x = TwoHeads(), torch.randn(N, F)

    def step(criterion: Any, ids: torch.Tensor) -> torch.Tensor:
        logits, other, h = model(x[ids])
        more = (
            functional.mse_loss(other, NUMBERS[ids, 0])
            if term == "a second task"
            else (h.T @ h).square().mean()
        )
        total: torch.Tensor = criterion(logits, CLASSES[ids]) + more
        return total

    with pytest.raises(InvalidInput, match=r"body\.weight.*term beside the criterion"):
        recorded(lake, model, nn.CrossEntropyLoss(), x, CLASSES, step, check=check)


@pytest.mark.parametrize("criterion", [nn.MSELoss(), nn.L1Loss(), nn.HuberLoss(), nn.PoissonNLLLoss()])
def test_shapes_that_broadcast_are_refused(lake: Lake, criterion: nn.Module) -> None:
    run = start_run(lake, "e", samples=CLASSES, members=np.ones(N, dtype=bool))
    watched = run.watch_criterion(criterion)
    run.batch(np.arange(N))
    with pytest.raises(InvalidInput, match=r"\(16, 1\).*\(16,\)"):
        watched(torch.randn(N, 1, requires_grad=True), torch.rand(N))
    run.discard()


@pytest.mark.parametrize(
    ("criterion", "target"),
    [
        (nn.MSELoss(), NUMBERS[:, 0]),
        (nn.PoissonNLLLoss(), CLASSES),
        (nn.BCEWithLogitsLoss(), (NUMBERS[:, 0] > 0).float()),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_evaluations_ask_as_the_loop_does(
    lake: Lake, criterion: Any, target: torch.Tensor, first: bool
) -> None:
    """The loop squeezes what the model gives; the evaluation has the model and the data alone."""
    model, x = nn.Linear(F, 1), torch.randn(N, F)
    with start_run(lake, "e", samples=CLASSES, members=np.ones(N, dtype=bool)) as run:
        watched = run.watch_criterion(criterion)
        if first:
            run.trace_eval(model, (x, target))
        run.batch(np.arange(N))
        watched(model(x).squeeze(1), target)
        run.end_epoch()
        run.evaluate(model, (x, target))
    train = lake.sql("select loss[2] as l from traces where source = 'train' order by sample_id")["l"]
    signals = lake.sql("select loss as l from signals order by sample_id")["l"]
    np.testing.assert_allclose(signals, train, rtol=1e-5)
    name = lake.run("e", "target").info.extra["loss"]
    assert name == (
        "cross-entropy" if isinstance(criterion, nn.BCEWithLogitsLoss) else type(criterion).__name__
    )


def test_a_second_loss_in_one_run_is_refused(lake: Lake) -> None:
    model, x = nn.Linear(F, K), torch.randn(N, F)
    run = start_run(lake, "e", samples=CLASSES, members=np.ones(N, dtype=bool))
    run.trace_eval(model, (x, CLASSES))
    watched = run.watch_criterion(nn.MSELoss())
    run.batch(np.arange(N))
    with pytest.raises(InvalidInput, match="one loss, which is: cross-entropy; here it would be: MSELoss"):
        watched(model(x), NUMBERS)
    run.discard()


def test_one_hot_and_soft_targets_are_asked(lake: Lake) -> None:
    model, x = nn.Linear(F, K), torch.randn(N, F)
    with start_run(lake, "e", samples=CLASSES, members=np.ones(N, dtype=bool)) as run:
        run.watch_criterion(nn.CrossEntropyLoss())
        run.trace_eval(model, (x, functional.one_hot(CLASSES, K).float()))
        run.evaluate(model, (x, functional.one_hot(CLASSES, K).float()))
    want = functional.cross_entropy(model(x), CLASSES, reduction="none").detach()
    rows = lake.sql("select loss, phi from signals order by sample_id")
    np.testing.assert_allclose(rows["loss"], want, rtol=1e-4)
    np.testing.assert_allclose(rows["phi"], -torch.log(torch.expm1(want)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("watch", [False, True])
def test_empty_batches(lake: Lake, watch: bool) -> None:
    model, x = nn.Linear(F, K), torch.randn(N, F)
    with start_run(lake, "e", samples=CLASSES, members=np.ones(N, dtype=bool)) as run:
        if watch:
            run.watch_model(model)
        watched = run.watch_criterion(nn.CrossEntropyLoss())
        for ids in ([0, 1], [], [2]):
            run.batch(ids)
            watched(model(x[ids]), CLASSES[ids]).backward()
        run.end_epoch()
    rows = lake.sql(
        "select sample_id, grad_norm[2] as g from traces where loss[2] is not null order by sample_id"
    )
    assert rows["sample_id"].to_list() == [0, 1, 2]
    if watch:
        want = alone(model, functional.cross_entropy, x, CLASSES)[1]
        np.testing.assert_allclose(rows["g"][:3], want[:3], rtol=1e-4)


def test_analyses_say_what_a_regression_lacks(lake: Lake) -> None:
    x, y = torch.randn(N, F), NUMBERS[:, 0]
    rng = np.random.default_rng(0)
    for i, members in enumerate(rng.permuted(np.tile(np.arange(4)[:, None] < 2, N), axis=0)):
        role = "target" if not i else "shadow"
        with start_run(
            lake, "e", samples={"key": [str(n) for n in range(N)]}, members=members, role=role
        ) as run:
            run.evaluate(nn.Sequential(nn.Linear(F, 1), nn.Flatten(0)), (x, y), criterion=nn.MSELoss())
    with open_source(lake, "e", "target") as source:
        for name in ("lira", "memorization"):
            with pytest.raises(NotEnoughData, match=r"are MSELoss, of which there is no phi.*rmia"):
                run_analysis(source, find(name))
        with pytest.raises(NotEnoughData, match=r"has no logits; .* run\.evaluate keeps them"):
            run_analysis(source, find("entropy"))
        assert run_analysis(source, find("rmia")).scores.frame["score"].null_count() < N
