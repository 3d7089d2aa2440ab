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
    loss: torch.Tensor,
    margin: torch.Tensor,
    seen: torch.Tensor,
    counts: torch.Tensor,
    grad_norm: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """One epoch's values (N,) over all processes, the same in each and in the same order; every process must call it.

    A sample that several of them saw, as the sampler's padding makes it, gets the mean of its values, of those of
    grad_norm that are numbers. ``counts`` (K,) are added up; they are small enough for a float.
    """
    means = [(loss, seen), (margin, seen)]
    if grad_norm is not None:
        means.append((grad_norm, ~grad_norm.isnan()))
    # One exchange: everything in a tensor.
    parts = [
        part for value, known in means for part in (torch.where(known, value, 0.0), known.to(loss.dtype))
    ]
    joined = torch.cat([*parts, counts.to(loss.dtype)])
    distributed.all_reduce(joined)
    *sums, added = joined.split([len(loss)] * len(parts) + [len(counts)])
    merged = [total / times.clamp(min=1) for total, times in zip(sums[::2], sums[1::2], strict=True)]
    of_epoch = merged[0], merged[1], sums[1] > 0, added.to(counts.dtype)
    return of_epoch if grad_norm is None else (*of_epoch, torch.where(sums[5] > 0, merged[2], torch.nan))
