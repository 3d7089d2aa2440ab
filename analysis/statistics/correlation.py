"""Spearman's rank correlation of two arrays."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from .intervals import correlation_p_value, spearman_interval
from .metric import Metric

Floats = npt.NDArray[np.float64]


def ranks(values: Floats) -> Floats:
    """Ranks from 1; tied values share their mean rank."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    return (ends - (count - 1) / 2)[place.ravel()]


def rank_correlation(one: Floats, other: Floats, parameters: Mapping[str, Any]) -> Metric:
    """Spearman's rho of two arrays without NaN; no value where one never varies."""
    return _of_ranks(ranks(one), ranks(other), parameters)


def rank_correlations(columns: Mapping[str, Floats], parameters: Mapping[str, Any]) -> list[Metric]:
    """The same of every pair of named arrays; each is ranked once."""
    ranked = {name: ranks(values) for name, values in columns.items()}
    return [
        _of_ranks(ranked[first], ranked[second], {"first": first, "second": second, **parameters})
        for first, second in combinations(columns, 2)
    ]


def _of_ranks(one: Floats, other: Floats, parameters: Mapping[str, Any]) -> Metric:
    n = len(one)
    if n < 2 or one.min() == one.max() or other.min() == other.max():
        return correlation_metric(None, None, n, parameters)
    rho, error = with_error(one, other)
    return correlation_metric(rho, error, n, parameters)


def with_error(one: Floats, other: Floats) -> tuple[float, float]:
    """Correlation of ranks and its standard error, from what each pair adds to it (its influence; Hampel 1974).

    A pair counts by its own place and as one that moves the ranks of all above it, so heavy tails, ties and any shape of
    dependence are covered; ``sql/spearman.sql`` says the same.
    """
    n = len(one)
    u, v = one - (n + 1) / 2, other - (n + 1) / 2
    # Sums, no products of vectors by a library whose threads decide the last bits.
    uu, vv, uv = (float((one * other).sum()) / n for one, other in ((u, u), (v, v), (u, v)))
    scale = float(np.sqrt(uu * vv))
    rho = min(1.0, max(-1.0, uv / scale))
    both = u * v + _above(u, v) + _above(v, u) - 3 * uv
    own = (u * u + 2 * _above(u, u) - 3 * uu) / uu + (v * v + 2 * _above(v, v) - 3 * vv) / vv
    influence = both / scale - rho / 2 * own
    return rho, float(np.sqrt((influence * influence).sum())) / n


def _above(rank: Floats, value: Floats) -> Floats:
    """Sum of ``value`` over the records of a higher rank, those of the same half."""
    order = np.argsort(rank, kind="stable")
    until = np.append(0.0, np.cumsum(value[order]))
    ranked = rank[order]
    places = np.searchsorted(ranked, rank, "left"), np.searchsorted(ranked, rank, "right")
    return np.asarray(until[-1] - (until[places[0]] + until[places[1]]) / 2)


def correlation_metric(
    rho: float | None, error: float | None, n: int, parameters: Mapping[str, Any]
) -> Metric:
    """A rho with its interval from its standard error, p-value and strength: weak under 0.4, moderate to 0.59, strong from 0.6 on."""
    if rho is None or error is None:
        return Metric("spearman", None, n=n, parameters=parameters)
    strength = "weak" if abs(rho) < 0.4 else "moderate" if abs(rho) < 0.6 else "strong"
    extra = {"p_value": correlation_p_value(rho, n), "strength": strength}
    return Metric("spearman", rho, *spearman_interval(rho, error, n), n=n, parameters={**parameters, **extra})
