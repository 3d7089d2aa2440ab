"""Lower bounds on epsilon, or on mu: from guesses at the membership of one run's records, and from an attack's rates.

One run (Steinke, Nasr & Jagielski 2023, "Privacy Auditing with One (1) Training Run"): if each of m records was included
by a fair coin of its own, and an auditor who sees only the result guesses at ``guesses`` of them, then under
(epsilon, delta)-DP, with W ~ Binomial(guesses, e^epsilon / (1 + e^epsilon)),

    Pr[correct or more of them right] <= beta + 2 m delta alpha,
    beta = Pr[W >= correct],  alpha = max over i >= 1 of Pr[correct - i <= W < correct] / i.

Rates, of a decision whose threshold was chosen on other records: (epsilon, delta)-DP allows TPR <= e^epsilon FPR + delta,
and the same for naming non-members (Kairouz, Oh & Viswanath 2015, "The Composition Theorem for Differential Privacy");
mu-GDP allows Phi^-1(TPR) <= Phi^-1(FPR) + mu (Dong, Roth & Su 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..statistics.intervals import clopper_pearson
from ..statistics.roots import root
from ..statistics.special import bdtrc, betaincinv, gammaln, log_ndtr, ndtri

Floats = npt.NDArray[np.float64]
Sides = Literal["both", "members"]
Named = Literal["members", "non-members"]
Law = Callable[[float, float], float]
"""What two rates say: from (rate among those rightly named, rate among those wrongly named) to epsilon or mu."""

TOLERANCE = 1e-9
CANDIDATES = 50
"""Thresholds tried on the choosing half, at numbers of false alarms that grow geometrically."""


@dataclass(frozen=True)
class Guessing:
    """How guesses went: of ``records`` (m), ``guesses`` were guessed at and ``correct`` of these rightly.

    ``epsilon`` is the lower bound, ``tried`` among how many ways of guessing this one was chosen, ``most`` the bound had
    every one of the ``records`` been guessed rightly. ``swaps``: a guess is which record of a pair was the member.
    """

    records: int
    guesses: int
    correct: int
    sides: Sides
    epsilon: float
    tried: int
    most: float
    swaps: bool = False

    @property
    def estimate(self) -> float | None:
        """Epsilon of the randomised response that is right as often; None where every guess was right."""
        wrong = self.guesses - self.correct
        if not self.correct:
            return 0.0
        if not wrong:
            return None
        return max(0.0, math.log(self.correct / wrong)) / (2 if self.swaps else 1)


def fair_subset(member: npt.NDArray[np.bool_], probability: float, seed: int) -> npt.NDArray[np.bool_]:
    """Records, bool (m,), whose membership is a fair coin each, where all had coins of ``probability``.

    Of the side that was likelier each is kept with the odds of the other side. All are for a probability of 1/2.
    """
    likelier = member if probability > 0.5 else ~member
    odds = min(probability, 1 - probability) / max(probability, 1 - probability)
    return ~likelier | (np.random.default_rng([seed, 1]).random(len(member)) < odds)


def random_pairs(
    member: npt.NDArray[np.bool_], stratum: npt.NDArray[Any], seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of the first and of the second record of each pair, in random order: a member and a non-member of one stratum.

    Every stratum gives as many pairs as the smaller of its two sides has records.
    """
    rng = np.random.default_rng([seed, 2])
    firsts, seconds = [], []
    for value in np.unique(stratum):
        there = stratum == value
        inside, outside = (rng.permutation(np.flatnonzero(there & side)) for side in (member, ~member))
        count = min(len(inside), len(outside))
        turned = rng.random(count) < 0.5
        firsts.append(np.where(turned, outside[:count], inside[:count]))
        seconds.append(np.where(turned, inside[:count], outside[:count]))
    return np.concatenate(firsts), np.concatenate(seconds)


def audit_pairs(
    score: Floats, member: npt.NDArray[np.bool_], stratum: npt.NDArray[Any], *, seed: int, **options: Any
) -> Guessing:
    """`audit_one_run` of which record of each of `random_pairs` was the member, by the difference of their scores.

    stratum (m,): records of equal value had the same chance. A pair with a NaN is never guessed at, but counts.
    """
    first, second = random_pairs(member, stratum, seed)
    with np.errstate(invalid="ignore"):  # of two infinite scores neither is the higher
        apart = np.where(score[first] == score[second], 0.0, score[first] - score[second])
    return audit_one_run(apart, member[first], seed=seed, swaps=True, **options)


