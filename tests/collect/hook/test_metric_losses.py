"""What a criterion of one's own takes its outputs for: scores of classes, whose cross-entropy is stored, or something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from losslake.analysis.measures.trace import trace
from losslake.analysis.scoring.catalogue import open_source
from losslake.collect.hook.start import start_run
from losslake.store.errors import InvalidInput, InvalidOption
from losslake.store.format.records import Run
from losslake.store.lake import Lake
from torch import nn
from torch.nn import functional

N, D, C = 48, 8, 4
X = torch.randn(N, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % C
TRUE = nn.Linear(5, D)
CLEAN = functional.cross_entropy(TRUE(X), Y, reduction="none").detach()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def recorded(
    lake: Lake,
    criterion: Any,
    *,
    model: Callable[[torch.Tensor], torch.Tensor] = TRUE,
    y: torch.Tensor = Y,
    samples: Any = Y,
    batch: int = 16,
) -> np.ndarray:
    with start_run(lake, "e", samples=samples, members=range(N)) as run:
        watched = run.watch_criterion(criterion)
        for ids in torch.arange(N).split(batch):
            run.batch(ids)
            watched(model(X[ids]), y[ids])
    return lake.sql("select loss[2] as l from traces order by sample_id")["l"].to_numpy()


def the_run(lake: Lake) -> Run:
    (run,) = lake.runs("e")
    return run


# --- of classes: the clean cross-entropy, whatever is trained on --------------------------------------------

WEIGHTS = torch.tensor([0.2, 1, 3, 5, 1, 1, 1, 1])


def of_true(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return z.softmax(1).gather(1, y[:, None])[:, 0]


def hot(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.one_hot(y, z.shape[1]).float()


def balanced_by_batch(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    counts = torch.bincount(y, minlength=z.shape[1])
    return (functional.cross_entropy(z, y, reduction="none") / counts[y]).sum()


def penalized(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    p = z.softmax(1)
    return functional.cross_entropy(z, y) + 0.1 * (p * p.log()).sum(1).mean()


class Remembering(nn.Module):
    """As losses that regularize by earlier answers do; a call changes its state."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.calls, self.kept = torch.zeros(C, D), 0, [0.0]

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        p = z.softmax(1)
        for label in range(C):
            if (y == label).any():
                self.seen[label] = 0.7 * self.seen[label] + 0.3 * p[y == label].mean(0).detach()
        self.kept.append(float(self.seen.sum()))
        return functional.cross_entropy(z, y) + (1 - (self.seen[y] * p).sum(1)).log().mean()


OF_CLASSES: dict[str, Any] = {
    "weighted, smoothed": lambda z, y: functional.cross_entropy(z, y, weight=WEIGHTS, label_smoothing=0.1),
    "focal": lambda z, y: (-((1 - of_true(z, y)) ** 2) * of_true(z, y).log()).mean(),
    "generalized": lambda z, y: ((1 - of_true(z, y) ** 0.7) / 0.7).mean(),
    "one against the rest": lambda z, y: functional.binary_cross_entropy_with_logits(z, hot(z, y)),
    "hinge": lambda z, y: functional.multi_margin_loss(z, y),
    "torch's hinge": nn.MultiMarginLoss(),
    "with priors": lambda z, y: functional.cross_entropy(z + WEIGHTS.log(), y),
    "with margins": lambda z, y: functional.cross_entropy(10 * (z - 0.3 * hot(z, y)), y),
    "balanced by the batch": balanced_by_batch,
    "with a penalty": penalized,
    "two results": lambda z, y: (functional.cross_entropy(z, y), {"of": "it"}),
    "half precision": lambda z, y: functional.cross_entropy(z.bfloat16(), y),
    "remembering": Remembering(),
}


@pytest.mark.parametrize("criterion", OF_CLASSES.values(), ids=OF_CLASSES)
@pytest.mark.parametrize("batch", [1, 16])
def test_of_classes_the_cross_entropy_is_stored(lake: Lake, criterion: Any, batch: int) -> None:
    assert np.allclose(recorded(lake, criterion, batch=batch), CLEAN, atol=1e-4)
    assert the_run(lake).info.extra["loss"] == "cross-entropy"


def test_looking_leaves_the_criterion_as_it_was(lake: Lake) -> None:
    watched, alone = Remembering(), Remembering()
    seen, kept = watched.seen, watched.kept
    recorded(lake, watched)
    for ids in torch.arange(N).split(16):
        alone(TRUE(X[ids]), Y[ids])
    assert watched.calls == alone.calls == N // 16
    assert torch.equal(watched.seen, alone.seen)
    assert watched.kept == alone.kept
    assert watched.seen is seen
    assert watched.kept is kept


# --- of embeddings: refused, or the loss's own values -------------------------------------------------------


