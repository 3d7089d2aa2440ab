"""LiRA from one matrix of phi: on every run in turn, each left out of its own fit, and on ever more shadow runs.

Asked run by run, an engine groups all signals anew for each of them. Here every sample's sums are made once, and what
one run adds to them is taken away again: mean and variance without a value follow from those with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ..statistics.special import log_ndtr
from .in_and_out import Fit, Fits, Sums
from .phi_matrix import PhiMatrix
from .variance_prior import LogVariances, Prior, log_gamma_half, log_t_tail, log_variances

VARIANCE_FLOOR = 1e-12
"""The floor of a variance in sql/lira.sql (within_floor)."""

_BLOCK_VALUES = 1 << 19
"""Values of phi looked at together: some arrays of 4 MB, which a processor's cache holds."""

_KEPT = 256 << 20
"""Bytes of fits that are kept between looking for what all samples say of variances and the scores; more are made twice."""

_CANCELLED = 1e-8
"""Where taking a value away leaves less of the square sum than this, too few digits of it are right."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]


Block = tuple[slice, Floats, Fits]
"""Some samples, phi of the runs under attack on them, and both sides' fits."""

Spread = Floats | float | Prior
"""What is known of a side's variances beside its fit: the variances, or the prior that each sample's own is drawn to."""


def lira_each(
    matrix: PhiMatrix,
    shadow: Flags,
    attacked: Rows,
    *,
    mode: str,
    variance: str,
    apart: npt.NDArray[np.int64] | None = None,
) -> Floats:
    """LiRA scores of the runs in the rows ``attacked`` of the matrix, in turn: (attacked, samples), NaN for none.

    ``shadow`` (runs,) marks the rows that Gaussians are fitted to, less the run under attack; centres are means,
    ``apart`` (K, attacked, samples or 1) are up to K more rows that the run under attack is not compared with, -1 for
    none. ``variance`` is ``bayes``, ``sample`` or ``pooled``, several queries count by the mean of their evidence. The scores are
    those of the analysis lira with each run as the target. Higher = member. Memory beyond the answer does not grow with samples.

    Source: Carlini et al. 2022, "Membership Inference Attacks From First Principles", algorithm 1.
    """
    removed = np.broadcast_to(attacked[None, :, None], (1, len(attacked), len(matrix.sample_id)))
    if apart is not None and len(apart):
        removed = np.concatenate([removed, np.broadcast_to(apart, (len(apart), *removed.shape[1:]))])
    blocks = _Blocks(matrix, shadow, removed, again=variance != "sample")
    of_all: Sequence[Spread] | None = None
    if variance == "pooled":
        of_all = list(_pooled(blocks, len(attacked)))
    elif variance == "bayes":
        of_all = _priors(blocks, len(attacked))
    scores = np.full((len(attacked), len(matrix.sample_id)), np.nan)
    for part, point, fits in blocks:
        inside, outside = of_all if of_all is not None else [fit.variance() for fit in fits]
        scores[:, part] = _mean_evidence(point, fits, mode, inside, outside)
    return scores


def growing(
    phi: npt.NDArray[np.float32], member: Flags, order: npt.NDArray[np.int64], numbers: list[int]
) -> Iterator[tuple[int, Fits]]:
    """The fits (in, out) to the first runs of an order, at each of the ``numbers``."""
    sums = Sums.of((phi.shape[1], phi.shape[2]))
    for taken, run in enumerate(order[: max(numbers, default=0)], start=1):
        sums.add(phi[run], member[run])
        if taken in numbers:
            yield taken, sums.fits()


def _spread(fit: Fit, variance: str) -> Spread:
    """What all samples of a fit say of variances, or each its own; ``variance`` is ``bayes``, ``sample`` or ``pooled``."""
    if variance == "sample":
        return fit.variance()
    if variance == "pooled":
        return float(fit.squares.sum() / max(int(fit.n.sum()), 1))
    sums = LogVariances(*np.zeros((4, 1, 1)))
    for part in _parts(*fit.n.shape):
        sums.add(log_variances(fit.n[part], fit.squares[part], VARIANCE_FLOOR, axis=None))
    return sums.prior()


