"""Which way to a per-sample gradient norm costs least, and how many samples to take at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch

MatrixRoute = Literal["gram", "direct"]
ConvRoute = Literal["gram of shifts", "gram of windows", "grouped", "shifted"]

HELD_NUMBERS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Numbers that one layer may hold beside its activations while it is worked on: 16 MB of float32, on a GPU 256 MB."""

_WIDE_PICTURE = 256
"""Output positions from which a CPU's grouped convolution beats one product per kernel element (measured)."""

_CACHED_NUMBERS = 1 << 19
"""Numbers that a CPU goes over at once; with more its caches overflow, with fewer the calls dominate (measured)."""

_SUM = 8
"""What adding an element of one matrix to another costs beside an operation of a product (measured on a CPU)."""


def matrix_route(positions: int, outputs: int, inputs: int) -> MatrixRoute:
    """How to get |L^T R|_F of a sample with L (T, p) and R (T, d); T, p, d are the arguments.

    The Gram matrices, sum(L L^T * R R^T), take 2 T^2 (p + d) operations and the product itself 2 T p d: the cheaper of
    the two by operations, not by memory.
    """
    return "gram" if positions * (outputs + inputs) <= outputs * inputs else "direct"


def conv_route(
    positions: int, outputs: int, channels: int, pixels: int, kernel: Sequence[int], device: torch.device
) -> ConvRoute:
    """The same for a convolution with p outputs and c channels of a group, T output and S input positions.

    The product takes T p c k operations, k the elements of the kernel: as one grouped convolution, a group a sample, or
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


def parts(rows: int, numbers: int, device: torch.device, *, read: int = 0) -> list[slice]:
    """The batch in slices, so that ``numbers`` held for each sample stay within HELD_NUMBERS (or are one sample's).

    ``read``: how many numbers of each sample are gone over more than once.
    """
    size = HELD_NUMBERS.get(device.type, HELD_NUMBERS["cpu"]) // max(1, numbers)
    if read and device.type == "cpu":
        size = min(size, _CACHED_NUMBERS // read)
    size = max(1, size)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
