"""Signals against 60-digit arithmetic, and the ends where floats round."""

from __future__ import annotations

from decimal import Decimal, getcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losslake.collect.losses.cross_entropy import loss_and_margin, two_class_logits
from losslake.collect.signals.from_logits import loss_from_phi, phi_from_loss, signals_from_logits
from losslake.store.errors import InvalidInput

getcontext().prec = 400


def exact(logits: list[float], label: int) -> tuple[float, float]:
    """loss and phi of one row, in decimal arithmetic with 400 digits."""
    powers = [Decimal(z).exp() for z in logits]
    others = sum(p for c, p in enumerate(powers) if c != label)
    return float((sum(powers) / powers[label]).ln()), float((powers[label] / others).ln())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-300, 300), min_size=2, max_size=6), st.data())
def test_loss_and_phi_are_exact(logits: list[float], data: st.DataObject) -> None:
    label = data.draw(st.integers(0, len(logits) - 1))
    loss, phi = exact(logits, label)
    found = signals_from_logits(np.array([logits]), np.array([label]))
    assert found.phi[0] == pytest.approx(phi, rel=1e-12, abs=1e-12)
    assert found.loss[0] == pytest.approx(loss, rel=1e-12, abs=1e-300)


def test_certainty_stays_finite_and_ordered() -> None:
    logits = np.array([[200.0, 0.0, 0.0], [400.0, 0.0, 0.0], [0.0, 400.0, 0.0]])
    found = signals_from_logits(logits, np.zeros(3, dtype=int))
    assert found.phi == pytest.approx([200 - np.log(2), 400 - np.log(2), -400.0])
    assert 0 < found.loss[1] < found.loss[0] < 1e-80
    assert found.loss[2] == pytest.approx(400.0)


def test_margin_and_correct() -> None:
    found = signals_from_logits(np.array([[1.0, 4.0, 2.0], [3.0, 1.0, 3.5]]), np.array([1, 0]))
    assert found.margin.tolist() == [2.0, -0.5]
    assert found.correct.tolist() == [True, False]


def test_no_rows() -> None:
    found = signals_from_logits(np.zeros((0, 3)), np.zeros(0, dtype=int))
    assert found.loss.shape == found.phi.shape == found.correct.shape == (0,)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((3, 4)), np.array([0, 4, 1]), r"label 4 of row 1 is out of range: logits have 4 classes"),
        (np.zeros((3, 4)), np.array([0, 1, -2]), r"label -2 of row 2"),
        (np.array([[0.0, 1.0], [np.nan, 0.0]]), np.array([0, 0]), r"sample 1 .*NaN"),
        (np.array([[0.0, np.inf]]), np.array([0]), r"sample 0 "),
        (np.zeros((3, 1)), np.zeros(3, dtype=int), r"\(3, 1\)"),
        (np.zeros((3, 4)), np.zeros(2, dtype=int), r"\(2,\).*\(3, 4\)"),
        (np.zeros((3, 4)), np.zeros(3), r"float64"),
    ],
)
def test_what_cannot_be_right(logits: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        signals_from_logits(logits, labels)


@settings(deadline=None)
@given(st.floats(-700, 36))
def test_phi_from_loss_inverts(phi: float) -> None:
    # Above 36 the loss itself is below the resolution that 1 + exp(-phi) has, yet log1p keeps it.
    assert phi_from_loss(loss_from_phi(np.array([phi])))[0] == pytest.approx(phi, rel=1e-9, abs=1e-9)


def test_rounded_losses_are_read_at_the_ends() -> None:
    assert phi_from_loss(np.array([0.0]))[0] == pytest.approx(25 * np.log(2), rel=1e-6)
    # A smaller positive loss beside it: the rounded one is not read as worse.
    assert phi_from_loss(np.array([0.0, 1e-12])).tolist() == pytest.approx([-np.log(1e-12)] * 2)
    assert phi_from_loss(np.array([np.inf]))[0] == pytest.approx(-103.28)
    assert phi_from_loss(np.array([np.inf, 500.0])).tolist() == pytest.approx([-500.0, -500.0])
    assert np.isfinite(phi_from_loss(np.array([[0.0, np.inf], [1e-300, 1e300]]))).all()
    assert phi_from_loss(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("bad", [-0.25, np.nan, -np.inf])
def test_a_loss_that_is_none(bad: float) -> None:
    losses = np.ones((2, 3))
    losses[1, 2] = bad
    with pytest.raises(InvalidInput, match=r"loss\[1, 2\] is"):
        phi_from_loss(losses)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_step_signals_agree(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(64, 7, generator=generator) * 20).to(dtype)
    labels = torch.randint(0, 7, (64,), generator=generator)
    loss, margin = loss_and_margin(logits, labels)
    found = signals_from_logits(logits.float().numpy(), labels.numpy())
    assert loss.dtype == margin.dtype == torch.float32
    np.testing.assert_allclose(loss.numpy(), found.loss, rtol=2e-4, atol=1e-30)
    np.testing.assert_allclose(margin.numpy(), found.margin, rtol=1e-5, atol=1e-5)


def test_step_loss_does_not_round_to_zero() -> None:
    loss, _ = loss_and_margin(torch.tensor([[40.0, 0.0]]), torch.tensor([0]))
    assert loss.item() == pytest.approx(np.exp(-40), rel=1e-4)  # log-softmax in float32 says 0


def test_one_logit_as_two_classes() -> None:
    logits = two_class_logits(torch.tensor([[2.0], [-1.0]]))
    loss, _ = loss_and_margin(logits, torch.tensor([1, 1]))
    want = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor([2.0, -1.0]), torch.ones(2), reduction="none"
    )
    torch.testing.assert_close(loss, want)
