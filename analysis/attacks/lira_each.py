"""LiRA on every run in turn, each left out of its own fit, from one matrix of phi.

Asked run by run, an engine groups all signals anew for each of them. Here every sample's sums are made once, and what
one run adds to them is taken away again: mean and variance without a value follow from those with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

from .phi_matrix import PhiMatrix


@dataclass
class Side:
    """Runs counted, mean and sum of squared residuals of one side, (samples, queries) each, after some runs."""

    n: npt.NDArray[np.int32]
    mean: Floats
    squares: Floats

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Side:
        return cls(np.zeros(shape, np.int32), np.zeros(shape), np.zeros(shape))

    def add(self, values: Floats, used: Flags) -> None:
        """Take in one run's values where ``used`` (Welford's update)."""
        self.n += used
        away = np.where(used, values - self.mean, 0.0)
        self.mean += away / np.maximum(self.n, 1)
        self.squares += away * (np.where(used, values, self.mean) - self.mean)

    def variance(self, kind: str) -> Floats:
        own = self.squares / np.maximum(self.n, 1)
        pooled = self.squares.sum() / max(int(self.n.sum()), 1)
        return np.maximum(np.full_like(own, pooled) if kind == "pooled" else own, VARIANCE_FLOOR)


def growing(
    phi: npt.NDArray[np.float32], member: Flags, order: npt.NDArray[np.int64], numbers: list[int]
) -> Iterator[tuple[int, tuple[Side, Side]]]:
    """The fits (in, out) to the first runs of an order, at each of the ``numbers``; they go on growing after that."""
    inside, outside = Side.empty(phi.shape[1:]), Side.empty(phi.shape[1:])
    for taken, run in enumerate(order[: max(numbers, default=0)], start=1):
        values = phi[run].astype(np.float64)
        seen = ~np.isnan(values)
        values = np.where(seen, values, 0.0)
        inside.add(values, seen & member[run][:, None])
        outside.add(values, seen & ~member[run][:, None])
        if taken in numbers:
            yield taken, (inside, outside)


def scores_of(point: Floats, fits: tuple[Side, Side], mode: str, kind: str) -> Floats:
    """LiRA's score of each sample, NaN where a query lacks a fit."""
    inside, outside = fits
    asked = ~np.isnan(point)
    at = np.where(asked, point, 0.0)
    if mode == "offline":
        evidence = -log_ndtr(-(at - outside.mean) / np.sqrt(outside.variance(kind)))
        fitted = outside.n > 0
    else:
        evidence = log_density(at, inside.mean, inside.variance(kind)) - log_density(
            at, outside.mean, outside.variance(kind)
        )
        fitted = (inside.n > 0) & (outside.n > 0)
    whole = (fitted | ~asked).all(axis=1) & asked.any(axis=1)
    total = np.where(asked, evidence, 0.0).sum(axis=1)
    return np.where(whole, total / np.maximum(asked.sum(axis=1), 1), np.nan)


VARIANCE_FLOOR = 1e-12
"""The floor of a variance in sql/lira.sql (within_floor)."""

_BLOCK_VALUES = 1 << 19
"""Values of phi looked at together: some arrays of 4 MB, which a processor's cache holds."""

