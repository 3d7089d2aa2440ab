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
        return correlation_metric(None, n, parameters)
    rho = float(np.corrcoef(one, other)[0, 1])
    return correlation_metric(min(1.0, max(-1.0, rho)), n, parameters)


def correlation_metric(rho: float | None, n: int, parameters: Mapping[str, Any]) -> Metric:
    """A rho with its interval, p-value and strength: weak under 0.4, moderate to 0.59, strong from 0.6 on."""
    if rho is None:
        return Metric("spearman", None, n=n, parameters=parameters)
    strength = "weak" if abs(rho) < 0.4 else "moderate" if abs(rho) < 0.6 else "strong"
    extra = {"p_value": correlation_p_value(rho, n), "strength": strength}
    return Metric("spearman", rho, *spearman_interval(rho, n), n=n, parameters={**parameters, **extra})
