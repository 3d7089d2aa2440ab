"""Spearman's rank correlation of two arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from .intervals import correlation_p_value, spearman_interval
from .metric import Metric

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ranked:
    """Ranks of values (n,) from 1, ties sharing their mean rank; and what the influence of each on a correlation takes of them.

    ``order`` sorts the values; ``below`` of them are less than each one, and ``through`` at most it. ``away`` is each rank less the mean
    of all, ``spread`` their variance (by n) and ``own`` each one's influence on that, relative.
    """

    rank: Floats
    order: npt.NDArray[np.intp]
    below: npt.NDArray[np.intp]
    through: npt.NDArray[np.intp]

    @classmethod
    def of(cls, values: Floats) -> Ranked:
        """Of values without NaN; they are sorted once."""
        order = np.argsort(values, kind="stable")
        ranked = values[order]
        first = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1])[: len(ranked)])
        count = np.diff(np.append(first, len(ranked)))
        below, through = np.empty(len(ranked), np.intp), np.empty(len(ranked), np.intp)
        below[order] = np.repeat(first, count)
        through[order] = np.repeat(first + count, count)
        return cls((below + through + 1) / 2, order, below, through)

    @cached_property
    def away(self) -> Floats:
        return self.rank - (len(self.rank) + 1) / 2

    @cached_property
    def spread(self) -> float:
        return _mean(self.away, self.away)

    @cached_property
    def own(self) -> Floats:
        u = self.away
        return (u * u + 2 * self.above(u) - 3 * self.spread) / self.spread

    def above(self, value: Floats) -> Floats:
        """Sum of ``value`` over the records of a higher rank, those of the same half."""
        until = np.append(0.0, np.cumsum(value[self.order]))
        return np.asarray(until[-1] - (until[self.below] + until[self.through]) / 2)


def _mean(one: Floats, other: Floats) -> float:
    # A sum, no product of vectors by a library whose threads decide the last bits.
    return float((one * other).sum()) / len(one)


def rank_correlation(one: Floats, other: Floats, parameters: Mapping[str, Any]) -> Metric:
    """Spearman's rho of two arrays without NaN; no value where one never varies."""
    return correlation_of(Ranked.of(one), Ranked.of(other), parameters)


def rank_correlations(ranked: Mapping[str, Ranked], parameters: Mapping[str, Any]) -> list[Metric]:
    """The same of every pair of named arrays that are ranked."""
    return [
        correlation_of(ranked[first], ranked[second], {"first": first, "second": second, **parameters})
        for first, second in combinations(ranked, 2)
    ]


def correlation_of(one: Ranked, other: Ranked, parameters: Mapping[str, Any]) -> Metric:
    """Spearman's rho of two arrays that are ranked; no value where one never varies."""
    n = len(one.rank)
    if n < 2 or one.spread == 0 or other.spread == 0:
        return correlation_metric(None, None, n, parameters)
    rho, error = with_error(one, other)
    return correlation_metric(rho, error, n, parameters)


def with_error(one: Ranked, other: Ranked) -> tuple[float, float]:
    """Correlation of ranks and its standard error, from what each pair adds to it (its influence; Hampel 1974).

    A pair counts by its own place and as one that moves the ranks of all above it, so heavy tails, ties and any shape of
    dependence are covered; ``sql/spearman.sql`` says the same.
    """
    u, v = one.away, other.away
    uv = _mean(u, v)
    scale = float(np.sqrt(one.spread * other.spread))
    rho = min(1.0, max(-1.0, uv / scale))
    both = u * v + one.above(v) + other.above(u) - 3 * uv
    influence = both / scale - rho / 2 * (one.own + other.own)
    return rho, float(np.sqrt((influence * influence).sum())) / len(u)


def correlation_metric(
    rho: float | None, error: float | None, n: int, parameters: Mapping[str, Any]
) -> Metric:
    """A rho with its interval from its standard error, p-value and strength: weak under 0.4, moderate to 0.59, strong from 0.6 on."""
    if rho is None or error is None:
        return Metric("spearman", None, n=n, parameters=parameters)
    strength = "weak" if abs(rho) < 0.4 else "moderate" if abs(rho) < 0.6 else "strong"
    extra = {"p_value": correlation_p_value(rho, n), "strength": strength}
    return Metric("spearman", rho, *spearman_interval(rho, error, n), n=n, parameters={**parameters, **extra})
