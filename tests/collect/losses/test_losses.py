"""Criteria that are no plain cross-entropy: what is recorded of each sample is what NumPy makes of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from losslake.collect.hook.recorded_run import RecordedRun
from losslake.collect.hook.start import start_run
from losslake.store.errors import InvalidInput
from losslake.store.lake import Lake
from recorded import trace
from torch import nn
from torch.nn import functional

B = 6
UNLABELLED = pa.table({"label": pa.nulls(B, pa.int32())})
Z = np.random.default_rng(0).normal(size=(B, 3)) * 2
T = np.random.default_rng(1).normal(size=(B, 3))
BITS = np.array([0, 1, 1, 0, 1, 0])


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def recorded(
    lake: Lake,
    criterion: Callable[..., Any],
    output: Any,
    target: Any,
    samples: Any = UNLABELLED,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Loss and margin in the lake after one batch of all samples; the criterion's result is what it is without."""
    output = torch.as_tensor(output).float().requires_grad_()
    target = torch.as_tensor(target)
    with start_run(lake, "e", samples=samples, members=np.ones(B, dtype=bool)) as run:
        run.batch(np.arange(B))
        random = torch.random.get_rng_state()
        result = run.watch_criterion(criterion)(output, target, **options)
        assert torch.equal(torch.random.get_rng_state(), random)
        run.end_epoch()
    assert torch.equal(result, criterion(output, target, **options))
    rows = trace(lake)
    losses = np.array([row[1] for row in rows["loss"]], dtype=float)
    margin = (
        None
        if rows["margin"].null_count() == B
        else np.array([row[1] for row in rows["margin"]], dtype=float)
    )
    return losses, margin


def binary(z: np.ndarray, t: np.ndarray) -> np.ndarray:
    p = 1 / (1 + np.exp(-z))
    return -(t * np.log(p) + (1 - t) * np.log(1 - p))


@pytest.mark.parametrize("shape", [(B,), (B, 1)])
@pytest.mark.parametrize("samples", [UNLABELLED, BITS])
def test_binary(lake: Lake, shape: tuple[int, ...], samples: Any) -> None:
    z, t = Z[:, 0].reshape(shape), torch.tensor(BITS).float().reshape(shape)
    loss, margin = recorded(lake, nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)), z, t, samples)
    np.testing.assert_allclose(loss, binary(Z[:, 0], BITS), rtol=1e-5)
    np.testing.assert_allclose(margin, (2 * BITS - 1) * Z[:, 0], rtol=1e-5)


def test_binary_is_clean_of_smoothing_where_the_table_has_labels(lake: Lake) -> None:
    smooth = torch.tensor(BITS * 0.8 + 0.1).float()
    loss, _ = recorded(lake, nn.BCEWithLogitsLoss(), Z[:, 0], smooth, BITS)
    np.testing.assert_allclose(loss, binary(Z[:, 0], BITS), rtol=1e-5)


def test_soft_binary_targets_without_labels(lake: Lake) -> None:
    smooth = torch.tensor(BITS * 0.8 + 0.1).float()
    loss, margin = recorded(lake, nn.BCEWithLogitsLoss(), Z[:, 0], smooth)
    np.testing.assert_allclose(loss, binary(Z[:, 0], smooth.numpy()), rtol=1e-5)
    assert margin is not None
    assert np.isnan(margin).all()


def test_binary_batches_that_are_others(lake: Lake) -> None:
    with pytest.raises(InvalidInput, match="not the labels"):
        recorded(lake, nn.BCEWithLogitsLoss(), Z[:, 0], torch.tensor(1 - BITS).float(), BITS)


@pytest.mark.parametrize("function", [functional.binary_cross_entropy, nn.BCELoss(reduction="sum")])
def test_binary_probabilities(lake: Lake, function: Any) -> None:
    z = Z[:, 0].copy()
    p = 1 / (1 + np.exp(-z))
    p[0] = 1.0  # of class 0: PyTorch takes the logarithm of 0 for -100
    loss, margin = recorded(lake, function, p, torch.tensor(BITS).float())
    np.testing.assert_allclose(loss, np.r_[100.0, binary(z, BITS)[1:]], rtol=1e-4)
    np.testing.assert_allclose(margin, np.r_[-100.0, ((2 * BITS - 1) * z)[1:]], rtol=1e-4)


def test_several_labels_a_sample(lake: Lake) -> None:
    bits = (T > 0).astype(float)
    loss, margin = recorded(lake, nn.BCEWithLogitsLoss(), Z, torch.tensor(bits).float(), BITS)
    np.testing.assert_allclose(loss, binary(Z, bits).mean(1), rtol=1e-5)
    assert margin is None


def huber(e: np.ndarray, delta: float) -> np.ndarray:
    return np.where(np.abs(e) < delta, e**2 / 2, delta * (np.abs(e) - delta / 2))


