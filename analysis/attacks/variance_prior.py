"""LiRA with a prior on variances: what all samples say of how large they are and how much they differ.

The formulas are those of sql/lira.sql with $variance 'bayes', for what is fitted outside an engine. x of a sample is normal
with a mean of its own and a variance drawn from a scaled inverse chi-square (an inverse gamma) distribution, which is
fitted to all samples; what a new value is then expected to be is a Student t. Variances of one's own and one for all
are its two ends, dof 0 and infinity.

Source: Smyth 2004, "Linear models and empirical Bayes methods for assessing differential expression in microarray
experiments", section 6.2, for the fit; Braennvall 2026, "Exponential-Family Membership Inference: From LiRA and RMIA to
BaVarIA" (arXiv 2603.11799), for its use in LiRA.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..statistics.special import gammaln, log_ndtr, psi, tetragamma, trigamma

LEAST_SPREAD, MOST_SPREAD = 1e-4, 100.0
"""Bounds of the variance of log variances: dof of the prior from 2e4, as good as one variance for all, to 0.2."""

_NEWTON = 8
_ADDED = 8
"""So many terms of the recurrence in dof; with dof of 16 more a t is nearly enough normal (see `_as_normal`)."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Prior:
    """Degrees of freedom and variance (the scale) of the scaled inverse chi-square distribution; arrays of one shape."""

    dof: Floats
    variance: Floats


@dataclass(eq=False)
class LogVariances:
    """Sums over samples, each of the weight of its degrees of freedom; arrays of any one shape."""

    weight: Floats
    level: Floats
    square: Floats
    noise: Floats

    def add(self, more: LogVariances) -> None:
        """Take in the sums over more samples."""
        self.weight = self.weight + more.weight
        self.level = self.level + more.level
        self.square = self.square + more.square
        self.noise = self.noise + more.noise

    def prior(self) -> Prior:
        """The prior fitted to them; where nothing varies its variance is 0."""
        weight = np.where(self.weight > 0, self.weight, 1.0)
        level = self.level / weight
        spread = np.clip(self.square / weight - level**2 - self.noise / weight, LEAST_SPREAD, MOST_SPREAD)
        half = _inverse_trigamma(np.where(self.weight > 0, spread, LEAST_SPREAD))
        fitted = np.exp(level + psi(half) - np.log(half))
        return Prior(2 * half, np.where(self.weight > 0, fitted, 0.0))


def log_variances(
    n: npt.NDArray[np.integer], squares: Floats, floor: float, axis: tuple[int, ...] | None
) -> LogVariances:
    """The sums over ``axis``, which stays as of length 1, for samples of ``n`` values with sums of squared residuals ``squares``.

    What has two values or more, and a variance above ``floor``, counts: what does not vary was rounded. With d = n - 1,
    the log of squares / 2 less digamma(d / 2) scatters about the log of the sample's variance by trigamma(d / 2).
    """
    counts = (n > 1) & (squares > floor * n)
    half = (np.arange(int(n.max(initial=1)) + 1) - 1) / 2
    half[:2] = 0.5
    weight = np.where(counts, n - 1.0, 0.0)
    level = np.log(np.where(counts, squares / 2, 1.0)) - psi(half)[n]
    weighted = weight * level
    return LogVariances(
        weight.sum(axis=axis, keepdims=True),
        weighted.sum(axis=axis, keepdims=True),
        (weighted * level).sum(axis=axis, keepdims=True),
        (weight * trigamma(half)[n]).sum(axis=axis, keepdims=True),
    )


def _inverse_trigamma(value: Floats) -> Floats:
    """x with trigamma(x) = value, by Newton's method on 1 / trigamma, which is nearly a straight line."""
    x = 0.5 + 1 / value
    for _ in range(_NEWTON):
        reached = trigamma(x)
        x = x + reached * (1 - reached / value) / tetragamma(x)
    return np.asarray(x, dtype=np.float64)


def log_gamma_half(a: Floats) -> Floats:
    """log Gamma(a + 1/2) - log Gamma(a)."""
    return np.asarray(gammaln(a + 0.5) - gammaln(a), dtype=np.float64)


def log_t_tail(t: Floats, dof: Floats) -> Floats:
    """log Pr[T > t] of Student's t with ``dof`` degrees of freedom, accurate on both sides, far beyond what a double holds.

    Pr[T > t] is half the regularized incomplete beta I_x(a, 1/2), a = dof / 2, x = dof / (dof + t^2). Of
    I_x(a, 1/2) = term(a) + I_x(a + 1, 1/2), 8 terms are added up, all of them positive; what is left is the tail of a
    t with 16 more degrees of freedom, taken as normal. The error is under 1e-10 of the logarithm.
    """
    t, dof = np.broadcast_arrays(np.asarray(t, np.float64), np.asarray(dof, np.float64))
    log_x = -np.log1p(t * t / dof)
    half = dof / 2
    x = dof / (dof + t * t)
    terms = np.ones_like(half)
    for added in range(_ADDED - 2, -1, -1):
        terms = 1 + x * (half + added + 0.5) / (half + added + 1) * terms
    first = half * log_x - np.log(half) + log_gamma_half(half) - 0.5 * np.log(np.pi) - np.log(2)
    rest = log_ndtr(-_as_normal(-log_x, dof + 2 * _ADDED))
    most = np.maximum(first, rest)
    upper = most + np.log(np.exp(first - most) * np.sqrt(1 - x) * terms + np.exp(rest - most))
    with np.errstate(divide="ignore"):
        lower = np.where(upper < -15, -np.exp(upper) * (1 + np.exp(upper) / 2), np.log1p(-np.exp(upper)))
    return np.where(t >= 0, upper, lower)


def _as_normal(log_one_and_more: Floats, dof: Floats) -> Floats:
    """z with the tail of a standard normal that t has, from log(1 + t^2 / dof) (Hill 1970, CACM algorithm 395)."""
    a = dof - 0.5
    b = 48 * a * a
    square = a * log_one_and_more
    far = ((-0.4 * square - 3.3) * square - 24) * square - 85.5
    return np.asarray(
        np.sqrt(square) * (1 + (square + 3 + far / (0.8 * square * square + 100 + b)) / b), np.float64
    )
