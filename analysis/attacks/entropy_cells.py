"""What shadow runs say of modified entropies, added up in cells: a run at a time, in memory that does not grow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..statistics.density import Cells, Density, bandwidths
from .modified_entropy import modified_entropy

Floats = npt.NDArray[np.float64]

LOWEST, HIGHEST = -80.0, 16.0
"""Logarithms of modified entropies are held between these: e^-80 is that of p_y = 1 - 4e-18."""

CELLS = 3_072
WIDTH = (HIGHEST - LOWEST) / CELLS
"""1/32. From a bandwidth of 1/16 log densities are within 5e-4 of those of a kernel a value."""


def log_modified_entropy(logits: npt.NDArray[np.floating], label: npt.NDArray[np.integer]) -> Floats:
    """log of the modified entropy of logits (R, C) at labels (R,), LOWEST to HIGHEST; NaN where there is none."""
    held = np.clip(modified_entropy(logits, label), np.exp(LOWEST), np.exp(HIGHEST))
    return np.log(held)


@dataclass(frozen=True, eq=False)
class EntropyCells:
    """What values add up to, by class, membership (0 out, 1 in) and cell: arrays (classes, 2, CELLS).

    ``offset`` and ``square`` are sums of the distances from the cells' lower bounds and of their squares, so that each
    cell keeps its mean and variance.
    """

    count: Floats
    offset: Floats
    square: Floats

    @classmethod
    def empty(cls, classes: int) -> EntropyCells:
        return cls(*(np.zeros((classes, 2, CELLS)) for _ in range(3)))

    def add(self, value: Floats, label: npt.NDArray[np.integer], member: npt.NDArray[np.bool_]) -> None:
        """Take in values of `log_modified_entropy`; NaN is left out."""
        known = ~np.isnan(value)
        value, side = value[known] - LOWEST, member[known].astype(np.int64)
        cell = np.minimum((value / WIDTH).astype(np.int64), CELLS - 1)
        place = (label[known] * 2 + side) * CELLS + cell
        offset = value - cell * WIDTH
        np.add.at(self.count.reshape(-1), place, 1.0)
        np.add.at(self.offset.reshape(-1), place, offset)
        np.add.at(self.square.reshape(-1), place, offset * offset)

    def densities(self, label: int) -> tuple[Density, Density] | None:
        """Densities of a class's members and non-members, Scott's bandwidths; None where either has no value."""
        members, others = self._cells(label, 1), self._cells(label, 0)
        if members is None or others is None:
            return None
        chosen = bandwidths(members.moments(), others.moments())
        return members.smoothed(chosen[0]), others.smoothed(chosen[1])

    def _cells(self, label: int, side: int) -> Cells | None:
        (filled,) = np.nonzero(self.count[label, side])
        if len(filled) == 0:
            return None
        count = self.count[label, side, filled]
        mean = self.offset[label, side, filled] / count
        within = self.square[label, side, filled] / count - mean * mean
        # What rounding leaves of equal values is no spread.
        return Cells(LOWEST + filled * WIDTH + mean, np.where(within > 1e-12, within, 0.0), count)