def variances_of(fit: Fit, variance: str) -> Floats:
    """The variance, or for ``bayes`` the squared scale of the t, that each density has: (samples, queries)."""
    of = _spread(fit, variance)
    if not isinstance(of, Prior):
        return np.broadcast_to(np.maximum(of, VARIANCE_FLOOR), fit.n.shape)
    dof, squares = _expected(fit, of)
    return squares / dof


def scores_of(point: Floats, fits: Fits, mode: str, variance: str) -> Floats:
    """LiRA's score of each sample from phi (samples, queries); NaN where a query lacks a fit."""
    of_sides = [_spread(fit, variance) for fit in fits]
    score = np.full(len(point), np.nan)
    for part in _parts(*point.shape):
        some = (Fit(fit.n[part], fit.mean[part], fit.squares[part]) for fit in fits)
        spreads = (of[part] if isinstance(of, np.ndarray) else of for of in of_sides)
        score[part] = _mean_evidence(point[part], (next(some), next(some)), mode, *spreads)
    return score


def _parts(samples: int, queries: int) -> Iterator[slice]:
    """Blocks of samples."""
    width = max(1, _BLOCK_VALUES // max(queries, 1))
    for start in range(0, samples, width):
        yield slice(start, start + width)


def _mean_evidence(point: Floats, fits: Fits, mode: str, of_inside: Spread, of_outside: Spread) -> Floats:
    """The mean over the queries that are there of their evidence; NaN where one of them lacks a fit, or none is there."""
    inside, outside = fits
    asked = ~np.isnan(point)
    at = np.where(asked, point, 0.0)
    if mode == "offline":
        evidence = -_log_tail(at, outside, of_outside)
        fitted = outside.n > 0
    else:
        evidence = _log_density(at, inside, of_inside) - _log_density(at, outside, of_outside)
        fitted = (inside.n > 0) & (outside.n > 0)
    whole = (fitted | ~asked).all(axis=-1) & asked.any(axis=-1)
    total = np.where(asked, evidence, 0.0).sum(axis=-1)
    return np.where(whole, total / np.maximum(asked.sum(axis=-1), 1), np.nan)


def _log_density(point: Floats, fit: Fit, of: Spread) -> Floats:
    """log density of what a fit expects: a Gaussian, or the t that follows from a prior."""
    squared = (point - fit.mean) ** 2
    if not isinstance(of, Prior):
        variance = np.maximum(of, VARIANCE_FLOOR)
        return -0.5 * (np.log(2 * np.pi * variance) + squared / variance)
    dof, squares = _expected(fit, of)
    # Of each number of runs once: a logarithm of the Gamma function costs as much as all the rest.
    runs = np.maximum(np.arange(int(fit.n.max(initial=0)) + 1), 1)
    steps = log_gamma_half((of.dof.reshape(-1, 1) + runs - 1) / 2) - 0.5 * np.log(np.pi)
    row = np.arange(of.dof.size).reshape(of.dof.shape)
    return steps[row, fit.n] - 0.5 * np.log(squares) - (dof + 1) / 2 * np.log1p(squared / squares)


def _log_tail(point: Floats, fit: Fit, of: Spread) -> Floats:
    """log Pr[Z > point] of what a fit expects."""
    away = point - fit.mean
    if not isinstance(of, Prior):
        return np.asarray(log_ndtr(-away / np.sqrt(np.maximum(of, VARIANCE_FLOOR))), np.float64)
    dof, squares = _expected(fit, of)
    return log_t_tail(away / np.sqrt(squares / dof), dof)


def _expected(fit: Fit, prior: Prior) -> tuple[Floats, Floats]:
    """Degrees of freedom of the t that is expected of one more value, and its squared scale times these."""
    n = np.maximum(fit.n, 1)
    dof = prior.dof + n - 1
    squares = (prior.dof * prior.variance + fit.squares) * (1 + 1 / n)
    return dof, np.maximum(squares, VARIANCE_FLOOR * dof)


def _pooled(blocks: Iterable[Block], attacked: int) -> Floats:
    """Mean square residual of each side over all samples without each run: (2, attacked, 1, 1)."""
    squares, n = np.zeros((2, attacked)), np.zeros((2, attacked))
    for _, _, fits in blocks:
        for side, fit in enumerate(fits):
            squares[side] += fit.squares.reshape(attacked, -1).sum(axis=1)
            n[side] += fit.n.sum(axis=(1, 2))
    return (squares / np.maximum(n, 1))[:, :, None, None]


def _priors(blocks: Iterable[Block], attacked: int) -> list[Prior]:
    """The prior of each side without each run, of shape (attacked, 1, 1)."""
    sums = [LogVariances(*np.zeros((4, attacked, 1, 1))) for _ in range(2)]
    for _, _, fits in blocks:
        for so_far, fit in zip(sums, fits, strict=True):
            so_far.add(log_variances(fit.n, fit.squares, VARIANCE_FLOOR, axis=(1, 2)))
    return [one.prior() for one in sums]


class _Blocks:
    """What `_blocks` yields; if it is asked for ``again`` and fits into `_KEPT` it is made once."""

    def __init__(self, matrix: PhiMatrix, shadow: Flags, removed: Rows, *, again: bool) -> None:
        self._of = matrix, shadow, removed
        cells = removed.shape[1] * matrix.phi.shape[1] * matrix.phi.shape[2]
        self._kept: list[Block] | None = [] if again and 7 * 8 * cells <= _KEPT else None

    def __iter__(self) -> Iterator[Block]:
        if self._kept:
            yield from self._kept
            return
        for block in _blocks(*self._of):
            if self._kept is not None:
                self._kept.append(block)
            yield block


def _blocks(matrix: PhiMatrix, shadow: Flags, removed: Rows) -> Iterator[Block]:
    """Block by block samples, phi of the runs under attack on them, and both sides' fits without what is removed.

    ``removed`` (K, attacked, samples) are rows of the matrix, the first of them the run under attack; -1 for none.
    """
    runs, samples, queries = matrix.phi.shape
    attacked = removed[0, :, :1].sum(axis=1)
    width = max(1, _BLOCK_VALUES // max(runs * queries, 1))
    for start in range(0, samples, width):
        part = slice(start, min(start + width, samples))
        phi = matrix.phi[:, part].astype(np.float64)
        member = matrix.member[:, part, None]
        used = shadow[:, None, None] & ~np.isnan(phi)
        gone = removed[:, :, part]
        yield part, phi[attacked], (_fit(phi, used & member, gone), _fit(phi, used & ~member, gone))


def _fit(phi: Floats, used: Flags, removed: Rows) -> Fit:
    """The fit over the cells ``used`` marks, for each run under attack without the cells that are ``removed`` for it."""
    total = used.sum(axis=0)
    centre = np.where(used, phi, 0.0).sum(axis=0) / np.maximum(total, 1)
    from_centre = np.where(used, phi - centre, 0.0)

    shape = (removed.shape[1], *phi.shape[1:])
    n = np.broadcast_to(total, shape).copy()
    away = np.zeros(shape)  # from the centre to the mean of what is left
    squares = np.broadcast_to((from_centre**2).sum(axis=0), shape).copy()
    before = squares.copy()
    samples = np.arange(phi.shape[1])
    left_out = np.zeros(shape, bool)
    for gone in removed:
        cell = used[gone, samples] & (gone >= 0)[:, :, None]
        own = np.where(cell, from_centre[gone, samples] - away, 0.0)
        rest = np.maximum(n - cell, 1)
        # Sum of squares about the new mean: S - r^2 n / (n - 1), r the residual taken away.
        squares -= own**2 * (n / rest)
        away -= own / rest
        n -= cell
        left_out |= cell
    squares[n <= 1] = 0.0
    mean = centre + away
    cancelled = left_out & (n > 1) & (squares < _CANCELLED * before)
    for row in np.flatnonzero(cancelled.any(axis=(1, 2))):
        sample, query = np.nonzero(cancelled[row])
        others = used[:, sample, query].copy()
        for gone in removed[:, row, sample]:
            others[gone[gone >= 0], np.flatnonzero(gone >= 0)] = False
        values = np.where(others, phi[:, sample, query], 0.0)
        mean[row, sample, query] = values.sum(axis=0) / others.sum(axis=0)
        about = np.where(others, values - mean[row, sample, query], 0.0)
        squares[row, sample, query] = (about**2).sum(axis=0)
    return Fit(n, mean, squares)
