"""Clean loss and margin of one batch, on the device it lies on, without making the host wait."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from ...store.errors import InvalidInput


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


def two_class_logits(output: torch.Tensor) -> torch.Tensor:
    """A lone logit a sample, (B,) or (B, 1), as logits (B, 2) of the classes 0 and 1; logits (B, C) as they are."""
    if output.ndim == 2 and output.shape[1] > 1:
        return output
    one = output.reshape(-1)
    return torch.stack([torch.zeros_like(one), one], dim=1)


def as_logits(output: Any) -> torch.Tensor:
    """The first argument of a criterion, detached. Raises InvalidInput for what is not logits (B, C), (B, 1), (B,)."""
    if not isinstance(output, torch.Tensor) or output.ndim not in (1, 2):
        what = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise InvalidInput(
            f"logits are {what}; a model's output, the first argument of the criterion, must be logits of shape "
            "(batch, classes)"
        )
    return output.detach()
