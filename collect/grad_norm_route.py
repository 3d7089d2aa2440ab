"""Which way to a per-sample gradient norm costs least, and how many samples to take at once."""

from __future__ import annotations

from typing import Literal

import torch

MatrixRoute = Literal["outer", "gram", "direct"]
ConvRoute = Literal["gram", "grouped", "shifted"]

HELD_NUMBERS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Numbers that one layer may hold beside its activations while it is worked on: 16 MB of float32, on a GPU 256 MB."""

_WIDE_PICTURE = 256
"""Output positions from which a CPU's grouped convolution beats one product per kernel element (measured)."""

_CACHED_ROWS = 32
"""Samples of a convolution at once on a CPU; with more the caches overflow, with fewer calls dominate (measured)."""


def matrix_route(positions: int, outputs: int, inputs: int) -> MatrixRoute:
    """How to get |L^T R|_F of a sample with L (T, p) and R (T, d); T, p, d are the arguments.

    One position: |l| |r|. Otherwise the Gram matrices, sum(L L^T * R R^T), take 2 T^2 (p + d) operations and
    the product itself 2 T p d: the cheaper of the two by operations, not by memory.
    """
    if positions == 1:
        return "outer"
    return "gram" if positions * (outputs + inputs) <= outputs * inputs else "direct"


def conv_route(positions: int, outputs: int, inputs: int, device: torch.device) -> ConvRoute:
    """The same for a convolution: p = outputs of a group, d = inputs of a group times the kernel's size.

    The product is either one grouped convolution, a group a sample, or one batched product a kernel element.
    """
    if positions * (outputs + inputs) <= outputs * inputs:
        return "gram"
    return "grouped" if device.type == "cpu" and positions >= _WIDE_PICTURE else "shifted"


def parts(rows: int, numbers: int, device: torch.device, *, convolution: bool = False) -> list[slice]:
    """The batch in slices, so that ``numbers`` held for each sample stay within HELD_NUMBERS (or are one sample's)."""
    size = max(1, HELD_NUMBERS.get(device.type, HELD_NUMBERS["cpu"]) // max(1, numbers))
    if convolution and device.type == "cpu":
        size = min(size, _CACHED_ROWS)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
