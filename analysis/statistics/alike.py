"""Intervals of how alike two attacks answer, where each has its threshold at one false-positive rate.

The thresholds are drawn with the non-members, both at once. How many of these lie above the true ones are two counts, binomial each and
dependent as the two attacks are; for every pair of counts the records say what the share would be at least and at
most, and `uncertain_share` averages over the pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .intervals import Betas, hidden_counts, uncertain_share
from .roc import threshold_at_fpr, uncertain_thresholds

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Interval = tuple[float, float]

_DRAWS = 500
"""Pairs of hidden counts that stand for all. A share varies far less over them than they lie apart."""

_VALUES = 24
"""Values of a hidden count at most, where there is one."""


def alike_and_shared(
    members: tuple[Floats, Floats], others: tuple[Floats, Floats], fpr: float
) -> tuple[Interval, Interval]:
    """95% intervals of the share answered alike, and of that named by both among those named by either.

    Of records with the scores ``members`` (n,) of two attacks, which name what exceeds their true thresholds at ``fpr``;
    these are known through ``others`` (N,), the two scores of the non-members.
    """
    n = len(members[0])
    at, pair, weight = _hidden_pairs(others, fpr)
    strict, lax = [], []
    for score, other, count in zip(members, others, at, strict=True):
        first, second = uncertain_thresholds(np.sort(other), count)
        # The number of the first threshold, from the highest on, that a score exceeds for certain, or perhaps.
        strict.append(np.searchsorted(-first, -score, "right"))
        lax.append(np.searchsorted(-second, -score, "left"))
    sizes = len(at[0]), len(at[1])
    both = _above_both(strict[0], strict[1], sizes)[pair]
    both_at_most = _above_both(lax[0], lax[1], sizes)[pair]
    named = [_above(one, size)[k] for one, size, k in zip(strict, sizes, pair, strict=True)]
    named_at_most = [_above(one, size)[k] for one, size, k in zip(lax, sizes, pair, strict=True)]
    only_one = (
        named[0] - _above_both(strict[0], lax[1], sizes)[pair],
        named[1] - _above_both(lax[0], strict[1], sizes)[pair],
    )
    apart = only_one[0] + only_one[1]
    either_at_most = named_at_most[0] + named_at_most[1] - both_at_most
    surely_alike = both + n - either_at_most
    alike = uncertain_share(weight, _betas(surely_alike, n - surely_alike), _betas(n - apart, apart))
    shared = uncertain_share(weight, _betas(both, either_at_most - both), _betas(both_at_most, apart))
    return alike, shared


@dataclass(frozen=True, eq=False)
class Fronts:
    """How many of the members (n,) an attack finds, were so many non-members above its true threshold: one at least.

    ``sizes`` by the stricter reading and by the laxer one, (K,) each; ``weight`` (K,) is how likely each count of non-members is.
    """

    members: int
    sizes: tuple[Counts, Counts]
    weight: Floats

    @classmethod
    def of(cls, attack: Floats, others: Floats, fpr: float) -> Fronts:
        """From the attack's scores of the members and those of the non-members, sorted; its threshold is at ``fpr``."""
        above, weight = hidden_counts(len(others), fpr, _VALUES)
        ranked = np.sort(attack)
        strict, lax = uncertain_thresholds(others, above)
        front = (len(ranked) - np.searchsorted(ranked, strict, "right")).clip(1)
        front_at_most = (len(ranked) - np.searchsorted(ranked, lax, "left")).clip(1)
        return cls(len(ranked), (front, front_at_most), weight)


def shared_tops(one: Counts, other: Counts, fronts: Fronts) -> Interval:
    """95% interval of the share of those that two scores rank in front, among those that either does.

    Of each so many members (n,) as an attack finds; ``one`` and ``other`` are places from 0, the highest score first.
    """
    in_both = np.append(0, np.cumsum(np.bincount(np.maximum(one, other), minlength=fronts.members)))
    ends = [(in_both[size], size) for size in fronts.sizes]
    first, second = (_betas(both, 2 * (size - both)) for both, size in ends)
    shares = [hits / (hits + misses) for hits, misses in (first, second)]
    least = shares[0] <= shares[1]
    fewest = tuple(np.where(least, a, b) for a, b in zip(first, second, strict=True))
    most = tuple(np.where(least, b, a) for a, b in zip(first, second, strict=True))
    return uncertain_share(fronts.weight, (fewest[0], fewest[1]), (most[0], most[1]))


def _hidden_pairs(
    others: tuple[Floats, Floats], fpr: float
) -> tuple[tuple[Counts, Counts], tuple[Counts, Counts], Floats]:
    """The counts of non-members above each true threshold, in order; which two come together, and how often.

    Drawn, always the same, from a multinomial with as many above both as these non-members have.
    """
    n = len(others[0])
    named = [score > threshold_at_fpr(np.sort(score), fpr) for score in others]
    both = min(fpr, float((named[0] & named[1]).mean()))
    chances = [both, fpr - both, fpr - both, max(0.0, 1 - 2 * fpr + both)]
    cells = np.random.default_rng(0).multinomial(n, np.divide(chances, sum(chances)), size=_DRAWS)
    drawn, often = np.unique(
        np.stack([cells[:, 0] + cells[:, 1], cells[:, 0] + cells[:, 2]]), axis=1, return_counts=True
    )
    (first, at_first), (second, at_second) = (np.unique(one, return_inverse=True) for one in drawn)
    return (first, second), (at_first.ravel(), at_second.ravel()), often / often.sum()


def _above(reached: Counts, size: int) -> Counts:
    """How many records exceed each threshold: (size,), from the highest threshold on."""
    return np.cumsum(np.bincount(reached, minlength=size + 1)[:size])


def _above_both(one: Counts, other: Counts, sizes: tuple[int, int]) -> Counts:
    """How many exceed a threshold of the first attack and one of the second: ``sizes``."""
    rows, columns = sizes
    table = np.bincount(one * (columns + 1) + other, minlength=(rows + 1) * (columns + 1))
    return table.reshape(rows + 1, columns + 1).cumsum(axis=0).cumsum(axis=1)[:rows, :columns]


def _betas(hits: Counts, misses: Counts) -> Betas:
    return hits.astype(np.float64), misses.astype(np.float64)
