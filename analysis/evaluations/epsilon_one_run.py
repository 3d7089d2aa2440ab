"""Epsilon from one training run: how many of a number of guesses at membership were right.

Source: Steinke, Nasr & Jagielski 2023, "Privacy Auditing with One (1) Training Run": if each of m records was included
by a fair coin of its own, and an auditor who sees only the result guesses at ``guesses`` of them, then under
(epsilon, delta)-DP, with W ~ Binomial(guesses, e^epsilon / (1 + e^epsilon)),

    Pr[correct or more of them right] <= beta + 2 m delta alpha,
    beta = Pr[W >= correct],  alpha = max over i >= 1 of Pr[correct - i <= W < correct] / i.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import bdtrc, betaincinv, gammaln

Floats = npt.NDArray[np.float64]
Sides = Literal["both", "members"]

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Guessing:
    """How guesses went: of ``records`` (m), ``guesses`` were guessed at and ``correct`` of these rightly.

    ``epsilon`` is the lower bound, ``tried`` among how many ways of guessing this one was chosen.
    """

    records: int
    guesses: int
    correct: int
    sides: Sides
    epsilon: float
    tried: int

    @property
    def estimate(self) -> float | None:
        """Epsilon of the randomised response that is right as often; None where every guess was right."""
        wrong = self.guesses - self.correct
        return (
            max(0.0, math.log(self.correct / wrong))
            if wrong and self.correct
            else None
            if self.correct
            else 0.0
        )


def p_value(records: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """The theorem's bound on Pr[``correct`` or more right] under (epsilon, delta)-DP, at most 1."""
    return float(min(1.0, _Tails(records, guesses, correct, delta).at(epsilon)))


def epsilon_lower(records: int, guesses: int, correct: int, *, delta: float, confidence: float) -> float:
    """The largest epsilon for which (epsilon, delta)-DP is refuted at ``confidence`` (0.5 or more); 0 for none.

    For delta 0 it is exact in closed form (Clopper & Pearson's lower bound of a share), else by bisection to 1e-9.
    """
    level = 1 - confidence
    if correct == 0:
        return 0.0
    # Above this epsilon beta alone reaches the level. A share of 1 lies beyond float64 only for absurd levels.
    share = float(betaincinv(correct, guesses - correct + 1, level))
    high = math.log(share / (1 - share)) if 0 < share < 1 else 0.0
    if high <= 0 or delta == 0:
        return max(0.0, high)
    tails = _Tails(records, guesses, correct, delta)
    if tails.at(0.0) >= level:
        return 0.0
    # The epsilons with a p-value of at least the level make a ray, so that bisection finds its end: for i >= 2 m delta
    # the i-th term is a mixture of two tails that both grow with epsilon; for a smaller i it can fall only once the
    # median of W is correct - i / 2 or more, and from there on it is at least 1/2.
    low = 0.0
    while high - low > TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if tails.at(middle) < level else (low, middle)
    return low


class _Tails:
    """The p-value as a function of epsilon; what does not depend on epsilon is computed once."""

    def __init__(self, records: int, guesses: int, correct: int, delta: float) -> None:
        self._guesses, self._correct = guesses, correct
        self._factor = 2 * records * delta
        self._below = np.arange(correct - 1, -1, -1, dtype=np.float64)  # correct - i for i = 1, 2, ...
        self._width = np.arange(1, correct + 1, dtype=np.float64)
        self._ways = (
            gammaln(guesses + 1) - gammaln(self._below + 1) - gammaln(guesses - self._below + 1)
            if delta
            else None
        )

    def at(self, epsilon: float) -> float:
        if self._correct == 0:
            return 1.0
        log_right, log_wrong = -np.logaddexp(0, -epsilon), -np.logaddexp(0, epsilon)
        beta = float(bdtrc(self._correct - 1, self._guesses, np.exp(log_right)))
        if self._ways is None:
            return beta
        # Terms beyond i = correct add nothing to the sum and divide by more.
        terms = np.exp(self._ways + self._below * log_right + (self._guesses - self._below) * log_wrong)
        return beta + self._factor * float((np.cumsum(terms) / self._width).max())


def audit_one_run(
    score: Floats,
    member: npt.NDArray[np.bool_],
    *,
    guesses: Iterable[int],
    sides: Iterable[Sides],
    delta: float,
    confidence: float,
    seed: int,
) -> Guessing:
    """Guess the highest scores members (and the lowest non-members, half of the guesses each), count, bound epsilon.

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
    best = Guessing(len(score), 0, 0, "both", 0.0, len(ways))
    for count, side in ways:
        low = count // 2 if side == "both" else 0
        high = count - low
        correct = int(right[high] + low - (right[-1] - right[len(order) - low]))
        bound = epsilon_lower(len(score), count, correct, delta=delta, confidence=1 - error)
        found = Guessing(len(score), count, correct, side, bound, len(ways))
        # Where no way shows anything the one with the most right stands for them.
        if best.guesses == 0 or (bound, correct / count) > (best.epsilon, best.correct / best.guesses):
            best = found
    return best
