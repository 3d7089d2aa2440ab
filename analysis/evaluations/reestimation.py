"""What a second estimate of memorization would say of the same records, were nothing changed but the shadow runs.

A record's shares of correct predictions, with and without it, are drawn from a distribution over records that is itself
estimated (empirical Bayes, Kiefer & Wolfowitz's nonparametric maximum likelihood on a grid). Records chosen for a high or a
low estimate then need no correction of their own: what is known of them is the data, and how records are on the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import bdtrc, gammaln, xlog1py, xlogy

GRID = np.sin(np.linspace(0, np.pi / 2, 21)) ** 2
"""Shares that a record may have: closer together towards 0 and 1, where most lie."""

_ROUNDS = 100
_FIT_ON = 8_000
"""Records at most that the distribution is fitted to, evenly spread."""

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Correct predictions among runs with each record (``right_in`` of ``n_in``) and among runs without it."""

    right_in: Counts
    n_in: Counts
    right_out: Counts
    n_out: Counts

    def __len__(self) -> int:
        return len(self.n_in)

    def at(self, rows: npt.NDArray[np.intp] | slice) -> Outcomes:
        """The same of some records."""
        return Outcomes(self.right_in[rows], self.n_in[rows], self.right_out[rows], self.n_out[rows])


def distribution(outcomes: Outcomes) -> Floats:
    """How often each pair of shares (with the record, without it) occurs among records: (grid, grid), sums to 1."""
    spread = np.unique(np.linspace(0, len(outcomes) - 1, min(len(outcomes), _FIT_ON)).astype(np.intp))
    inside, outside = _likelihoods(outcomes.at(spread))
    prior = np.full((len(GRID), len(GRID)), len(GRID) ** -2.0)
    for _ in range(_ROUNDS):
        weight = outside / _both(inside, prior, outside)[:, None]
        prior = prior * np.einsum("na,nb->ab", inside, weight) / len(weight)
    return prior / prior.sum()


def chance_above(
    prior: Floats, outcomes: Outcomes, later_in: Counts, later_out: Counts, thresholds: Sequence[float]
) -> Floats:
    """Probability that a new estimate from so many runs with and without each record exceeds each threshold.

    ``later_in`` and ``later_out`` (records,) count these runs; the answer is (records, thresholds).
    """
    inside, outside = _likelihoods(outcomes)
    found = np.zeros((len(outcomes), len(thresholds)))
    pairs, which = np.unique(np.stack([later_in, later_out]), axis=1, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(which.ravel(), minlength=pairs.shape[1]))
    for (n_in, n_out), rows in zip(pairs.T.tolist(), np.split(order, ends[:-1]), strict=True):
        for column, threshold in enumerate(thresholds):
            above = prior * _tail(n_in, n_out, threshold)
            found[rows, column] = _both(inside[rows], above, outside[rows])
    return found / _both(inside, prior, outside)[:, None]


def _both(inside: Floats, weight: Floats, outside: Floats) -> Floats:
    """Sum over the grid of the likelihoods of both sides times a weight: (records,)."""
    # Not by matrix products of a library with threads of its own: on a busy machine these wait for each other.
    return (np.einsum("na,ab->nb", inside, weight) * outside).sum(axis=1)


def _likelihoods(outcomes: Outcomes) -> tuple[Floats, Floats]:
    """Likelihood of each share with the record, and of each without it, up to a factor a record: (records, grid) each."""
    sides = ((outcomes.right_in, outcomes.n_in), (outcomes.right_out, outcomes.n_out))
    inside, outside = (
        xlogy(right[:, None], GRID) + xlog1py((n - right)[:, None], -GRID) for right, n in sides
    )
    return (
        np.exp(inside - inside.max(axis=1, keepdims=True)),
        np.exp(outside - outside.max(axis=1, keepdims=True)),
    )


def _tail(n_in: int, n_out: int, threshold: float) -> Floats:
    """Pr[K_in / n_in - K_out / n_out > threshold] for every pair of shares: (grid, grid)."""
    right = np.arange(n_out + 1)
    # K_in must be above n_in (threshold + K_out / n_out); a tie, which rounding must not part, is not above.
    least = np.floor(n_in * (threshold + right / n_out) + 1e-9)
    above = np.where(
        least < 0,
        1.0,
        np.where(least >= n_in, 0.0, bdtrc(np.clip(least, 0, n_in), n_in, GRID[:, None])),
    )
    choices = gammaln(n_out + 1) - gammaln(right + 1) - gammaln(n_out - right + 1)
    log = choices + xlogy(right, GRID[:, None]) + xlog1py(n_out - right, -GRID[:, None])
    return above @ np.exp(log).T
