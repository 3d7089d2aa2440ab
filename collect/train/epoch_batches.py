"""The records of an epoch as batches, and which of them are mirrored in it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..data.training import DeviceData
from ..recipe import Recipe

Flips = Callable[[torch.Tensor, int], bool | torch.Tensor]
"""``flips(ids, epoch)``: which of the records ids (B,) to mirror in an epoch, bool (B,), or only whether to mirror at
random."""


def split(ids: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Batches of ``size`` and a rest; a rest of one joins the batch before it, as BatchNorm needs two values."""
    parts = list(ids.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def flips_of(held: DeviceData, recipe: Recipe, generator: torch.Generator) -> Flips:
    """Whom the recipe mirrors. The generator, on the device of ``held``, is drawn from here and not later."""
    if not (recipe.flip and recipe.flip_order == "alternate" and held.pictures):
        return lambda ids, epoch: recipe.flip
    first = torch.rand(len(held.x), generator=generator, device=held.device) < 0.5
    return lambda ids, epoch: first[ids] ^ (epoch % 2 == 0)
