"""Lower bounds on epsilon, or on mu, from the rates of a decision whose threshold was chosen on other records.

(epsilon, delta)-DP allows TPR <= e^epsilon FPR + delta, and the same for naming non-members (Kairouz, Oh & Viswanath
2015, "The Composition Theorem for Differential Privacy"); mu-GDP allows Phi^-1(TPR) <= Phi^-1(FPR) + mu (Dong, Roth &
Su 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtri

from ..statistics.intervals import clopper_pearson

Floats = npt.NDArray[np.float64]
Named = Literal["members", "non-members"]
Law = Callable[[float, float], float]
"""What two rates say: from (rate among those rightly named, rate among those wrongly named) to epsilon or mu."""

CANDIDATES = 50
"""Thresholds tried on the choosing half, at numbers of false alarms that grow geometrically."""


@dataclass(frozen=True)
class Rates:
    """A decision on the records that did not choose it: ``hits`` of ``of`` named rightly, ``alarms`` of ``among`` wrongly."""

    named: Named
    hits: int
    of: int
    alarms: int
    among: int

    def bound(self, law: Law, confidence: float) -> float:
        """What the rates' Clopper-Pearson bounds allow at least, each at half the error; may be negative."""
        low = clopper_pearson(self.hits, self.of, confidence)[0]
        return law(low, clopper_pearson(self.alarms, self.among, confidence)[1])

    def estimate(self, law: Law) -> float:
        """The same of the rates themselves; infinite without a false alarm."""
        return law(self.hits / self.of, self.alarms / self.among)


def dp_law(delta: float) -> Law:
    """Epsilon of two rates: ln((right - delta) / wrong)."""

    def epsilon(right: float, wrong: float) -> float:
        if right <= delta:
            return -math.inf
        return math.log((right - delta) / wrong) if wrong > 0 else math.inf

    return epsilon


def gaussian_law(right: float, wrong: float) -> float:
    """mu of two rates: Phi^-1(right) - Phi^-1(wrong)."""
    if right <= 0 or wrong >= 1:
        return -math.inf
    return float(ndtri(right) - ndtri(wrong))


def held_out(
    score: Floats, member: npt.NDArray[np.bool_], law: Law, *, confidence: float, seed: int
) -> tuple[Rates, float]:
    """Rates on one half of the records at the threshold that bounds best on the other; and the bound by ``law``.

    Members and non-members are halved at random. Each half chooses for the other, which side to name as well as the
    threshold; the better of the two bounds is returned, each taken at half the error, so that it holds at
    ``confidence``. (One split alone bounds as high on average, but hangs on ``seed`` a good deal more.) It may be
    negative. score (N,) higher = member; NaN is never named. There must be two members and two non-members at least.
    """
    rng = np.random.default_rng(seed)
    of_each = [rng.permutation(np.flatnonzero(side)) for side in (member, ~member)]
    first = [score[records[: len(records) // 2]] for records in of_each]
    second = [score[records[len(records) // 2 :]] for records in of_each]
    confidence = 1 - (1 - confidence) / 2
    found = []
    for choosing, measuring in ((first, second), (second, first)):
        named, threshold = _choose(choosing[0], choosing[1], law, confidence)
        rates = _rates(named, *_turned(named, *measuring), threshold)
        found.append((rates, rates.bound(law, confidence)))
    return max(found, key=lambda one: one[1])


def _choose(members: Floats, others: Floats, law: Law, confidence: float) -> tuple[Named, float]:
    """The side and the threshold with the greatest bound on these records."""
    best: tuple[float, Named, float] | None = None
    sides: tuple[Named, ...] = ("members", "non-members")
    for named in sides:
        right, wrong = _turned(named, members, others)
        for threshold in _thresholds(wrong):
            bound = _rates(named, right, wrong, threshold).bound(law, confidence)
            if best is None or bound > best[0]:
                best = (bound, named, threshold)
    assert best is not None
    return best[1], best[2]


def _turned(named: Named, members: Floats, others: Floats) -> tuple[Floats, Floats]:
    """The scores of those to be named and of the others, turned so that the former lie above a threshold."""
    return (members, others) if named == "members" else (-others, -members)


def _rates(named: Named, right: Floats, wrong: Floats, threshold: float) -> Rates:
    return Rates(
        named, int((right > threshold).sum()), len(right), int((wrong > threshold).sum()), len(wrong)
    )


def _thresholds(wrong: Floats) -> list[float]:
    """Scores of the wrongly named at which 0, 1, 2, ... of them lie above, ever further apart."""
    ranked = np.sort(wrong[~np.isnan(wrong)])[::-1]
    if len(ranked) == 0:
        return [math.inf]
    places = np.unique(np.round(np.geomspace(1, len(ranked), CANDIDATES)).astype(np.int64)) - 1
    return np.unique(ranked[places]).tolist()


def log_delta(epsilon: float, mu: float) -> float:
    """log of the least delta for which a mu-GDP mechanism (mu > 0) is (epsilon, delta)-DP.

    delta = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu), in logarithms so that small ones stay exact.
    """
    first = float(log_ndtr(mu / 2 - epsilon / mu))
    second = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
    # Far out in the tail the two are equal but for rounding.
    return first + math.log(-math.expm1(min(second - first, -1e-300)))


def epsilon_of_mu(mu: float, delta: float) -> float:
    """The least epsilon for which a mu-GDP mechanism is (epsilon, delta)-DP; infinite for delta 0 and mu above 0."""
    if mu <= 0:
        return 0.0
    if delta <= 0:
        return math.inf
    wanted = math.log(delta)
    if log_delta(0.0, mu) <= wanted:
        return 0.0
    # From Phi(-t) <= exp(-t^2 / 2).
    most = mu * mu / 2 + mu * math.sqrt(-2 * wanted)
    return float(brentq(lambda epsilon: log_delta(epsilon, mu) - wanted, 0.0, most, xtol=1e-12))
