"""What a second estimate of memorization would say of the same records, were nothing changed but the shadow runs.

A record's shares of correct predictions, with and without it, are drawn from a distribution over records that is itself
estimated (empirical Bayes, Kiefer & Wolfowitz's nonparametric maximum likelihood on a grid). Records chosen for a high or a
low estimate then need no correction of their own: what is known of them is the data, and how records are on the whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .intervals import CONFIDENCE, clopper_pearson
from .linear_program import least
from .special import bdtrc, gammaln, xlog1py, xlogy

GRID = np.sin(np.linspace(0, np.pi / 2, 21)) ** 2
"""Shares that a record may have: closer together towards 0 and 1, where most lie."""

_ROUNDS = 100
_FIT_ON = 8_000
"""Distinct counts at most that the distribution is fitted to, evenly spread."""

_EDGES = tuple(np.round(np.arange(-0.3, 0.96, 0.1), 1).tolist())
"""Where the spread of estimates is looked at."""

Interval = tuple[float, float]
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


class Columns(Protocol):
    """A table whose columns go by name."""

    def __getitem__(self, name: str, /) -> npt.ArrayLike: ...


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Correct predictions among runs with each record (``right_in`` of ``n_in``) and among runs without it."""

    right_in: Counts
    n_in: Counts
    right_out: Counts
    n_out: Counts

    @classmethod
    def of(cls, columns: Columns) -> Outcomes:
        """From columns n_in, mean_in, n_out and mean_out, as memorization has them."""
        counts = []
        for side in ("in", "out"):
            n = np.asarray(columns[f"n_{side}"], dtype=np.int64)
            counts += [np.rint(n * np.asarray(columns[f"mean_{side}"])).astype(np.int64), n]
        return cls(*counts)

    def __len__(self) -> int:
        return len(self.n_in)

    def at(self, rows: npt.NDArray[np.intp] | slice) -> Outcomes:
        """The same of some records."""
        return Outcomes(self.right_in[rows], self.n_in[rows], self.right_out[rows], self.n_out[rows])


def distribution(outcomes: Outcomes, *, alike: bool = False) -> Floats:
    """How often each pair of shares (with the record, without it) occurs among records: (grid, grid), sums to 1.

    With ``alike`` the two shares of a record are taken for the same: what chance alone would have to explain.
    """
    distinct, times = _distinct(outcomes.right_in, outcomes.n_in, outcomes.right_out, outcomes.n_out)
    spread = np.unique(np.linspace(0, len(times) - 1, min(len(times), _FIT_ON)).astype(np.intp))
    inside, outside = _likelihoods(Outcomes(*distinct[:, spread]))
    share = times[spread] / times[spread].sum()
    if alike:
        both = inside * outside
        same = np.full(len(GRID), 1 / len(GRID))
        for _ in range(_ROUNDS):
            same = same * np.einsum("an,n->a", both, share / np.einsum("an,a->n", both, same))
        return np.diag(same / same.sum())
    prior = np.full((len(GRID), len(GRID)), 1 / len(GRID) ** 2)
    for _ in range(_ROUNDS):
        weight = outside * (share / _both(inside, prior, outside))
        prior = prior * np.einsum("an,bn->ab", inside, weight)
    return prior / prior.sum()


@dataclass(frozen=True)
class Beyond:
    """Share of records whose shares differ by more than a level: the estimate, its bounds, and two shares of estimates.

    ``estimates`` is the share of records whose estimate exceeds the level, ``by_chance`` what that would be if no record were memorized.
    """

    share: float
    low: float
    high: float
    estimates: float
    by_chance: float


def shares_beyond(outcomes: Outcomes, levels: Sequence[float]) -> list[Beyond]:
    """For each level, the share of records of which Pr[right | with it] - Pr[right | without it] exceeds it.

    Estimates from few runs scatter, and more of them lie beyond a level than records do. The share is that of
    `distribution`. Its 95% bounds are the least and the most among all distributions whose estimates would be spread as
    these are: at each of `_EDGES` places the share of estimates beyond it within Clopper and Pearson's interval, all
    together at 95%, records being independent (Ignatiadis & Wager 2022, F-localization). They are as wide as
    so few runs leave them.
    """
    n = len(outcomes)
    pairs, times = _distinct(outcomes.n_in, outcomes.n_out)
    # Whole numbers, so that a rounding parts no estimate from a level it is equal to.
    estimate = (outcomes.right_in * outcomes.n_out - outcomes.right_out * outcomes.n_in) / (
        outcomes.n_in * outcomes.n_out
    )

    tails = [_Tail.of(*pair) for pair in pairs.T.tolist()]

    def beyond(level: float) -> tuple[int, Floats]:
        tail = sum(count * each.above(level) for each, count in zip(tails, times.tolist(), strict=True))
        return int((estimate > level + 1e-12).sum()), np.asarray(tail) / n

    seen, rows = zip(*(beyond(edge) for edge in _EDGES), strict=True)
    law = np.array([row.ravel() for row in rows])
    error = (1 - CONFIDENCE) / len(_EDGES)
    bands = np.array([clopper_pearson(hits, n, 1 - error) for hits in seen])
    fitted, null = distribution(outcomes), distribution(outcomes, alike=True)
    found = []
    for level in levels:
        counted = (GRID[:, None] - GRID > level).astype(np.float64)
        share = float((fitted * counted).sum())
        low, high = _extremes(counted.ravel(), law, bands)
        hits, tail = beyond(level)
        found.append(Beyond(share, min(low, share), max(high, share), hits / n, float((null * tail).sum())))
    return found


