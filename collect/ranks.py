"""Training in several processes (DDP): each records what it sees, the first one writes."""

from __future__ import annotations

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


def several() -> bool:
    """Whether this process is one of several that train one model."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def writes() -> bool:
    """Whether this process is the one that writes to the lake."""
    return not several() or distributed.get_rank() == 0


def inner_model(model: nn.Module) -> nn.Module:
    """The model itself: a forward pass of DDP's wrapper in one process alone would wait for the others."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def merge_epoch(
    loss: torch.Tensor, margin: torch.Tensor, seen: torch.Tensor, wrong: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """One epoch's values (N,) over all processes, the same in each; every process must call it.

    A sample that several of them saw, as the sampler's padding makes it, gets the mean of its values.
    """
    counts = seen.to(loss.dtype)
    # One exchange: all four in a tensor. The count of wrong labels is small enough for a float.
    joined = torch.cat(
        [torch.where(seen, loss, 0.0), torch.where(seen, margin, 0.0), counts, wrong.to(loss.dtype)]
    )
    distributed.all_reduce(joined)
    n = len(loss)
    total = joined[2 * n : 3 * n]
    divisor = total.clamp(min=1)
    return joined[:n] / divisor, joined[n : 2 * n] / divisor, total > 0, joined[3 * n :].to(wrong.dtype)
