"""Loss and margin of each sample of a batch, of outputs whose meaning is known: logits of classes, of two, of positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from ...store.errors import InvalidInput
from ...store.format.schema import CROSS_ENTROPY
from .cross_entropy import as_logits, loss_and_margin, position_loss_and_margin

BY_HAND = "the loop's own, given to run.record"
"""The name of losses that came without one."""

POSITIONS = "mean cross-entropy of a record's positions"
LABELS = "mean binary cross-entropy of a record's labels"

_SHARES_OFF = 1e-2
"""How far from 1 class probabilities in a target may add up."""

_LEAST_LOGIT = -100.0
"""BCELoss takes no logarithm of a probability to be lower."""


@dataclass(frozen=True, eq=False)
class SampleLosses:
    """Loss (B,) float32; margin (B,), or None where there is none; which samples have another label than the table's.

    ``name`` says which loss it is, as the run's facts have it; ``by_label`` whether labels were compared for ``wrong``.
    """

    loss: torch.Tensor
    margin: torch.Tensor | None = None
    wrong: torch.Tensor | None = None
    name: str = CROSS_ENTROPY
    by_label: bool = True


def of_classes(
    output: torch.Tensor, target: torch.Tensor, known: torch.Tensor, highest: int | None, ignored: int
) -> SampleLosses:
    """Of logits (B, C) or lone ones and class numbers (B,), compared with those that the table is known to have."""
    logits = as_logits(output)
    labels = target.detach().reshape(-1).to(logits.device, non_blocking=True).long()
    # What the criterion leaves out has its label in the table, or else no loss.
    labels = torch.where(labels == ignored, known, labels)
    wrong = known != labels
    if highest is not None:
        return SampleLosses(*loss_and_margin(logits, labels), wrong)
    missing = labels < 0
    loss, margin = loss_and_margin(logits, labels.clamp(min=0))
    return SampleLosses(
        loss.masked_fill_(missing, torch.nan),
        margin.masked_fill_(missing, torch.nan),
        wrong & (known >= 0),
    )


def at_known(output: Any, target: Any, known: torch.Tensor, highest: int | None) -> SampleLosses:
    """At the table's labels. A target that is none of probabilities, as the first ones were, is wrong."""
    if highest is None:
        raise InvalidInput(
            "the target of the criterion is no class number a sample, and the samples table has no labels to take "
            "instead; give start_run samples with labels"
        )
    logits = as_logits(output)
    wrong = None
    if isinstance(target, torch.Tensor) and target.ndim == 2 and target.shape[1] > 1:
        t = target.detach().to(logits.device, non_blocking=True).float()
        # A one-hot target need not be the record's own: CutMix may put another picture over all of it.
        wrong = (t.sum(1) - 1).abs() > _SHARES_OFF
    return SampleLosses(*loss_and_margin(logits, known), wrong, by_label=False)


def logit(p: torch.Tensor) -> torch.Tensor:
    """Of probabilities, as BCELoss takes their logarithms."""
    return torch.logit(p).clamp(_LEAST_LOGIT, -_LEAST_LOGIT)


def binary_loss(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Cross-entropies of logits z at shares t of class 1, of one shape."""
    # softplus keeps what 1 - p rounds away; an infinite logit of the other class must not count 0 times infinity.
    yes, no = functional.softplus(-z), functional.softplus(z)
    return torch.where(t == 1, yes, torch.where(t == 0, no, t * yes + (1 - t) * no))


def of_two_classes(
    z: torch.Tensor, t: torch.Tensor, known: torch.Tensor, highest: int | None
) -> SampleLosses:
    """Of lone logits z and targets t (B,) from 0 to 1."""
    wrong = None
    if highest is not None and highest <= 1:
        # Of the table's labels, so that label smoothing and mixup are not in it. Only a batch without these can
        # be told to be another one.
        own = known.float()
        wrong = ((t == 0) | (t == 1)).all() & (t != own)
        t = own
    hard = (t == 0) | (t == 1)
    margin = torch.where(hard, torch.where(t == 1, z, -z), torch.nan)
    return SampleLosses(binary_loss(z, t), margin, wrong)


def of_positions(
    output: torch.Tensor, target: torch.Tensor, ignored: int, *, maybe_last: bool
) -> SampleLosses:
    """Of logits (B, C, ...) or, ``maybe_last``, (B, ..., C) and class numbers (B, ...): means over a sample's positions."""
    second = output.shape[:1] + output.shape[2:] == target.shape
    last = maybe_last and output.shape[:-1] == target.shape
    if second == last:
        raise InvalidInput(
            f"logits are {tuple(output.shape)} and targets {tuple(target.shape)}; with targets (batch, positions) logits "
            + (
                "must be (batch, classes, positions)"
                if not last
                else "of as many classes as positions cannot be told which is which; use torch's cross_entropy"
            )
        )
    z = output.flatten(2).transpose(1, 2) if second else output.flatten(1, -2)
    labels = target.flatten(1).to(z.device, non_blocking=True).long()
    return SampleLosses(*position_loss_and_margin(z, labels, ignored), name=POSITIONS)


def looks_like_probabilities(output: Any, target: Any, highest: int | None) -> bool:
    """Whether a target of the output's shape holds shares of the table's classes, as mixup makes them."""
    if highest is None or not isinstance(output, torch.Tensor) or not isinstance(target, torch.Tensor):
        return False
    if output.ndim not in (1, 2) or target.numel() != output.numel() or not target.is_floating_point():
        return False
    t = target.detach().float().reshape(len(output), -1)
    if highest >= max(2, t.shape[1]):
        return False
    sums = t.shape[1] == 1 or bool(((t.sum(1) - 1).abs() < _SHARES_OFF).all())
    return sums and bool(((t >= 0) & (t <= 1)).all())
