"""LiRA from one matrix of phi: on every run in turn, each left out of its own fit, and on ever more shadow runs.

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

VARIANCE_FLOOR = 1e-12
"""The floor of a variance in sql/lira.sql (within_floor)."""

_BLOCK_VALUES = 1 << 19
"""Values of phi looked at together: some arrays of 4 MB, which a processor's cache holds."""

_CANCELLED = 1e-8
"""Where taking a value away leaves less of the square sum than this, too few digits of it are right."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]


@dataclass
class Fit:
    """Runs counted, mean and sum of squared residuals of one side, in or out: arrays (..., samples, queries)."""

    n: npt.NDArray[np.integer]
    mean: Floats
    squares: Floats

    def add(self, values: Floats, used: Flags) -> None:
        """Take in one run's values where ``used`` (Welford's update)."""
        self.n += used
        away = np.where(used, values - self.mean, 0.0)
        self.mean += away / np.maximum(self.n, 1)
        self.squares += away * (np.where(used, values, self.mean) - self.mean)

    def variance(self) -> Floats:
        """Each sample's own."""
        return self.squares / np.maximum(self.n, 1)

    def pooled_variance(self) -> float:
        """One for all samples."""
        return float(self.squares.sum() / max(int(self.n.sum()), 1))


Fits = tuple[Fit, Fit]


def lira_each(matrix: PhiMatrix, shadow: Flags, attacked: Rows, *, mode: str, variance: str) -> Floats:
    """LiRA scores of the runs in the rows ``attacked`` of the matrix, in turn: (attacked, samples), NaN for none.

    ``shadow`` (runs,) marks the rows that Gaussians are fitted to, less the run under attack; centres are means,
    ``variance`` is ``sample`` or ``pooled``, several queries count by the mean of their evidence. The scores are those of
    the analysis lira with each run as the target. Higher = member. Memory beyond the answer does not grow with samples.

    Source: Carlini et al. 2022, "Membership Inference Attacks From First Principles", algorithm 1.
    """
    pooled = _pooled(matrix, shadow, attacked) if variance == "pooled" else None
    scores = np.full((len(attacked), len(matrix.sample_id)), np.nan)
    for part, point, fits in _blocks(matrix, shadow, attacked):
        inside, outside = pooled if pooled is not None else (fit.variance() for fit in fits)
        scores[:, part] = _mean_evidence(point, fits, mode, inside, outside)
    return scores


def growing(
    phi: npt.NDArray[np.float32], member: Flags, order: npt.NDArray[np.int64], numbers: list[int]
) -> Iterator[tuple[int, Fits]]:
    """The fits (in, out) to the first runs of an order, at each of the ``numbers``; they go on growing after that."""
    shape = phi.shape[1:]
    inside, outside = (Fit(np.zeros(shape, np.int32), np.zeros(shape), np.zeros(shape)) for _ in range(2))
    for taken, run in enumerate(order[: max(numbers, default=0)], start=1):
        values = phi[run].astype(np.float64)
        seen = ~np.isnan(values)
        values = np.where(seen, values, 0.0)
        inside.add(values, seen & member[run][:, None])
        outside.add(values, seen & ~member[run][:, None])
        if taken in numbers:
            yield taken, (inside, outside)


def scores_of(point: Floats, fits: Fits, mode: str, variance: str) -> Floats:
    """LiRA's score of each sample from phi (samples, queries); NaN where a query lacks a fit."""
    inside, outside = (fit.pooled_variance() if variance == "pooled" else fit.variance() for fit in fits)
    return _mean_evidence(point, fits, mode, inside, outside)


def _mean_evidence(
    point: Floats, fits: Fits, mode: str, var_in: Floats | float, var_out: Floats | float
) -> Floats:
    """The mean over the queries that are there of their evidence; NaN where one of them lacks a fit, or none is there."""
    inside, outside = fits
    var_in, var_out = np.maximum(var_in, VARIANCE_FLOOR), np.maximum(var_out, VARIANCE_FLOOR)
    asked = ~np.isnan(point)
    at = np.where(asked, point, 0.0)
    if mode == "offline":
        evidence = -log_ndtr(-(at - outside.mean) / np.sqrt(var_out))
        fitted = outside.n > 0
    else:
        evidence = _log_density(at, inside.mean, var_in) - _log_density(at, outside.mean, var_out)
        fitted = (inside.n > 0) & (outside.n > 0)
    whole = (fitted | ~asked).all(axis=-1) & asked.any(axis=-1)
    total = np.where(asked, evidence, 0.0).sum(axis=-1)
    return np.where(whole, total / np.maximum(asked.sum(axis=-1), 1), np.nan)


def _log_density(point: Floats, centre: Floats, variance: Floats) -> Floats:
    """log N(point; centre, variance)."""
    return -0.5 * (np.log(2 * np.pi * variance) + (point - centre) ** 2 / variance)


def _pooled(matrix: PhiMatrix, shadow: Flags, attacked: Rows) -> Floats:
    """Mean square residual of each side over all samples without each run: (2, attacked, 1, 1)."""
    squares, n = np.zeros((2, len(attacked))), np.zeros((2, len(attacked)))
    for _, _, fits in _blocks(matrix, shadow, attacked):
        for side, fit in enumerate(fits):
            squares[side] += fit.squares.reshape(len(attacked), -1).sum(axis=1)
            n[side] += fit.n.sum(axis=(1, 2))
    return (squares / np.maximum(n, 1))[:, :, None, None]


def _blocks(matrix: PhiMatrix, shadow: Flags, attacked: Rows) -> Iterator[tuple[slice, Floats, Fits]]:
    """Block by block samples, phi of the runs ``attacked`` on them, and both sides' fits without each of these runs."""
    runs, samples, queries = matrix.phi.shape
    width = max(1, _BLOCK_VALUES // max(runs * queries, 1))
    for start in range(0, samples, width):
        part = slice(start, min(start + width, samples))
        phi = matrix.phi[:, part].astype(np.float64)
        member = matrix.member[:, part, None]
        used = shadow[:, None, None] & ~np.isnan(phi)
        yield part, phi[attacked], (_fit(phi, used & member, attacked), _fit(phi, used & ~member, attacked))


def _fit(phi: Floats, used: Flags, attacked: Rows) -> Fit:
    """The fit over the cells ``used`` marks, for each of the runs ``attacked`` without its own cell."""
    total = used.sum(axis=0)
    mean = np.where(used, phi, 0.0).sum(axis=0) / np.maximum(total, 1)
    residual = np.where(used, phi - mean, 0.0)
    squares = (residual**2).sum(axis=0)

    own = residual[attacked]
    left_out = used[attacked]
    n = total - left_out
    rest = np.maximum(n, 1)
    mean_without = mean - own / rest
    # Sum of squares about the new mean: S - r^2 n / (n - 1), r the residual taken away.
    squares_without = squares - own**2 * (total / rest)
    squares_without[n <= 1] = 0.0
    cancelled = left_out & (n > 1) & (squares_without < _CANCELLED * squares)
    for row in np.flatnonzero(cancelled.any(axis=(1, 2))):
        sample, query = np.nonzero(cancelled[row])
        others = used[:, sample, query].copy()
        others[attacked[row]] = False
        about = np.where(others, phi[:, sample, query] - mean_without[row, sample, query], 0.0)
        squares_without[row, sample, query] = (about**2).sum(axis=0)
    return Fit(n, mean_without, squares_without)
