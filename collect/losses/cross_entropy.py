"""Clean cross-entropy and margin of each sample of a batch, where it lies, without making the host wait.

A text under a causal language model has one number, not one a token. Its loss is the mean negative log-likelihood of
its target tokens, the logarithm of its perplexity, so that long and short texts compare. Its p is exp(-loss), the
geometric mean of its tokens' probabilities, and its phi = log(p / (1 - p)), which is to the loss what it is for a
classifier: loss = log(1 + exp(-phi)). Its margin is the mean over its tokens of z_y - max of the other logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from ...store.errors import InvalidInput

IGNORED = -100
"""The label of a position that is no target: padding, a prompt. PyTorch's cross-entropy leaves it out likewise."""

_LOGITS_AT_ONCE = 1 << 24
"""Logits looked at together: the float32 copies that this takes stay small beside what a step holds anyway."""


def loss_and_margin(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-sample cross-entropy (B,) and margin z_y - max of the others (B,), float32, of logits (B, C).

    Clean: neither label smoothing, class weights nor reduction. The loss is log(1 + exp(-phi)) with
    phi = z_y - logsumexp of the others, so that it does not round to 0 as early as log-softmax does.
    A label outside 0..C-1 is not looked for: that would make the host wait.
    """
    z = logits.float()
    y = labels.unsqueeze(1)
    true = z.gather(1, y).squeeze(1)
    others = z.scatter(1, y, -torch.inf)
    phi = true - others.logsumexp(dim=1)
    return functional.softplus(-phi), true - others.amax(dim=1)


def as_logits(output: Any) -> torch.Tensor:
    """The first argument of a criterion as logits (B, C), detached.

    Raises InvalidInput for what is not logits (B, C), (B, 1), (B,).
    """
    if not isinstance(output, torch.Tensor) or output.ndim not in (1, 2):
        what = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise InvalidInput(
            f"logits are {what}; a model's output, the first argument of the criterion, must be logits of shape "
            "(batch, classes)"
        )
    return two_class_logits(output.detach())


def two_class_logits(output: torch.Tensor) -> torch.Tensor:
    """A lone logit a sample, (B,) or (B, 1), as logits (B, 2) of the classes 0 and 1; logits (B, C) as they are."""
    if output.ndim == 2 and output.shape[1] > 1:
        return output
    one = output.reshape(-1)
    return torch.stack([torch.zeros_like(one), one], dim=1)


def sequence_loss_and_margin(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and margin (B,) float32 of logits (B, T, V) and labels (B, T), both means over the target tokens.

    The logits at position t are of the token at t + 1, as causal models in transformers have it: labels are the
    inputs, and shifted here. A sequence without a target token has NaN. Raises InvalidInput for shapes that disagree.
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

    Means over the positions whose label is not ``ignored``; NaN without one.
    """
    rows = max(1, _LOGITS_AT_ONCE // max(1, logits.shape[1] * logits.shape[2]))
    losses, margins = [], []
    for z, y in zip(logits.split(rows), labels.split(rows), strict=True):
        target = y != ignored
        # What is ignored is looked up as token 0 and weighs nothing: picking the others out would wait for the device.
        loss, margin = loss_and_margin(z.flatten(0, 1), torch.where(target, y, 0).flatten().to(z.device))
        count = target.sum(dim=1)
        # Not by a product: a loss that is infinite where it is ignored would spoil the sum.
        losses.append(loss.view(y.shape).where(target, 0.0).sum(dim=1) / count)
        margins.append(margin.view(y.shape).where(target, 0.0).sum(dim=1) / count)
    return torch.cat(losses), torch.cat(margins)
