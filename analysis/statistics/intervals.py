"""95% intervals of shares, areas and correlations."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import bdtrik, betaincinv, ndtr, ndtri, stdtr

CONFIDENCE = 0.95

CHANCE = 0.05
"""How often something that is not there still counts as seen: of 100 samples without an effect, five lie beyond the noise."""

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def clopper_pearson(hits: float, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact interval of a share (Clopper & Pearson 1934). ``hits`` may be fractional where ties were shared out."""
    if trials == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = 0.0 if hits <= 0 else float(betaincinv(hits, trials - hits + 1, tail))
    high = 1.0 if hits >= trials else float(betaincinv(hits + 1, trials - hits, 1 - tail))
    return low, high


def uncertain_share(
    fewest: Counts,
    most: Counts,
    at_most: Floats,
    at_least: Floats,
    trials: int,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Interval of a share of which only this is known: there were ``fewest[i]`` to ``most[i]`` hits, were a hidden count the ith.

    ``at_most`` and ``at_least`` (K,) are the probabilities that the hidden count is no larger and no smaller. Each bound is the
    farthest of Clopper and Pearson's over the hidden counts, at less confidence the less likely a count is: a true share
    lies beyond only where the deviates of the two counts in that direction, each 0 where it goes the other way, have squares
    that add up to more than `_radius` squared, which has the probability (1 - confidence) / 2. It holds the truth as often as
    promised, whatever fewest and most are, and is narrower than bounds of both counts at half the error each.
    """
    if trials == 0:
        return 0.0, 1.0
    radius = _radius((1 - confidence) / 2)
    left = _rest(at_most, radius)
    bounds = np.where(fewest > 0, betaincinv(np.maximum(fewest, 1), trials - fewest + 1, left), 0.0)
    low = float(bounds[~np.isnan(left)].min())
    left = _rest(at_least, radius)
    bounds = np.where(most < trials, betaincinv(most + 1, np.maximum(trials - most, 1), 1 - left), 1.0)
    return low, float(bounds[~np.isnan(left)].max())


def _rest(chance: Floats, radius: float) -> Floats:
    """The error that is left for the other count; NaN where this one takes more than there is."""
    taken = np.maximum(-ndtri(chance), 0) ** 2
    return np.where(taken <= radius**2, ndtr(-np.sqrt(np.maximum(radius**2 - taken, 0))), np.nan)


def _radius(tail: float) -> float:
    """The length that the positive parts of two independent standard normal deviates exceed with probability ``tail``."""

    def excess(radius: float) -> float:
        return math.exp(-radius * radius / 2) / 4 + float(ndtr(-radius)) - tail

    return float(brentq(excess, 0.0, 40.0))


def count_quantile(n: int, share: float, level: float) -> int:
    """The ``level`` quantile of a binomial count."""
    count = float(bdtrik(level, n, share))
    return 0 if not np.isfinite(count) or count < 0 else min(n, int(np.ceil(count)))


def logit_interval(value: float, variance: float, trials: int) -> tuple[float, float]:
    """Interval of a share from its variance, on the logit scale so that it stays inside 0..1.

    At 0 and 1 the variance says nothing; then the bound that ``trials`` independent observations would give.
    """
    tail = (1 - CONFIDENCE) / 2
    if value >= 1 or value <= 0 or variance <= 0:
        bound = tail ** (1 / max(trials, 1))
        if value >= 1:
            return bound, 1.0
        return (0.0, 1 - bound) if value <= 0 else (0.0, 1.0)
    z = float(ndtri(1 - tail))
    centre = math.log(value / (1 - value))
    spread = z * math.sqrt(variance) / (value * (1 - value))
    low, high = centre - spread, centre + spread
    return 1 / (1 + math.exp(-low)) if low > -700 else 0.0, 1 / (1 + math.exp(-high)) if high > -700 else 0.0


def area_interval(value: float, n_members: int, n_others: int) -> tuple[float, float]:
    """Interval of an area under the ROC curve from its value and the numbers alone (Newcombe 2006, method 5).

    The areas from which the value lies no more than z standard errors away, with the variance of Hanley and McNeil
    (1982) at that area: it does not collapse where a few records leave hardly a pair in the wrong order.
    """
    z = float(ndtri(0.5 + CONFIDENCE / 2))
    size = (n_members + n_others) / 2 - 1

    def excess(area: float) -> float:
        spread = 1 + size * ((1 - area) / (2 - area) + area / (1 + area))
        return abs(value - area) - z * math.sqrt(area * (1 - area) * spread / (n_members * n_others))

    low = 0.0 if value <= 0 or excess(0.0) <= 0 else float(brentq(excess, 0.0, value))
    high = 1.0 if value >= 1 or excess(1.0) <= 0 else float(brentq(excess, value, 1.0))
    return low, high


def spearman_interval(rho: float, n: int) -> tuple[float, float]:
    """Interval of Spearman's rho by Fisher's z with the variance of Bonett & Wright (2000)."""
    if n < 4:
        return -1.0, 1.0
    z = float(ndtri(0.5 + CONFIDENCE / 2))
    spread = z * math.sqrt((1 + rho * rho / 2) / (n - 3))
    centre = np.arctanh(np.clip(rho, -1 + 1e-15, 1 - 1e-15))
    return float(np.tanh(centre - spread)), float(np.tanh(centre + spread))


def correlation_p_value(rho: float, n: int) -> float:
    """Two-sided p-value of a rank correlation by Student's t with n - 2 degrees of freedom."""
    if n < 3:
        return 1.0
    if abs(rho) >= 1:
        return 0.0
    t = abs(rho) * math.sqrt((n - 2) / (1 - rho * rho))
    return float(2 * stdtr(n - 2, -t))
