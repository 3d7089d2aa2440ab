"""95% intervals of shares, areas and correlations."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .roots import rising_root, root
from .special import bdtr, bdtrik, betainc, betaincinv, ndtri, stdtr, stdtrit

CONFIDENCE = 0.95

FEW_PAIRS = 500

CHANCE = 0.05
"""How often something that is not there still counts as seen: of 100 samples without an effect, five lie beyond the noise."""

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Betas = tuple[Floats, Floats]

_LEFT_OUT = 1e-4
"""Hidden counts less likely than this, either way, are left out."""


def clopper_pearson(hits: float, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact interval of a share (Clopper & Pearson 1934). ``hits`` may be fractional where ties were shared out."""
    if trials == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = 0.0 if hits <= 0 else float(betaincinv(hits, trials - hits + 1, tail))
    high = 1.0 if hits >= trials else float(betaincinv(hits + 1, trials - hits, 1 - tail))
    return low, high


def uncertain_share(
    weight: Floats, fewest: Betas, most: Betas, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Interval of a share of which only this is known: there were ``fewest`` to ``most`` hits, were a hidden count the ith.

    ``weight`` (K,) is the probability of each hidden count, and each of ``fewest`` and ``most`` the (hits, misses) seen
    then, (K,) each. A hidden count that is a known chance, whatever the data, is averaged over: the bounds are the quantiles of the
    mixture of Clopper and Pearson's confidence distributions, beta(hits, misses + 1) below and beta(hits + 1, misses) above.
    Where hits grow evenly with the hidden count, a bound lies beyond the truth as seldom as promised.
    """
    tail = (1 - confidence) / 2
    hits, misses = fewest
    low = _quantile(weight, hits, misses + 1, tail)
    hits, misses = most
    high = _quantile(weight, hits + 1, misses, 1 - tail)
    return low, high


def _quantile(weight: Floats, a: Floats, b: Floats, level: float) -> float:
    """The share at which the weighted mean of the distribution functions of beta(a, b) reaches ``level``.

    All of one's mass lies at 0 where a is 0, and at 1 where b is 0.
    """
    inside = (a > 0) & (b > 0)
    at_zero, at_one = float(weight[a <= 0].sum()), float(weight[(a > 0) & (b <= 0)].sum())
    if at_zero >= level:
        return 0.0
    if float(weight.sum()) - at_one <= level:
        return 1.0
    if not inside.all():
        weight, a, b = weight[inside], a[inside], b[inside]
    mean = a / (a + b)
    middle = float((weight * mean).sum())
    variance = float((weight * (mean * (1 - mean) / (a + b + 1) + (mean - middle) ** 2)).sum())
    # Of one that is nearly normal the second guess is off by hundredths of its spread already.
    spread = math.sqrt(max(variance, 1e-300))
    z = float(ndtri(level))

    def excess(share: float) -> float:
        return at_zero + float((weight * betainc(a, b, share)).sum()) - level

    slope = math.exp(-z * z / 2) / (math.sqrt(2 * math.pi) * spread)
    return rising_root(excess, middle + z * spread, slope, xtol=1e-12, rtol=1e-8)


def hidden_counts(n: int, share: float, most: int | None = None) -> tuple[Counts, Floats]:
    """Values that a binomial count takes, but for the least likely, with their probabilities, which sum to 1.

    With ``most`` so many values at most, evenly spread, each with the probability of its surroundings.
    """
    low, high = count_quantile(n, share, _LEFT_OUT), count_quantile(n, share, 1 - _LEFT_OUT)
    width = 1 if most is None else -(-(high - low + 1) // most)
    ends = np.arange(low, high + 1, width) + width - 1
    chance = (
        np.diff(bdtr(np.minimum(ends, n).astype(np.float64), n, share), prepend=0.0)
        if share < 1
        else np.ones(1)
    )
    return np.minimum(ends - (width - 1) // 2, n), chance / chance.sum()


def count_quantile(n: int, share: float, level: float) -> int:
    """The ``level`` quantile of a binomial count."""
    count = float(bdtrik(level, n, share))
    return 0 if not np.isfinite(count) or count < 0 else min(n, int(np.ceil(count)))


def logit_interval(
    value: float, variance: float, trials: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Interval of a share from its variance, on the logit scale so that it stays inside 0..1.

    At 0 and 1 the variance says nothing; then the bound that ``trials`` independent observations would give.
    """
    tail = (1 - confidence) / 2
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


def area_interval(
    value: float, n_members: int, n_others: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Interval of an area under the ROC curve from its value and the numbers alone (Newcombe 2006, method 5).

    The areas from which the value lies no more than z standard errors away, with the variance of Hanley and McNeil
    (1982) at that area: it does not collapse where a few records leave hardly a pair in the wrong order.
    """
    z = float(ndtri(0.5 + confidence / 2))
    size = (n_members + n_others) / 2 - 1

    def excess(area: float) -> float:
        spread = 1 + size * ((1 - area) / (2 - area) + area / (1 + area))
        return abs(value - area) - z * math.sqrt(area * (1 - area) * spread / (n_members * n_others))

    low = 0.0 if value <= 0 or excess(0.0) <= 0 else root(excess, 0.0, value)
    high = 1.0 if value >= 1 or excess(1.0) <= 0 else root(excess, value, 1.0)
    return low, high


def spearman_interval(rho: float, error: float, n: int) -> tuple[float, float]:
    """Interval of Spearman's rho from its standard error, by Fisher's z.

    Of fewer than `FEW_PAIRS` the error itself is uncertain, and nothing where every pair is in order; then the interval also holds that
    of Bonett & Wright (2000), as of a bivariate normal.
    """
    if n < 4:
        return -1.0, 1.0
    left, spread = 1 - rho * rho, 0.0
    if left > 1e-12:
        spread = float(stdtrit(n - 3, 0.5 + CONFIDENCE / 2)) * error * math.sqrt(n / (n - 3)) / left
    if n < FEW_PAIRS or spread == 0:
        usual = math.sqrt((1 + rho * rho / 2) / (n - 3))
        spread = max(spread, float(ndtri(0.5 + CONFIDENCE / 2)) * usual)
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
