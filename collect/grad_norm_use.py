"""What one use of a parameter in a forward pass adds to each sample's gradient of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch

from .grad_norm_route import parts


class Use(Protocol):
    """One use of one parameter: the gradient of sample i's share of the loss with respect to it, i = 0..B-1.

    Nothing here makes the host wait for the device.
    """

    @property
    def rows(self) -> int:
        """B."""
        ...

    @property
    def numbers(self) -> int:
        """Elements of the parameter."""
        ...

    def squared_norm(self) -> torch.Tensor:
        """The squared L2 norm of each sample's gradient (B,)."""
        ...

    def per_sample(self, rows: slice) -> torch.Tensor:
        """The gradients of some samples (b, *shape of the parameter)."""
        ...

    def total(self) -> torch.Tensor:
        """Their sum over the batch, which is what autograd adds to ``.grad``; shape of the parameter."""
        ...


@dataclass(frozen=True, eq=False)
class Dense:
    """The gradients themselves, (B, *shape): for biases, scales and other small parameters."""

    values: torch.Tensor

    @property
    def rows(self) -> int:
        return len(self.values)

    @property
    def numbers(self) -> int:
        return self.values[:1].numel()

    @cached_property
    def _squared_norm(self) -> torch.Tensor:
        return squares(self.values)

    def squared_norm(self) -> torch.Tensor:
        return self._squared_norm

    def per_sample(self, rows: slice) -> torch.Tensor:
        return self.values[rows]

    def total(self) -> torch.Tensor:
        return self.values.sum(0)


def squared_norm_of_sum(uses: Sequence[Use], device: torch.device) -> torch.Tensor:
    """Squared norms (B,) of the sum of several uses' gradients, by making the gradients, some samples at a time."""
    found = []
    for rows in parts(uses[0].rows, 2 * uses[0].numbers, device):
        total = uses[0].per_sample(rows)
        for use in uses[1:]:
            total = total + use.per_sample(rows)
        found.append(squares(total))
    return torch.cat(found)


def squares(values: torch.Tensor) -> torch.Tensor:
    """The sum of squares of each row (B, ...), as (B,)."""
    flat = values.flatten(1)
    return torch.linalg.vecdot(flat, flat)


def wide(values: torch.Tensor) -> torch.Tensor:
    """Detached, and float32 at least: squares of float16 overflow, those of bfloat16 round."""
    if values.requires_grad:
        values = values.detach()
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def plain(values: torch.Tensor) -> AbstractContextManager[Any]:
    """Arithmetic on these values without gradients and in their own precision, whatever the loop has set."""
    # A backward pass has neither switched on, as a rule, and entering a context costs as much as a small layer.
    if torch.is_autocast_enabled(values.device.type):
        return _plain(values.device.type)
    return torch.no_grad() if torch.is_grad_enabled() else nullcontext()


@contextmanager
def _plain(device: str) -> Iterator[None]:
    with torch.no_grad(), torch.autocast(device, enabled=False):
        yield
