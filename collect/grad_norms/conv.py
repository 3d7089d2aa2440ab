"""Per-sample gradients of convolutions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from .use import Dense, Use, parts, root, row_norms, wide

_WEIGHT_GRADIENTS: Mapping[int, Any] = {1: conv1d_weight, 2: conv2d_weight, 3: conv3d_weight}

_WIDE_PICTURE = 256
"""Output positions from which a CPU's grouped convolution beats one product per kernel element (measured)."""

_SUM = 8
"""What adding an element of one matrix to another costs beside an operation of a product (measured on a CPU)."""


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution's gradient of its weight (O, C / groups, *kernel).

    x (B, C, *S) is its input, zeros of ``padding`` on both sides still missing; grad (B, O, *S').
    """

    x: torch.Tensor
    grad: torch.Tensor
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def rows(self) -> int:
        return len(self.x)

    @property
    def numbers(self) -> int:
        return self.grad.shape[1] * self.x.shape[1] // self.groups * math.prod(self.kernel)

    def norms(self) -> torch.Tensor:
        channels, pixels = self.x.shape[1] // self.groups, math.prod(self.x.shape[2:])
        outputs, positions = self.grad.shape[1] // self.groups, self._positions
        route = conv_route(positions, outputs, channels, pixels, self.kernel, self.x.device)
        if route == "grouped":
            return torch.cat([row_norms(self.per_sample(rows)) for rows in self._parts(self.numbers)])
        if route == "shifted":
            held = self.numbers // math.prod(self.kernel) + self._padded_numbers
            return torch.cat([self._by_shifts(rows) for rows in self._parts(held)])
        inputs = self._gram_of_windows if route == "gram of windows" else self._gram_of_shifts
        widest = max(positions, pixels) if route == "gram of windows" else positions
        held = 3 * self.groups * widest**2 + self._padded_numbers
        return root(torch.cat([self._by_gram(rows, inputs) for rows in self._parts(held)]))

    def per_sample(self, rows: slice) -> torch.Tensor:
        # The batch as one sample with b times the channels in b times the groups.
        x, grad = self.x[rows], self.grad[rows]
        shape = (len(x) * grad.shape[1], x.shape[1] // self.groups, *self.kernel)
        one, many = x.reshape(1, -1, *x.shape[2:]), grad.reshape(1, -1, *grad.shape[2:])
        made = self._weight_gradient(one, shape, many, len(x) * self.groups)
        return made.reshape(len(x), -1, *shape[1:])

    def total(self) -> torch.Tensor:
        shape = (self.grad.shape[1], self.x.shape[1] // self.groups, *self.kernel)
        return self._weight_gradient(self.x, shape, self.grad, self.groups)

    def _parts(self, held: int) -> list[slice]:
        read = max(self.x[:1].numel(), self.grad[:1].numel())
        return parts(self.rows, held, self.x.device, read=read)

    @property
    def _positions(self) -> int:
        return math.prod(self.grad.shape[2:])

    @property
    def _padded_numbers(self) -> int:
        """Elements of one padded input and of one copy of the output's size."""
        sides = (size + 2 * pad for size, pad in zip(self.x.shape[2:], self.padding))
        return self.x.shape[1] * (math.prod(sides) + self._positions)

    def _weight_gradient(
        self, x: torch.Tensor, shape: tuple[int, ...], grad: torch.Tensor, groups: int
    ) -> torch.Tensor:
        made: torch.Tensor = _WEIGHT_GRADIENTS[len(self.kernel)](
            x, shape, grad, self.stride, self.padding, self.dilation, groups
        )
        return made

    def _by_shifts(self, rows: slice) -> torch.Tensor:
        grad = self._grad_matrices(rows)
        norms = [row_norms(grad @ seen) for seen in self._shifts(rows)]
        return torch.linalg.vector_norm(torch.stack(norms), dim=0)

    def _by_gram(self, rows: slice, inputs: Callable[[slice], torch.Tensor]) -> torch.Tensor:
        grad = self._grad_matrices(rows)
        gram = grad.transpose(2, 3) @ grad
        return torch.linalg.vecdot(gram.flatten(1), inputs(rows).flatten(1))

    def _gram_of_shifts(self, rows: slice) -> torch.Tensor:
        """Products of what any two output positions see (b, groups, T, T): a sum over the kernel's elements."""
        grams = (seen @ seen.transpose(2, 3) for seen in self._shifts(rows))
        total = next(grams)
        for gram in grams:
            total += gram
        return total

    def _gram_of_windows(self, rows: slice) -> torch.Tensor:
        """The same, from the products of any two input positions.

        An element of the kernel moves both output positions by the same step, so its share is a window of that one
        matrix, and the sum over a box of elements is one sum a dimension.
        """
        x, dims = self.x[rows], len(self.kernel)
        pixels = x.reshape(len(x) * self.groups, x.shape[1] // self.groups, -1)
        gram = (pixels.transpose(1, 2) @ pixels).view(-1, *x.shape[2:], *x.shape[2:])
        for dim in range(dims):
            outputs = self.grad.shape[2 + dim]
            shape = list(gram.shape)
            shape[1 + dim] = shape[1 + dim + dims] = outputs
            total = gram.new_zeros(shape)
            for at in range(self.kernel[dim]):
                first, count, start = self._inside(dim, at)
                if count > 0:
                    step = self.stride[dim]
                    seen = slice(start, start + step * (count - 1) + 1, step)
                    total[_both(dim, dims, slice(first, first + count))] += gram[_both(dim, dims, seen)]
            gram = total
        return gram.view(len(x), self.groups, self._positions, self._positions)

    def _inside(self, dim: int, at: int) -> tuple[int, int, int]:
        """Where an element ``at`` of the kernel sees the input, not its padding: first output, how many, first input."""
        stride, size = self.stride[dim], self.x.shape[2 + dim]
        shift = at * self.dilation[dim] - self.padding[dim]
        first = max(0, -(shift // stride))
        last = min(self.grad.shape[2 + dim] - 1, (size - 1 - shift) // stride)
        return first, last - first + 1, first * stride + shift

    def _shifts(self, rows: slice) -> Iterator[torch.Tensor]:
        """What each element of the kernel sees at every output position: (b, groups, T, C / groups)."""
        x = functional.pad(self.x[rows], [pad for pad in reversed(self.padding) for _ in range(2)])
        last = x.movedim(1, -1).contiguous()
        for offset in itertools.product(*map(range, self.kernel)):
            window = tuple(
                slice(at * dilation, at * dilation + stride * (size - 1) + 1, stride)
                for at, dilation, stride, size in zip(offset, self.dilation, self.stride, self.grad.shape[2:])
            )
            seen = last[(slice(None), *window)].reshape(len(x), self._positions, self.groups, -1)
            yield seen.transpose(1, 2)

    def _grad_matrices(self, rows: slice) -> torch.Tensor:
        """(b, groups, O / groups, T)."""
        grad = self.grad[rows]
        return grad.reshape(len(grad), self.groups, -1, self._positions)


def conv_route(
    positions: int, outputs: int, channels: int, pixels: int, kernel: Sequence[int], device: torch.device
) -> Literal["gram of shifts", "gram of windows", "grouped", "shifted"]:
    """How to get the norm of a sample's gradient of a convolution.

    With p outputs and c channels of a group, T output and S input positions. The product takes T p c k operations, k the elements of the kernel: as one grouped convolution, a group a sample, or
    as one batched product for each element of the kernel ("shifted"). Gram matrices take T^2 (p + c k) where each
    element of the kernel has one, or T^2 p + S^2 c and sums of windows of one between all input positions.
    """
    elements = math.prod(kernel)
    product = positions * outputs * channels * elements
    shifts = positions**2 * (outputs + channels * elements)
    windows = positions**2 * outputs + pixels**2 * (channels + _SUM * sum(kernel))
    if min(shifts, windows) <= product:
        return "gram of shifts" if shifts <= windows else "gram of windows"
    return "grouped" if device.type == "cpu" and positions >= _WIDE_PICTURE else "shifted"


def _both(dim: int, dims: int, part: slice) -> tuple[slice, ...]:
    """Index of a part of one dimension of (b, *S, *S), in both places."""
    index = [slice(None)] * (1 + 2 * dims)
    index[1 + dim] = index[1 + dim + dims] = part
    return tuple(index)


def convolution(module: Any, x: torch.Tensor | None, grad: torch.Tensor) -> dict[str, Use]:
    """Uses of weight and bias of nn.Conv1d, Conv2d or Conv3d, from its input and its output's gradient.

    Without the input only the bias.
    """
    g = wide(grad)
    uses: dict[str, Use] = {}
    if module.bias is not None:
        uses["bias"] = Dense(g.flatten(2).sum(2))
    if x is not None:
        padded, padding = _pad(module, wide(x))
        uses["weight"] = Convolution(
            padded, g, module.kernel_size, module.stride, padding, module.dilation, module.groups
        )
    return uses


def _pad(module: Any, x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
    """The input with the padding that a plain convolution cannot do itself, and what is left to that one."""
    if module.padding == "valid":
        sides = [(0, 0)] * len(module.kernel_size)
    elif module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size)]
        sides = [(total // 2, total - total // 2) for total in totals]
    else:
        sides = [(pad, pad) for pad in module.padding]
    if module.padding_mode == "zeros" and all(low == high for low, high in sides):
        return x, tuple(low for low, _ in sides)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    amounts = [amount for side in reversed(sides) for amount in side]
    return functional.pad(x, amounts, mode=mode), (0,) * len(sides)
