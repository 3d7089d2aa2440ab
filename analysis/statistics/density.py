"""Gaussian kernel densities in one dimension, of any number of values and as fast as of a few thousand.

A kernel a value would cost values x places. Values that lie within a fraction of a bandwidth of each other are taken
together instead: a cell's Gaussian has their count, their mean and their variance added to the kernel's. The first two
moments are then exact, and so is the density of values that have a cell to themselves. At the places where it is asked
for, only cells near enough to count are summed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CELLS_A_BANDWIDTH = 128
"""Against a kernel a value, log densities then differ by less than 1e-6 within eight bandwidths of the values."""

_NEGLIGIBLE = 32.0
"""Cells whose share is below e^-32 of the nearest cell's are left out."""

_EQUAL = 1e-12
"""Values whose bandwidth is at most this share of their mean are equal but for rounding."""

_POINT = 1e-6
"""A set whose bandwidth is at most this share of that of both sets is a single point beside the other."""

_PLACES = 1_024
"""Places evaluated at once, at most; being sorted they lie close together and share their cells."""

_PAIRS = 4_194_304
"""Places times cells evaluated at once, at most: 32 MB."""


@dataclass(frozen=True, eq=False)
class Density:
    """A mixture of Gaussians: ``centre``, ``variance`` and ``count`` of K cells, K >= 1, centres ascending."""

    centre: Floats
    variance: Floats
    count: Floats

    def log_at(self, places: Floats) -> Floats:
        """Natural logarithm of the density at finite places (N,); finite however far they lie from every value."""
        order = np.argsort(places, kind="stable")
        found = np.empty(len(places))
        step = max(1, min(_PLACES, _PAIRS // len(self.centre)))
        for start in range(0, len(places), step):
            rows = order[start : start + step]
            found[rows] = self._log_at_sorted(places[rows])
        return found

    def _log_at_sorted(self, places: Floats) -> Floats:
        near = self._near(places)
        centre, variance = self.centre[near], self.variance[near]
        height = np.log(self.count[near] / self.count.sum()) - 0.5 * np.log(2 * np.pi * variance)
        exponent = places[:, None] - centre
        exponent *= exponent
        exponent *= -0.5 / variance
        exponent += height
        highest = exponent.max(axis=1)
        exponent -= highest[:, None]
        return highest + np.log(np.exp(exponent, out=exponent).sum(axis=1))

    def _near(self, places: Floats) -> slice:
        """The cells that count at any of these sorted places."""
        right = np.searchsorted(self.centre, places).clip(1, max(len(self.centre) - 1, 1))
        left = np.minimum(right - 1, len(self.centre) - 1)
        right = np.minimum(right, len(self.centre) - 1)
        distance = np.minimum(np.abs(places - self.centre[left]), np.abs(places - self.centre[right])).max()
        reach = np.sqrt(
            self.variance.max()
            * (distance**2 / self.variance.min() + 2 * (_NEGLIGIBLE + np.log(self.count.sum())))
        )
        return slice(
            int(np.searchsorted(self.centre, places[0] - reach)),
            int(np.searchsorted(self.centre, places[-1] + reach, "right")),
        )


@dataclass(frozen=True, eq=False)
class Cells:
    """Values gathered in K cells: their ``centre`` (mean, ascending), variance ``within`` and ``count``, arrays (K,)."""

    centre: Floats
    within: Floats
    count: Floats

    def smoothed(self, bandwidth: float) -> Density:
        """Their density with a Gaussian kernel of standard deviation ``bandwidth`` > 0; K >= 1."""
        return Density(self.centre, self.within + bandwidth * bandwidth, self.count)

    def moments(self) -> Moments:
        """Those of the values."""
        n = float(self.count.sum())
        mean = float((self.count * self.centre).sum()) / n
        squares = float((self.count * (self.within + (self.centre - mean) ** 2)).sum())
        return Moments(n, mean, squares / n)


def density(values: Floats, bandwidth: float) -> Density:
    """The density of finite values (n,), n >= 1, with a Gaussian kernel of standard deviation ``bandwidth`` > 0."""
    ranked = np.sort(values)
    cell = np.floor((ranked - ranked[0]) * (CELLS_A_BANDWIDTH / bandwidth))
    first = np.flatnonzero(np.diff(cell, prepend=-1.0))
    count = np.diff(np.append(first, len(ranked))).astype(np.float64)
    # Sums from each cell's own first value: far from 0 squares would cancel.
    offset = ranked - np.repeat(ranked[first], count.astype(np.int64))
    mean = np.add.reduceat(offset, first) / count
    within = np.maximum(np.add.reduceat(offset * offset, first) / count - mean * mean, 0.0)
    return Cells(ranked[first] + mean, within, count).smoothed(bandwidth)


def densities(first: Floats, second: Floats) -> tuple[Density, Density]:
    """The densities of two sets of finite values, neither of them empty, with the bandwidths of `bandwidths`."""
    chosen = bandwidths(Moments.of(first), Moments.of(second))
    return density(first, chosen[0]), density(second, chosen[1])


@dataclass(frozen=True)
class Moments:
    """Number, mean and variance (divided by n) of some values."""

    n: float
    mean: float
    variance: float

    @classmethod
    def of(cls, values: Floats) -> Moments:
        return cls(len(values), float(values.mean()), float(values.var()))

    def with_others(self, other: Moments) -> Moments:
        """Those of both sets of values together."""
        n = self.n + other.n
        apart = (other.mean - self.mean) ** 2 * self.n * other.n / n
        return Moments(
            n,
            (self.n * self.mean + other.n * other.mean) / n,
            (self.n * self.variance + other.n * other.variance + apart) / n,
        )

    def scott(self) -> float:
        """Scott's bandwidth: n^(-1/5) times the standard deviation, which divides by n - 1; 0 for one value."""
        return math.sqrt(self.variance * self.n / (self.n - 1)) * self.n**-0.2 if self.n > 1 else 0.0


def bandwidths(first: Moments, second: Moments) -> tuple[float, float]:
    """Scott's bandwidth (Scott 1992) for the kernels of two sets of values, always above 0.

    A set without a spread, of one value or of equal ones, takes that of all values of both sets; 1 where these are
    equal too, and the two densities are then the same.
    """
    both = first.with_others(second)
    shared = both.scott()
    if shared <= _EQUAL * abs(both.mean):
        return 1.0, 1.0
    own = first.scott(), second.scott()
    return (
        own[0] if own[0] > _POINT * shared else shared,
        own[1] if own[1] > _POINT * shared else shared,
    )
