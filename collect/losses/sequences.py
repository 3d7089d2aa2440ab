"""Loss, margin and phi of a text under a causal language model: one number a sequence, not one a token.

The loss of a sequence is the mean negative log-likelihood of its target tokens, the logarithm of its perplexity, so
that long and short texts compare. Its p is exp(-loss), the geometric mean of its tokens' probabilities, and its
phi = log(p / (1 - p)), which is to the loss what it is for a classifier: loss = log(1 + exp(-phi)). Its margin is
the mean over its tokens of z_y - max of the other logits.
"""

from __future__ import annotations

import torch

from ...store.errors import InvalidInput
from .classes import loss_and_margin

IGNORED = -100
"""The label of a position that is no target: padding, a prompt. PyTorch's cross-entropy leaves it out likewise."""

_LOGITS_AT_ONCE = 1 << 24
"""Logits looked at together: the float32 copies that this takes stay small beside what a step holds anyway."""


def sequence_loss_and_margin(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and margin (B,) float32 of logits (B, T, V) and labels (B, T), both means over the target tokens.

    The logits at position t are of the token at t + 1, as causal models in transformers have it: labels are the
    inputs, and shifted here. A sequence without a target token has NaN. The host does not wait for the device.
    Raises InvalidInput for shapes that disagree.
    """
    if logits.ndim != 3 or labels.shape != logits.shape[:2]:
        raise InvalidInput(
            f"logits are {tuple(logits.shape)} and labels {tuple(labels.shape)}; a causal language model has logits "
            "(batch, positions, tokens) and labels (batch, positions)"
        )
    return position_loss_and_margin(logits[:, :-1], labels[:, 1:], IGNORED)


def position_loss_and_margin(
    logits: torch.Tensor, labels: torch.Tensor, ignored: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and margin (B,) float32 of logits (B, T, V) at labels (B, T) of the same positions, as they are.

    Means over the positions whose label is not ``ignored``; NaN without one. The host does not wait for the device.
    """
    rows = max(1, _LOGITS_AT_ONCE // max(1, logits.shape[1] * logits.shape[2]))
    losses, margins = [], []
    for z, y in zip(logits.split(rows), labels.split(rows), strict=True):
        target = y != ignored
        # What is ignored is looked up as token 0 and weighs nothing: picking the others out would wait for the device.
        loss, margin = loss_and_margin(
            z.flatten(0, 1), torch.where(y == ignored, 0, y).flatten().to(z.device)
        )
        count = target.sum(dim=1)
        # Not by a product: a loss that is infinite where it is ignored would spoil the sum.
        losses.append(loss.view(y.shape).where(target, 0.0).sum(dim=1) / count)
        margins.append(margin.view(y.shape).where(target, 0.0).sum(dim=1) / count)
    return torch.cat(losses), torch.cat(margins)