class OwnLoss(nn.Module):
    """A criterion with a state, random numbers and its own target."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction
        self.calls = 0
        self.register_buffer("total", torch.zeros(()))

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.total += 1
        loss = (output - target).abs() ** 3
        return loss if self.reduction == "none" else loss.mean()


REGRESSION: dict[str, tuple[Any, Callable[[np.ndarray], np.ndarray]]] = {
    "mse": (nn.MSELoss(), np.square),
    "mse, function": (functional.mse_loss, np.square),
    "l1, sum": (nn.L1Loss(reduction="sum"), np.abs),
    "smooth l1": (nn.SmoothL1Loss(beta=0.5), lambda e: huber(e, 0.5) / 0.5),
    "huber, partial": (functools.partial(functional.huber_loss, delta=0.7), lambda e: huber(e, 0.7)),
    "own": (OwnLoss(), lambda e: np.abs(e) ** 3),
}


@pytest.mark.parametrize("name", REGRESSION)
@pytest.mark.parametrize("shape", [(B,), (B, 1), (B, 3)])
def test_regression(lake: Lake, name: str, shape: tuple[int, ...]) -> None:
    criterion, of = REGRESSION[name]
    columns = slice(0, shape[1] if len(shape) > 1 else 1)
    z, t = Z[:, columns], T[:, columns]
    # Labels are there too, and have nothing to do with it.
    loss, margin = recorded(lake, criterion, z.reshape(shape), torch.tensor(t.reshape(shape)).float(), BITS)
    np.testing.assert_allclose(loss, of(z - t).mean(1), rtol=1e-5)
    assert margin is None


def test_options_of_the_call(lake: Lake) -> None:
    loss, _ = recorded(lake, functional.smooth_l1_loss, Z, torch.tensor(T).float(), beta=0.25)
    np.testing.assert_allclose(loss, (huber(Z - T, 0.25) / 0.25).mean(1), rtol=1e-5)


def test_the_state_of_a_criterion_is_that_without_recording(lake: Lake) -> None:
    own = OwnLoss()
    run = start_run(lake, "e", samples=UNLABELLED, members=[0, 1])
    run.batch([0, 1])
    run.watch_criterion(own)(torch.zeros(2, 3, requires_grad=True), torch.ones(2, 3))
    assert (own.calls, own.total.item(), own.reduction) == (1, 1, "mean")
    run.discard()


def test_a_criterion_that_cannot_tell_samples_apart(lake: Lake) -> None:
    run = start_run(lake, "e", samples=UNLABELLED, members=[0, 1])
    run.batch([0, 1])
    with pytest.raises(
        InvalidInput, match=r"from total.*reduction.*run\.batch\(ids\).*run\.record\(losses\)"
    ):
        run.watch_criterion(total)(torch.zeros(2, 3, requires_grad=True), torch.ones(2, 3))
    run.discard()


def total(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output - target).square().sum()


def soft_cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return -(target * output.log_softmax(1)).sum(1).mean()


def focal(output: torch.Tensor, target: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    losses = functional.cross_entropy(output, target, reduction="none")
    losses = (1 - (-losses).exp()) ** 2 * losses
    return losses if reduction == "none" else losses.mean()


def clean(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.log(np.exp(z).sum(-1)) - np.take_along_axis(z, y[..., None], -1)[..., 0]


CLASSES = np.array([0, 2, 1, 1, 0, 2])


@pytest.mark.parametrize(
    ("criterion", "target"),
    [
        (focal, CLASSES),
        (soft_cross_entropy, np.float32(0.7 * np.eye(3)[CLASSES] + 0.1)),
        (nn.CrossEntropyLoss(label_smoothing=0.2, weight=torch.tensor([1.0, 2.0, 3.0])), CLASSES),
        (nn.CrossEntropyLoss(), np.float32(0.7 * np.eye(3)[CLASSES] + 0.1)),
    ],
)
def test_classes_have_their_clean_cross_entropy(lake: Lake, criterion: Any, target: np.ndarray) -> None:
    loss, margin = recorded(lake, criterion, Z, target, CLASSES)
    np.testing.assert_allclose(loss, clean(Z, CLASSES), rtol=1e-5)
    assert margin is not None
    np.testing.assert_array_equal(margin > 0, Z.argmax(1) == CLASSES)


@pytest.mark.parametrize("criterion", [nn.NLLLoss(), functional.nll_loss])
def test_log_probabilities(lake: Lake, criterion: Any) -> None:
    log_p = Z - np.log(np.exp(Z).sum(1, keepdims=True))
    loss, margin = recorded(lake, criterion, log_p, CLASSES)
    np.testing.assert_allclose(loss, -log_p[np.arange(B), CLASSES], rtol=1e-4)
    others = np.where(np.eye(3)[CLASSES] == 1, -np.inf, log_p).max(1)
    np.testing.assert_allclose(margin, log_p[np.arange(B), CLASSES] - others, rtol=1e-4, atol=1e-6)


def test_an_ignored_target(lake: Lake) -> None:
    """Its loss is at the table's label."""
    target = CLASSES.copy()
    target[2] = -100
    loss, _ = recorded(lake, nn.CrossEntropyLoss(), Z, target, CLASSES)
    np.testing.assert_allclose(loss, clean(Z, CLASSES), rtol=1e-5)


