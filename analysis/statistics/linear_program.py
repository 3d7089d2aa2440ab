"""The least value that a distribution over cells can have, given bands that linear functions of it keep within.

A linear program of a few rows and some hundred columns, by the dual simplex method with bounds on both sides. Its answer is proven, or not
given: weights of the rows bound the value from below, whatever way they were found.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_STEPS = 2_000
_GAP = 1e-9
"""Between the value of a distribution and the bound on all of them, at most."""

_FEASIBLE, _PIVOT = 1e-11, 1e-9
_TILT = 1e-11
"""Costs are parted by up to this, so that no two bases are worth the same and none is met twice."""


def least(costs: Floats, rows: Floats, bands: Floats) -> float | None:
    """The least ``costs @ x`` of all x >= 0 that sum to 1 with ``rows @ x`` within ``bands`` (rows, 2): a lower bound that some x
    comes within 1e-9 of. None where no such x was found, be it that there is none.
    """
    height, width = rows.shape
    # Unknowns are x and, of each row, what it comes to: rows @ x - s = 0, sum(x) = 1, all of them between two bounds.
    matrix = np.zeros((height + 1, width + height))
    matrix[:height, :width], matrix[:height, width:] = rows, -np.eye(height)
    matrix[height, :width] = 1
    target = np.zeros(height + 1)
    target[height] = 1
    low = np.concatenate([np.zeros(width), bands[:, 0]])
    high = np.concatenate([np.ones(width), bands[:, 1]])
    cost = np.concatenate([costs, np.zeros(height)])
    tilted = cost + _TILT * ((np.arange(1, len(cost) + 1) * 0.6180339887498949) % 1)

    basis = np.append(np.arange(width, width + height), int(np.argmin(tilted[:width])))
    dual = np.linalg.solve(matrix[:, basis].T, tilted[basis])
    upper = tilted - dual @ matrix < 0
    for _ in range(_STEPS):
        inverse = np.linalg.inv(matrix[:, basis])
        reduced = tilted - (tilted[basis] @ inverse) @ matrix
        reduced[basis] = 0
        at = np.where(upper, high, low)
        at[basis] = 0
        values = inverse @ (target - matrix @ at)
        under, over = low[basis] - values, values - high[basis]
        short = np.maximum(under, over)
        leaving = int(np.argmax(short))
        if short[leaving] <= _FEASIBLE:
            at[basis] = values
            return _proven(cost, tilted, matrix, target, low, high, basis, at)
        # How each unknown would move the one that leaves towards its bound; of those that can, the ratio to its reduced cost.
        slope = (inverse[leaving] @ matrix) * (1 if under[leaving] > 0 else -1)
        slope[basis] = 0
        able = np.flatnonzero(np.where(upper, slope > _PIVOT, slope < -_PIVOT))
        if not len(able):
            return None
        ratio = np.abs(reduced[able] / slope[able])
        # Past an unknown that reaches its other bound before the gap is closed the dual still rises: it changes sides and stays out.
        order = np.argsort(ratio, kind="stable")
        reach = short[leaving] - np.cumsum((np.abs(slope[able]) * (high - low)[able])[order])
        closing = int(np.argmax(reach <= 0)) if (reach <= 0).any() else len(able)
        if closing == len(able):
            return None
        passed, entering = able[order[:closing]], able[order[closing]]
        upper[passed] = ~upper[passed]
        upper[basis[leaving]] = over[leaving] > 0
        basis[leaving] = entering
    return None


def _proven(
    cost: Floats,
    tilted: Floats,
    matrix: Floats,
    target: Floats,
    low: Floats,
    high: Floats,
    basis: npt.NDArray[np.int_],
    at: Floats,
) -> float | None:
    """What weights of the rows prove of the least value, if ``at`` comes as near to it as is promised."""
    best = -np.inf
    for costs in (cost, tilted):
        weights = np.linalg.solve(matrix[:, basis].T, costs[basis])
        left = cost - weights @ matrix
        best = max(best, float(weights @ target + np.where(left < 0, left * high, left * low).sum()))
    kept = np.abs(matrix @ at - target).max() < _GAP and (low - at).max() < _GAP and (at - high).max() < _GAP
    return best if kept and float(cost @ at) - best < _GAP else None
