"""Probabilities where logits are meant: seen by their rows, and turned into logits, or refused."""

from __future__ import annotations

import torch

_ROUNDING = {torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""How far from 1 the probabilities of a row may add up; 1e-3 where it is not of half precision."""

ENOUGH_ROWS = 8
"""Rows that all add up to 1 by no chance."""


def are_probabilities(output: torch.Tensor, *, classes: int) -> bool:
    """Whether all rows of ``output`` are shares of the classes in dimension ``classes``, two or more, that add up to 1.

    That is what softmax gives, and logits do not. The host waits for the device. False without a row.
    """
    if output.ndim < 2 or output.shape[classes] < 2 or not output.numel() or not output.is_floating_point():
        return False
    z = output.detach()
    off = (z.float().sum(classes) - 1).abs().amax()
    return bool((z.amin() >= 0) & (off <= _ROUNDING.get(z.dtype, 1e-3)))


def logits_of(probabilities: torch.Tensor) -> torch.Tensor:
    """The logarithms of probabilities, whose softmax they are; of 0 that of the least number of float32."""
    p = probabilities.detach().float()
    return p.clamp(min=torch.finfo(torch.float32).tiny).log()