def _extremes(counted: Floats, law: Floats, bands: Floats) -> Interval:
    """The least and the most mass on the cells ``counted`` of distributions that keep within the bands; 0 to 1 where none does."""
    low, high = (_least(sign * counted, law, bands) for sign in (1, -1))
    return (0.0 if low is None else min(max(low, 0.0), 1.0)), (
        1.0 if high is None else min(max(-high, 0.0), 1.0)
    )


def _least(costs: Floats, law: Floats, bands: Floats) -> float | None:
    """The least cost of a distribution within the bands; None where there is none."""
    found = least(costs, law, bands)
    if found is not None:
        return found
    from scipy.optimize import linprog  # a quarter of a second, where no distribution may be within the bands

    solved = linprog(
        costs,
        A_ub=np.concatenate([law, -law]),
        b_ub=np.concatenate([bands[:, 1], -bands[:, 0]]),
        A_eq=np.ones((1, len(costs))),
        b_eq=[1.0],
        bounds=(0, 1),
    )
    return float(solved.fun) if solved.status == 0 else None


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
    for pair, rows in zip(pairs.T.tolist(), np.split(order, ends[:-1]), strict=True):
        tail = _Tail.of(*pair)
        for column, threshold in enumerate(thresholds):
            above = prior * tail.above(threshold)
            found[rows, column] = _both(inside[:, rows], above, outside[:, rows])
    return found / _both(inside, prior, outside)[:, None]


def _distinct(*counts: Counts) -> tuple[Counts, Counts]:
    """The distinct columns of counts of 0 and more, (rows, K) in ascending order, and how often each occurs."""
    sizes = [int(row.max(initial=0)) + 1 for row in counts]
    if math.prod(sizes) >= 1 << 63:
        return np.unique(np.stack(counts), axis=1, return_counts=True)
    # As one number each, which sort in a fraction of the time.
    found, times = np.unique(np.ravel_multi_index(counts, sizes), return_counts=True)
    return np.stack(np.unravel_index(found, sizes)), times


def _both(inside: Floats, weight: Floats, outside: Floats) -> Floats:
    """Sum over the grid of the likelihoods of both sides times a weight: (records,)."""
    # Not by matrix products of a library with threads of its own: on a busy machine these wait for each other, and
    # their number may decide the last bits.
    return np.asarray((np.einsum("an,ab->bn", inside, weight) * outside).sum(axis=0))


def _likelihoods(outcomes: Outcomes) -> tuple[Floats, Floats]:
    """Likelihood of each share with the record, and of each without it, up to a factor a record: (grid, records) each."""
    sides = ((outcomes.right_in, outcomes.n_in), (outcomes.right_out, outcomes.n_out))
    inside, outside = (xlogy(right, GRID[:, None]) + xlog1py(n - right, -GRID[:, None]) for right, n in sides)
    return np.exp(inside - inside.max(axis=0)), np.exp(outside - outside.max(axis=0))


@dataclass(frozen=True, eq=False)
class _Tail:
    """Of so many runs with and without a record, for each share in `GRID`: Pr[K_in > k] (n_in + 2, grid), k from -1 on, and
    Pr[K_out = k] (n_out + 1, grid)."""

    more: Floats
    exactly: Floats

    @classmethod
    def of(cls, n_in: int, n_out: int) -> _Tail:
        k = np.arange(n_in)[:, None]
        ends = np.ones((1, len(GRID))), np.zeros((1, len(GRID)))
        right = np.arange(n_out + 1)[:, None]
        choices = gammaln(n_out + 1) - gammaln(right + 1) - gammaln(n_out - right + 1)
        log = choices + xlogy(right, GRID) + xlog1py(n_out - right, -GRID)
        return cls(np.concatenate([ends[0], bdtrc(k, n_in, GRID), ends[1]]), np.exp(log))

    def above(self, threshold: float) -> Floats:
        """Pr[K_in / n_in - K_out / n_out > threshold] for every pair of shares: (grid, grid)."""
        n_in, n_out = len(self.more) - 2, len(self.exactly) - 1
        # K_in must be above n_in (threshold + K_out / n_out); a tie, which rounding must not part, is not above.
        least = np.floor(n_in * (threshold + np.arange(n_out + 1) / n_out) + 1e-9)
        more = self.more[np.clip(least, -1, n_in).astype(np.intp) + 1]
        return np.einsum("ka,kb->ab", more, self.exactly)