class TokenLoss(nn.Module):
    def __init__(self, ignore_index: int) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=self.ignore_index)


@pytest.mark.parametrize("order", ["classes second", "classes last", "pictures"])
@pytest.mark.parametrize("ignored", [-100, 1])
def test_a_loss_a_token(lake: Lake, order: str, ignored: int) -> None:
    random = np.random.default_rng(2)
    z, y = random.normal(size=(B, 4, 5)), random.integers(0, 5, (B, 4))
    y[0, 1:] = ignored
    y[3, 2] = ignored
    y[5] = ignored
    counts = y != ignored
    with np.errstate(invalid="ignore"):
        want = np.where(counts, clean(z, np.where(counts, y, 0)), 0).sum(1) / counts.sum(1)
    criterion: nn.Module = nn.CrossEntropyLoss(ignore_index=ignored)
    logits, target = z.transpose(0, 2, 1), y
    if order == "pictures":
        logits, target = logits.reshape(B, 5, 2, 2), y.reshape(B, 2, 2)
    if order == "classes last":
        criterion, logits = TokenLoss(ignored), z
    loss, margin = recorded(lake, criterion, logits, target)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    assert np.isnan(want[5])
    assert margin is not None


def test_tokens_in_one_row_each(lake: Lake) -> None:
    run = start_run(lake, "e", samples=UNLABELLED, members=np.arange(B))
    run.batch([0, 1])
    with pytest.raises(InvalidInput, match=r"8 rows.*2 samples.*\(batch, classes, positions\)"):
        run.watch_criterion(nn.CrossEntropyLoss())(
            torch.zeros(8, 5, requires_grad=True), torch.zeros(8, dtype=torch.long)
        )
    run.discard()


@pytest.mark.parametrize("call", ["record", "record without margin", "record_logits"])
def test_a_criterion_inside_the_model(lake: Lake, call: str) -> None:
    logits, y = torch.tensor(Z).float(), torch.tensor(CLASSES)
    losses = functional.cross_entropy(logits, y, reduction="none")

    def tell(run: RecordedRun) -> None:
        if call == "record":
            run.record(losses, losses * 2)
        elif call == "record_logits":
            run.record_logits(logits, y)
        else:
            run.record(losses)

    with start_run(lake, "e", samples=CLASSES, members=np.ones(B, dtype=bool)) as run:
        run.batch(np.arange(B))
        tell(run)
        tell(run)  # no batch was named: nothing happens
        run.end_epoch()
        run.batch([0])
        if call != "record_logits":
            with pytest.raises(InvalidInput, match=r"\(6,\) of a batch of 1"):
                run.record(losses)
    rows = trace(lake)
    np.testing.assert_allclose([row[1] for row in rows["loss"]], losses.numpy(), rtol=1e-5)
    assert rows["margin"].null_count() == (B if call == "record without margin" else 0)


def test_evaluating_a_regression(lake: Lake) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    x, t = torch.tensor(Z).float(), torch.tensor(T[:, :2]).float()
    with start_run(lake, "e", samples=UNLABELLED, members=np.ones(B, dtype=bool)) as run:
        run.watch_criterion(nn.MSELoss())
        run.trace_eval(model, (x, t))
        run.evaluate(model, (x, t))
    with torch.no_grad():
        want = (model(x) - t).square().mean(1).numpy()
    rows = lake.sql("select loss, phi, correct, logits from signals order by sample_id")
    np.testing.assert_allclose(rows["loss"].to_numpy(), want, rtol=1e-5)
    assert rows.select("phi", "correct", "logits").null_count().row(0) == (B, B, B)
    points = trace(lake, "eval")
    np.testing.assert_allclose([row[0] for row in points["loss"]], want, rtol=1e-5)
    assert points["margin"].null_count() == B


def test_evaluating_binary_targets(lake: Lake) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    x, t = torch.tensor(Z).float(), torch.tensor(BITS).float()[:, None]
    with start_run(lake, "e", samples=UNLABELLED, members=np.arange(3)) as run:
        run.evaluate(model, (x, t), criterion=nn.BCEWithLogitsLoss())
    with torch.no_grad():
        z = model(x)[:, 0].numpy()
    rows = lake.sql("select loss, phi, correct from signals order by sample_id")
    np.testing.assert_allclose(rows["loss"].to_numpy(), binary(z, BITS), rtol=1e-5)
    np.testing.assert_allclose(rows["phi"].to_numpy(), (2 * BITS - 1) * z, rtol=1e-5)
    assert rows["correct"].to_list() == ((z > 0) == BITS).tolist()
    assert lake.run("e", "target").info.test_accuracy == pytest.approx(((z > 0) == BITS)[3:].mean())
