"""What one use of a parameter in a forward pass adds to each sample's gradient of it; how many samples to take at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch

_SHORT = 2048
"""Rows up to which one pass in float32 is exact to a few 1e-7: PyTorch's adds up longer ones without any tree."""

HELD_NUMBERS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Numbers that one layer may hold beside its activations while it is worked on: 16 MB of float32, on a GPU 256 MB."""

_CACHED_NUMBERS = 1 << 19
"""Numbers that a CPU goes over at once; with more its caches overflow, with fewer the calls dominate (measured)."""

_NOTHING = nullcontext()


class Use(Protocol):
    """One use of one parameter: the gradient of sample i's share of the loss with respect to it, i = 0..B-1.

    Nothing here makes the host wait for the device.
    """

    @property
    def rows(self) -> int:
        """B."""

    @property
    def numbers(self) -> int:
        """Elements of the parameter."""

    def norms(self) -> torch.Tensor:
        """The L2 norm of each sample's gradient (B,)."""

    def per_sample(self, rows: slice) -> torch.Tensor:
        """The gradients of some samples (b, *shape of the parameter)."""

    def total(self) -> torch.Tensor:
        """Their sum over the batch, which is what autograd adds to ``.grad``; shape of the parameter."""


class Dense(NamedTuple):
    """The gradients themselves, (B, *shape): for biases, scales and other small parameters.

    ``found`` are their norms (B,), where they are known already.
    """

    values: torch.Tensor
    found: torch.Tensor | None = None

    @property
    def rows(self) -> int:
        return len(self.values)

    @property
    def numbers(self) -> int:
        return self.values[:1].numel()

    def norms(self) -> torch.Tensor:
        return row_norms(self.values) if self.found is None else self.found

    def per_sample(self, rows: slice) -> torch.Tensor:
        return self.values[rows]

    def total(self) -> torch.Tensor:
        return self.values.sum(0)


def norms_of_sum(uses: Sequence[Use], device: torch.device) -> torch.Tensor:
    """Norms (B,) of the sum of several uses' gradients, by making the gradients, some samples at a time."""
    found = []
    for rows in parts(uses[0].rows, 2 * uses[0].numbers, device):
        total = uses[0].per_sample(rows)
        for use in uses[1:]:
            total = total + use.per_sample(rows)
        found.append(row_norms(total))
    return torch.cat(found)


def row_norms(values: torch.Tensor) -> torch.Tensor:
    """The L2 norm of each row (B, ...), as (B,)."""
    flat = values if values.ndim == 2 else values.reshape(len(values), values[:1].numel())
    if flat.shape[1] <= _SHORT:
        return torch.linalg.vector_norm(flat, dim=1)
    return torch.linalg.vecdot(flat, flat).sqrt_()


def root(squared: torch.Tensor) -> torch.Tensor:
    """Norms (B,) from their squares, which are overwritten: sums of products, so rounding may leave less than nothing."""
    return squared.clamp_(min=0.0).sqrt_()


def wide(values: torch.Tensor) -> torch.Tensor:
    """Detached, and float32 at least: squares of float16 overflow, those of bfloat16 round."""
    if values.requires_grad:
        values = values.detach()
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def plain(values: torch.Tensor) -> AbstractContextManager[Any]:
    """Arithmetic on these values in their own precision, whatever the loop has set; no graph, as all went through `wide`."""
    device = values.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else _NOTHING


def parts(rows: int, numbers: int, device: torch.device, *, read: int = 0) -> list[slice]:
    """The batch in slices, so that ``numbers`` held for each sample stay within HELD_NUMBERS (or are one sample's).

    ``read``: how many numbers of each sample are gone over more than once.
    """
    size = HELD_NUMBERS.get(device.type, HELD_NUMBERS["cpu"]) // max(1, numbers)
    if read and device.type == "cpu":
        size = min(size, _CACHED_NUMBERS // read)
    size = max(1, size)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
