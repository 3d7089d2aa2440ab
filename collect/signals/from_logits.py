"""What a finished model says about a sample: loss, phi, margin and correctness from logits, exact at the ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...store.errors import InvalidInput

Floats = npt.NDArray[np.float64]

LEAST_LOSS = 2.0**-25
"""What a loss of exactly 0 is read as: half the step of float32 below p = 1, where -log p rounds to 0."""

GREATEST_LOSS = 103.28
"""What an infinite loss is read as: -log p of the least positive float32 p (1.4e-45)."""


@dataclass(frozen=True, eq=False)
class SignalColumns:
    """Signals of R rows, each an array of shape (R,), float64 apart from ``correct``.

    loss     -log p_y, natural logarithm, >= 0; higher = worse fit
    phi      log p_y - log(1 - p_y); higher = better fit
    margin   z_y - max of the other logits; higher = better fit, above 0 = predicted right
    correct  whether the largest logit is that of the label (of equal ones the first counts)
    """

    loss: Floats
    phi: Floats
    margin: Floats
    correct: npt.NDArray[np.bool_]


def signals_from_logits(
    logits: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    *,
    where: str = "logits",
    first: int = 0,
) -> SignalColumns:
    """Signals of logits (R, C), C >= 2, at integer labels (R,); errors name the array ``where``, its rows from ``first`` on.

    phi = z_y - logsumexp of the other logits (Carlini et al. 2022, section V), which stays exact where p_y
    rounds to 0 or 1; loss = log(1 + exp(-phi)).

    Raises InvalidInput for shapes that disagree, a label outside 0..C-1 and a logit that is NaN or infinite.
    """
    z = np.asarray(logits, dtype=np.float64)
    y = np.asarray(labels)
    if z.ndim != 2 or z.shape[1] < 2:
        raise InvalidInput(
            f"{where} have shape {z.shape}; they must be (rows, classes) with at least two classes"
        )
    if y.shape != (len(z),) or not np.issubdtype(y.dtype, np.integer):
        raise InvalidInput(
            f"labels are {y.dtype} {y.shape}, but {where} have shape {z.shape}: one integer a row"
        )
    wrong = (y < 0) | (y >= z.shape[1])
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InvalidInput(
            f"label {y[row]} of row {first + row} is out of range: {where} have {z.shape[1]} classes, 0 to {z.shape[1] - 1}"
        )
    broken = ~np.isfinite(z).all(axis=1)
    if broken.any():
        row = int(np.argmax(broken))
        raise InvalidInput(
            f"{where} of sample {first + row} are NaN or infinite ({int(broken.sum())} such rows); "
            "the model has probably diverged"
        )
    rows = np.arange(len(z))
    true = z[rows, y]
    others = z.copy()
    others[rows, y] = -np.inf
    highest = others.max(axis=1, initial=-np.inf)
    phi = true - highest - np.log(np.exp(others - highest[:, None]).sum(axis=1))
    return SignalColumns(
        loss=loss_from_phi(phi),
        phi=phi,
        margin=true - highest,
        correct=z.argmax(axis=1) == y if len(z) else y == 0,
    )


@dataclass(frozen=True, eq=False)
class Answers:
    """What a finished model says of R samples: arrays (R,), logits (R, C), an array a sample of its tokens; None where there is no such
    thing."""

    loss: npt.NDArray[np.floating]
    phi: npt.NDArray[np.floating] | None
    label: npt.NDArray[np.integer] | None = None
    correct: npt.NDArray[np.bool_] | None = None
    logits: npt.NDArray[np.floating] | None = None
    token_losses: Sequence[npt.NDArray[np.floating]] | None = None
    token_z: Sequence[npt.NDArray[np.floating]] | None = None


def answers_from_logits(
    logits: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    *,
    where: str = "logits",
    first: int = 0,
) -> Answers:
    """The answers of a classifier; arguments and errors are those of `signals_from_logits`."""
    found = signals_from_logits(logits, labels, where=where, first=first)
    return Answers(found.loss, found.phi, labels, found.correct, logits)


def loss_from_phi(phi: npt.NDArray[np.floating]) -> Floats:
    """loss = log(1 + exp(-phi)), any shape, without overflow."""
    value = np.asarray(phi, dtype=np.float64)
    return np.maximum(-value, 0.0) + np.log1p(np.exp(-np.abs(value)))


def phi_from_loss(loss: npt.NDArray[np.floating], *, where: str = "loss") -> Floats:
    """phi = -log(exp(loss) - 1) of losses of any shape, always finite.

    A loss of exactly 0 was rounded: it is read as 2^-25, or as the smallest positive loss given where that is
    smaller. An infinite one is read as 103.28 (p = 1e-45, as in the original LiRA code), or as the largest
    finite loss given where that is larger.

    Raises InvalidInput for a negative or NaN loss, with its place.
    """
    value = np.array(loss, dtype=np.float64)
    wrong = np.isnan(value) | (value < 0)
    if wrong.any():
        place = np.unravel_index(int(np.argmax(wrong)), value.shape)
        raise InvalidInput(
            f"{where}{[int(i) for i in place]} is {value[place]}; a cross-entropy is 0 or more. "
            "Another kind of loss? Give phi or logits instead"
        )
    finite = value[np.isfinite(value)]
    value[value == 0] = min(LEAST_LOSS, float(finite[finite > 0].min(initial=np.inf)))
    value[np.isinf(value)] = max(GREATEST_LOSS, float(finite.max(initial=0.0)))
    return -value - np.log(-np.expm1(-value))
