"""Intervals of precision and recall of the highest scores, where an attack at a false-positive rate says what is true.

Three things are drawn: which members there are, which of them come highest, and the non-members that set the attack's
threshold. The numbers of members and of non-members above the true edges are binomial whatever the scores; for
each pair of these counts the records themselves say how many would be found, and `uncertain_share` averages over the pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .correlation import Ranked
from .intervals import Betas, hidden_counts, uncertain_share
from .roc import uncertain_thresholds

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Interval = tuple[float, float]

_VALUES = 24
"""Values of a hidden count at most; a third of a standard deviation apart they stand for those between."""


@dataclass(frozen=True, eq=False)
class Truth:
    """Which members an attack finds, were its threshold where a number of non-members above it puts it.

    ``surely`` and ``perhaps`` (members,) count the thresholds, from the highest on, that a member's score does not exceed by the
    stricter and by the laxer reading; ``weight`` (thresholds,) is the probability of each.
    """

    surely: Counts
    perhaps: Counts
    weight: Floats

    @classmethod
    def of(cls, attack: Floats, others: Floats, fpr: float) -> Truth:
        """From the attack's scores of the members (n,) and those of the non-members, sorted."""
        above, weight = hidden_counts(len(others), fpr, _VALUES)
        first, second = uncertain_thresholds(others, above)
        # Thresholds fall from each to the next; a member is above the first one that its score exceeds and all after it.
        surely = np.searchsorted(-first, -attack, "right")
        perhaps = np.searchsorted(-second, -attack, "left")
        return cls(surely, perhaps, weight)


def precision_and_recall(score: Ranked, truth: Truth, share: float) -> tuple[Interval, Interval]:
    """95% intervals of the precision and the recall of the ``share`` of members (n,) with the highest score, as it is ranked.

    They are of what the shares would be in endlessly many members and non-members like these. Members tied at an edge are found by
    their expected share.
    """
    counted = _Counted.of(score, truth, share)
    return counted.precision(), counted.recall()


def precision_alone(score: Ranked, truth: Truth, share: float) -> Interval:
    """The first of these."""
    return _Counted.of(score, truth, share).precision()


@dataclass(frozen=True, eq=False)
class _Counted:
    """Of each pair of a number of members named and a threshold: its ``weight``, how many are ``named``, and how many of them, and of all,
    are found at the ``fewest`` and at the ``most``."""

    weight: Floats
    named: Floats
    fewest: list[Floats]
    most: list[Floats]
    share: float
    n: int

    @classmethod
    def of(cls, score: Ranked, truth: Truth, share: float) -> _Counted:
        n = len(score.order)
        top, chance = hidden_counts(n, share, _VALUES)
        fewest, most = (
            [part.ravel() for part in _hits(score, reached, top, len(truth.weight))]
            for reached in (truth.surely, truth.perhaps)
        )
        named = np.repeat(top.astype(np.float64), len(truth.weight))
        return cls((chance[:, None] * truth.weight).ravel(), named, fewest, most, share, n)

    def precision(self) -> Interval:
        fewest, most = self.fewest[0], self.most[0]
        return uncertain_share(self.weight, (fewest, self.named - fewest), (most, self.named - most))

    def recall(self) -> Interval:
        if self.share >= 1:
            return 1.0, 1.0
        laws = [
            _recalled(hits, found, self.named, self.share, self.n) for hits, found in (self.fewest, self.most)
        ]
        bounds = [uncertain_share(self.weight, law, law) for law in laws]
        return min(low for low, _ in bounds), max(high for _, high in bounds)


def _hits(score: Ranked, reached: Counts, top: Counts, thresholds: int) -> tuple[Floats, Floats]:
    """Members found among the top ones, and among all: (top, thresholds) each."""
    n = len(score.order)
    last = score.order[n - top.clip(1)]
    # So many scores are above the edge, and so many not below it.
    start, end = n - score.through[last], n - score.below[last]
    place = np.unique(np.concatenate([[0], start, end, [n]]))
    cell = np.repeat(np.arange(len(place) - 1), np.diff(place))
    table = np.bincount(
        cell * (thresholds + 1) + reached[score.order[::-1]], minlength=(len(place) - 1) * (thresholds + 1)
    )
    table = table.reshape(len(place) - 1, thresholds + 1).cumsum(axis=1)[:, :thresholds]
    found = np.concatenate([np.zeros((1, thresholds), table.dtype), table.cumsum(axis=0)])
    before, until = found[np.searchsorted(place, start)], found[np.searchsorted(place, end)]
    room = np.where(top > 0, (top - start) / np.maximum(end - start, 1), 0.0)[:, None]
    hits = np.where(top[:, None] > 0, before + room * (until - before), 0.0)
    return hits, np.broadcast_to(found[-1], hits.shape).astype(np.float64)


def _recalled(hits: Floats, found: Floats, named: Floats, share: float, n: int) -> Betas:
    """Hits and misses whose beta distribution is that of the recall.

    Where K are named, the odds of the recall are those of p share / (q (1 - share)) with the shares p and q found among the
    K and among the others: independent, and not of a number found that is fixed. The more are found the less a share varies,
    by 1 - p and 1 - q: the beta distribution has as many trials more.
    """
    missed = found - hits
    inside = 1 - (hits + 0.5) / (named + 1)
    outside = 1 - (missed + 0.5) / (n - named + 1)
    odds = share * (n - named).clip(0.5) / ((1 - share) * named.clip(0.5))
    spread = hits * odds + missed
    trials = spread**2 / (odds * np.where(found > 0, missed * inside + hits * outside, 1.0))
    recall = hits * odds / np.where(found > 0, spread, 1.0)
    return recall * trials, (1 - recall) * trials