_CANCELLED = 1e-8
"""Where taking a value away leaves less of the square sum than this, too few digits of it are right."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Fit:
    """One side of a block, a row a run (that run left out): runs counted, centre, sum of squared residuals."""

    n: Counts
    centre: Floats
    squares: Floats


def lira_each(
    matrix: PhiMatrix, shadow: Flags, attacked: npt.NDArray[np.intp], *, mode: str, variance: str
) -> Floats:
    """LiRA scores of the runs in the rows ``attacked`` of the matrix, in turn: (attacked, samples), NaN for none.

    ``shadow`` (runs,) marks the rows that Gaussians are fitted to, less the run under attack; centres are means,
    ``variance`` is ``sample`` or ``pooled``, several queries count by the mean of their evidence. The scores are those of
    the analysis lira with each run as the target. Higher = member. Memory beyond the answer does not grow with samples.

    Source: Carlini et al. 2022, "Membership Inference Attacks From First Principles", algorithm 1.
    """
    queries = len(matrix.queries)
    pooled = _pooled(matrix, shadow, attacked) if variance == "pooled" else None
    scores = np.full((len(attacked), len(matrix.sample_id)), np.nan)
    for part, phi, inside, outside in _blocks(matrix, shadow, attacked):
        point = phi[attacked]
        known = ~np.isnan(point)
        wide = [
            np.maximum(
                pooled[side][:, None] if pooled is not None else fit.squares / np.maximum(fit.n, 1),
                VARIANCE_FLOOR,
            )
            for side, fit in enumerate((inside, outside))
        ]
        if mode == "offline":
            evidence = -log_ndtr(-(np.where(known, point, 0.0) - outside.centre) / np.sqrt(wide[1]))
            fitted = outside.n > 0
        else:
            evidence = log_density(point, inside.centre, wide[0]) - log_density(
                point, outside.centre, wide[1]
            )
            fitted = (inside.n > 0) & (outside.n > 0)
        shape = (len(attacked), -1, queries)
        known, fitted = known.reshape(shape), fitted.reshape(shape)
        total = np.where(known, evidence.reshape(shape), 0.0).sum(axis=2)
        asked = known.sum(axis=2)
        scored = (asked > 0) & (fitted | ~known).all(axis=2)
        scores[:, part] = np.where(scored, total / np.maximum(asked, 1), np.nan)
    return scores


def log_density(point: Floats, centre: Floats, variance: Floats) -> Floats:
    """log N(point; centre, variance)."""
    return -0.5 * (np.log(2 * np.pi * variance) + (point - centre) ** 2 / variance)


def _pooled(matrix: PhiMatrix, shadow: Flags, attacked: npt.NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Mean square residual of each side over all samples, a value a run that is left out."""
    squares, n = np.zeros((2, len(attacked))), np.zeros((2, len(attacked)))
    for _, _, *sides in _blocks(matrix, shadow, attacked):
        for side, fit in enumerate(sides):
            squares[side] += fit.squares.sum(axis=1)
            n[side] += fit.n.sum(axis=1)
    inside, outside = squares / np.maximum(n, 1)
    return inside, outside


def _blocks(
    matrix: PhiMatrix, shadow: Flags, attacked: npt.NDArray[np.intp]
) -> Iterator[tuple[slice, Floats, _Fit, _Fit]]:
    """Samples, their phi (runs, samples x queries) in float64, and the fits of both sides, block by block."""
    runs, samples, queries = matrix.phi.shape
    width = max(1, _BLOCK_VALUES // max(runs * queries, 1))
    for start in range(0, samples, width):
        part = slice(start, min(start + width, samples))
        phi = matrix.phi[:, part].reshape(runs, -1).astype(np.float64)
        member = np.repeat(matrix.member[:, part], queries, axis=1)
        used = shadow[:, None] & ~np.isnan(phi)
        yield part, phi, _fit(phi, used & member, attacked), _fit(phi, used & ~member, attacked)


def _fit(phi: Floats, used: Flags, attacked: npt.NDArray[np.intp]) -> _Fit:
    """The fit over the cells ``used`` marks, for each of the runs ``attacked`` without its own cell."""
    total = used.sum(axis=0)
    centre = np.where(used, phi, 0.0).sum(axis=0) / np.maximum(total, 1)
    residual = np.where(used, phi - centre, 0.0)
    squares = (residual**2).sum(axis=0)

    own = residual[attacked]
    left_out = used[attacked]
    n = total - left_out
    rest = np.maximum(n, 1)
    centre_without = centre - own / rest
    # Sum of squares about the new centre: S - r^2 n / (n - 1), r the residual taken away.
    squares_without = squares - own**2 * (total / rest)
    squares_without[n <= 1] = 0.0
    for row, column in _by_row(left_out & (n > 1) & (squares_without < _CANCELLED * squares)):
        others = used[:, column].copy()
        others[attacked[row]] = False
        about = np.where(others, phi[:, column] - centre_without[row, column], 0.0)
        squares_without[row, column] = (about**2).sum(axis=0)
    return _Fit(n, centre_without, squares_without)


def _by_row(marked: Flags) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    """Rows with a mark, and the columns of it."""
    for row in np.flatnonzero(marked.any(axis=1)):
        yield int(row), np.flatnonzero(marked[row])