def supervised_contrastive(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    own = torch.eye(len(z), dtype=torch.bool)
    alike = functional.normalize(z) @ functional.normalize(z).T / 0.1
    log_p = alike.masked_fill(own, -1e9).log_softmax(1)
    positive = (y[:, None] == y[None]) & ~own
    return -(log_p * positive).sum(1) / positive.sum(1).clamp(min=1)


def hard_triplets(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    far, same = torch.cdist(z, z), y[:, None] == y[None]
    return functional.relu((far * same).amax(1) - (far + 1e9 * same).amin(1) + 1)


class Proxies(nn.Module):
    def __init__(self, reduction: str | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(C, D, generator=torch.Generator().manual_seed(1)))
        if reduction is not None:
            self.reduction = reduction

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        cosines = functional.normalize(z) @ functional.normalize(self.weight).T
        how = getattr(self, "reduction", "mean")
        return functional.cross_entropy(8 * (cosines - 0.2 * hot(cosines, y)), y, reduction=how)


class Centres(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(C, D, generator=torch.Generator().manual_seed(2)))

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (z - self.centres[y]).square().sum(1).mean()


def ordinal(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    above = (y[:, None] > torch.arange(z.shape[1])).float()
    return functional.binary_cross_entropy_with_logits(z, above)


def normalized(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    assert torch.allclose(z.norm(dim=1), torch.ones(len(z)))
    return supervised_contrastive(z, y).mean()


OF_EMBEDDINGS: dict[str, Any] = {
    "supervised contrastive": lambda z, y: supervised_contrastive(z, y).mean(),
    "hard triplets": lambda z, y: hard_triplets(z, y).mean(),
    "proxies": Proxies(),
    "centres": Centres(),
    "similarities": lambda z, y: functional.cross_entropy(z @ z.T, torch.arange(len(z))),
    "ordinal": ordinal,
    "ordinal, a level less": lambda z, y: ordinal(z[:, : C - 1], y),
}


@pytest.mark.parametrize("criterion", OF_EMBEDDINGS.values(), ids=OF_EMBEDDINGS)
@pytest.mark.parametrize("early", [False, True])
def test_of_embeddings_no_cross_entropy_is_stored(lake: Lake, criterion: Any, early: bool) -> None:
    def train() -> None:
        with start_run(lake, "e", samples=Y, members=range(N)) as run:
            watched = run.watch_criterion(criterion)
            if early:
                run.trace_eval(TRUE, (X, Y))
            run.batch(range(16))
            watched(TRUE(X[:16]), Y[:16])

    with pytest.raises(InvalidInput, match=r"not take its first argument for scores of classes.*run\.record"):
        train()
    assert lake.experiments() == []


def test_what_asks_for_other_outputs_than_are_made_up_is_refused(lake: Lake) -> None:
    with pytest.raises(InvalidInput, match="called again with other outputs it raises AssertionError"):
        recorded(lake, normalized, model=lambda x: functional.normalize(TRUE(x)))


def test_class_numbers_past_the_outputs_are_refused(lake: Lake) -> None:
    with pytest.raises(InvalidInput, match="class numbers go to 3, and outputs have 2 columns"):
        recorded(lake, OF_EMBEDDINGS["supervised contrastive"], model=lambda x: TRUE(x)[:, :2])


@pytest.mark.parametrize("early", [False, True])
def test_a_metric_loss_with_a_reduction_has_its_own_values(lake: Lake, early: bool) -> None:
    criterion = Proxies("mean")
    with start_run(lake, "e", samples=Y, members=range(N)) as run:
        watched = run.watch_criterion(criterion)
        if early:
            run.trace_eval(TRUE, (X, Y))
        for ids in torch.arange(N).split(16):
            run.batch(ids)
            watched(TRUE(X[ids]), Y[ids])
        run.end_epoch()
        run.evaluate(TRUE, (X, Y))
    want = Proxies("none")(TRUE(X), Y).detach()
    for column in ("loss[2] from traces where source = 'train'", "loss from signals"):
        found = lake.sql(f"select {column} order by sample_id").to_series().to_numpy()
        assert np.allclose(found, want, atol=1e-5)
    assert the_run(lake).info.extra["loss"] == "Proxies"


class BatchLoss(nn.Module):
    """A batch's losses by a function that gives each record one."""

    def __init__(self, each: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.each, self.reduction = each, "mean"

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        losses = self.each(z, y)
        return losses if self.reduction == "none" else losses.mean()


@pytest.mark.parametrize("each", [supervised_contrastive, hard_triplets])
@pytest.mark.parametrize("apart", [0.0, 3.0])
def test_losses_of_single_samples_that_depend_on_others_are_refused(
    lake: Lake, each: Any, apart: float
) -> None:
    # Far apart most triplets have no loss, in the batch as alone: that shows nothing.
    with pytest.raises(InvalidInput, match="depend on the other records"):
        recorded(lake, BatchLoss(each), model=lambda x: TRUE(x) + apart * torch.eye(D)[Y[: len(x)]])


def test_similarities_of_samples_without_labels_are_refused(lake: Lake) -> None:
    keys = {"key": [str(i) for i in range(N)]}
    places = torch.arange(16).repeat(3)
    with pytest.raises(InvalidInput, match="places in the batch"):
        recorded(lake, nn.CrossEntropyLoss(), samples=keys, y=places, model=lambda x: TRUE(x) @ TRUE(x).T)


# --- one number a record ------------------------------------------------------------------------------------

TWO = Y % 2


def one(x: torch.Tensor) -> torch.Tensor:
    return TRUE(x)[:, 0]


@pytest.mark.parametrize(
    "criterion",
    [
        lambda z, y: functional.binary_cross_entropy_with_logits(z, y.float()),
        lambda z, y: functional.relu(1 - z * (2 * y - 1)).mean(),
    ],
)
def test_a_lone_output_of_a_loss_of_logits_is_a_logit(lake: Lake, criterion: Any) -> None:
    want = functional.binary_cross_entropy_with_logits(one(X), TWO.float(), reduction="none").detach()
    assert np.allclose(recorded(lake, criterion, model=one, y=TWO, samples=TWO), want, atol=1e-5)


@pytest.mark.parametrize(
    ("y", "samples"), [(TWO, TWO), (Y, Y), (2 * TWO - 1, TWO)], ids=["0 and 1", "0 to 3", "-1 and 1"]
)
def test_a_lone_output_that_is_no_logit_is_refused(
    lake: Lake, y: torch.Tensor, samples: torch.Tensor
) -> None:
    with pytest.raises(InvalidInput, match="for a logit of class 1"):
        recorded(lake, lambda z, t: (z - t).square().mean(), model=one, y=y, samples=samples)


# --- a softmax or sigmoid before a loss of logits -----------------------------------------------------------


@pytest.mark.parametrize("batch", [2, 16])
def test_a_function_around_cross_entropy_is_refused_with_probabilities(lake: Lake, batch: int) -> None:
    with pytest.raises(InvalidInput, match="leave the softmax out"):
        recorded(
            lake,
            lambda z, y: functional.cross_entropy(z, y),
            model=lambda x: TRUE(x).softmax(1),
            batch=batch,
        )


@pytest.mark.parametrize("several", [False, True])
def test_a_sigmoid_before_a_loss_of_logits_is_told(lake: Lake, several: bool) -> None:
    y = torch.stack([TWO, 1 - TWO], 1).float() if several else TWO.float()

    def model(x: torch.Tensor) -> torch.Tensor:
        return TRUE(x)[:, :2].sigmoid() if several else one(x).sigmoid()

    with pytest.warns(UserWarning, match="each number of 48 records lies from 0 to 1"):
        losses = recorded(lake, nn.BCEWithLogitsLoss(), model=model, y=y, samples=TWO)
    each = functional.binary_cross_entropy_with_logits(model(X), y, reduction="none").reshape(N, -1).mean(1)
    assert np.allclose(losses, each.detach(), atol=1e-5)


def test_logits_are_not_told_to_be_sigmoids(lake: Lake, recwarn: pytest.WarningsRecorder) -> None:
    recorded(lake, nn.BCEWithLogitsLoss(), model=one, y=TWO.float(), samples=TWO)
    assert not [each for each in recwarn if "sigmoid" in str(each.message)]


# --- losses by hand, and nothing watched --------------------------------------------------------------------


def by_hand(lake: Lake, model: nn.Module, name: str | None = None, criterion: Any = None) -> None:
    with start_run(lake, "e", samples=Y, members=range(N)) as run:
        for _ in range(2):
            for ids in torch.arange(N).split(16):
                run.batch(ids)
                run.record(supervised_contrastive(model(X[ids]), Y[ids]), name=name)
            run.end_epoch()
        run.evaluate(model, (X, Y), criterion=criterion)


def test_an_embedding_trained_by_losses_of_its_own_has_no_cross_entropy(lake: Lake) -> None:
    with pytest.raises(InvalidInput, match="gives 8 numbers a record, and labels go from 0 to 3"):
        by_hand(lake, TRUE)
    assert lake.sql("select count(*) as n from signals")["n"][0] == 0


@pytest.mark.parametrize("name", [None, "cross-entropy"])
def test_losses_by_hand_are_called_what_they_are(lake: Lake, name: str | None) -> None:
    by_hand(lake, TRUE, name, nn.CrossEntropyLoss())
    assert the_run(lake).info.extra["loss"] == (name or "the loop's own, given to run.record")
    with open_source(lake, "e", "target") as source:
        if name is None:
            with pytest.raises(InvalidOption, match="made of a cross-entropy"):
                trace(source, signal="probability", aggregate="mean")
        else:
            assert len(trace(source, signal="probability", aggregate="mean").frame) == N


def test_more_outputs_than_classes_are_told_where_nothing_was_watched(lake: Lake) -> None:
    with (
        start_run(lake, "e", samples=Y, members=range(N)) as run,
        pytest.warns(UserWarning, match="taken for logits of 8 classes"),
    ):
        run.evaluate(TRUE, (X, Y))