def audit_one_run(
    score: Floats,
    member: npt.NDArray[np.bool_],
    *,
    guesses: Iterable[int],
    sides: Iterable[Sides],
    delta: float,
    confidence: float,
    seed: int,
    swaps: bool = False,
) -> Guessing:
    """Guess the highest scores members (and the lowest non-members, half of the guesses each), count, bound epsilon.

    Holds where each record was a member by a fair coin of its own; `fair_subset` and `audit_pairs` are for other draws.
    score (m,) may hold NaN: such records are never guessed at, but count in m. Where several numbers of guesses or
    sides are given the best bound is taken, each at an error of its share alone (Bonferroni). Ties at the edge are
    broken by ``seed``. ``guesses`` are cut to what there is to guess at, for members alone to half of that.
    """
    scored = np.flatnonzero(~np.isnan(score))
    mixed = scored[np.random.default_rng(seed).permutation(len(scored))]
    order = mixed[np.argsort(-score[mixed], kind="stable")]
    right = np.concatenate(
        [[0], np.cumsum(member[order])]
    )  # of the k highest, and by difference of the k lowest
    ways = []
    for number in guesses:
        for side in sides:
            count = min(number, len(order) if side == "both" else max(len(order) // 2, 1))
            if count > 0 and (count, side) not in ways:
                ways.append((count, side))
    error = (1 - confidence) / max(len(ways), 1)
    m = len(score)
    most = epsilon_lower(m, m, m, delta=delta, confidence=1 - error, swaps=swaps)
    best = Guessing(m, 0, 0, "both", 0.0, len(ways), most, swaps)
    for count, side in ways:
        low = count // 2 if side == "both" else 0
        high = count - low
        correct = int(right[high] + low - (right[-1] - right[len(order) - low]))
        bound = epsilon_lower(m, count, correct, delta=delta, confidence=1 - error, swaps=swaps)
        found = Guessing(m, count, correct, side, bound, len(ways), most, swaps)
        # Where no way shows anything the one with the most right stands for them.
        if best.guesses == 0 or (bound, correct / count) > (best.epsilon, best.correct / best.guesses):
            best = found
    return best


def epsilon_lower(
    records: int, guesses: int, correct: int, *, delta: float, confidence: float, swaps: bool = False
) -> float:
    """The largest epsilon for which (epsilon, delta)-DP is refuted at ``confidence`` (0.5 or more); 0 for none.

    With ``swaps`` ``records`` are pairs: the theorem is held at 2 epsilon and (1 + e^epsilon) delta.

    For delta 0 it is exact in closed form (Clopper & Pearson's lower bound of a share), else by bisection to 1e-9.
    """
    level = 1 - confidence
    if correct == 0:
        return 0.0
    # Above this epsilon beta alone reaches the level. A share of 1 lies beyond float64 only for absurd levels.
    share = float(betaincinv(correct, guesses - correct + 1, level))
    high = math.log(share / (1 - share)) if 0 < share < 1 else 0.0
    if swaps:
        high /= 2
    if high <= 0 or delta == 0:
        return max(0.0, high)
    p_value = p_values(records, guesses, correct, delta, swaps=swaps)
    if p_value(0.0) >= level:
        return 0.0
    # The epsilons with a p-value of at least the level make a ray, so that bisection finds its end: for i >= 2 m delta
    # the i-th term is a mixture of two tails that both grow with epsilon; for a smaller i it can fall only once the
    # median of W is correct - i / 2 or more, and from there on it is at least 1/2. With swaps delta grows with epsilon,
    # and the p-value with delta: what is refuted at one epsilon is refuted at a smaller one with the same delta, and so
    # with its own.
    low = 0.0
    while high - low > TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(middle) < level else (low, middle)
    return low


def p_values(
    records: int, guesses: int, correct: int, delta: float, *, swaps: bool = False
) -> Callable[[float], float]:
    """The theorem's bound on Pr[``correct`` or more right] under (epsilon, delta)-DP, at most 1: a function of epsilon."""
    below = np.arange(correct - 1, -1, -1, dtype=np.float64)  # correct - i for i = 1, 2, ...
    width = np.arange(1, correct + 1, dtype=np.float64)
    ways = gammaln(guesses + 1) - gammaln(below + 1) - gammaln(guesses - below + 1)

    def p_value(epsilon: float) -> float:
        if correct == 0:
            return 1.0
        leak = delta
        if swaps:
            epsilon, leak = 2 * epsilon, (1 + math.exp(epsilon)) * delta
        log_right, log_wrong = -np.logaddexp(0, -epsilon), -np.logaddexp(0, epsilon)
        beta = float(bdtrc(correct - 1, guesses, np.exp(log_right)))
        if delta == 0:
            return beta
        # Terms beyond i = correct add nothing to the sum and divide by more.
        terms = np.exp(ways + below * log_right + (guesses - below) * log_wrong)
        return min(1.0, beta + 2 * records * leak * float((np.cumsum(terms) / width).max()))

    return p_value


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
    return root(lambda epsilon: log_delta(epsilon, mu) - wanted, 0.0, most, xtol=1e-12)
