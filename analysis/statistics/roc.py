"""How well a score tells members from non-members: ROC, AUC, TPR at a low FPR. Higher score = member."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, bdtrc

from .intervals import area_interval, count_quantile, logit_interval, uncertain_share
from .metric import Metric

Floats = npt.NDArray[np.float64]

FEW = 500
"""With fewer members or non-members than this, an interval of an AUC is not left to its variance alone."""
_LEFT_OUT = 1e-4
"""Counts of non-members above a threshold less likely than this, either way, set no bound."""


@dataclass(frozen=True)
class Roc:
    """The step curve: one point a distinct score, from (0, 0) to (1, 1). Tied scores make one step."""

    fpr: Floats
    tpr: Floats
    threshold: Floats


def split(score: Floats, member: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Scores of the members and of the non-members, each sorted from low to high; NaN left out."""
    score = np.asarray(score, dtype=np.float64)
    known = ~np.isnan(score)
    return np.sort(score[known & member]), np.sort(score[known & ~member])


def roc(members: Floats, others: Floats) -> Roc:
    """The curve of sorted member and non-member scores: a record is called a member at score >= threshold."""
    thresholds = np.unique(np.concatenate([members, others]))[::-1]
    tpr = 1 - np.searchsorted(members, thresholds, "left") / max(len(members), 1)
    fpr = 1 - np.searchsorted(others, thresholds, "left") / max(len(others), 1)
    return Roc(
        np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr]), np.concatenate([[np.inf], thresholds])
    )


def auc(members: Floats, others: Floats) -> Metric:
    """Area under the curve, ties counted half, with the interval of DeLong et al. (1988) on the logit scale.

    Of fewer than `FEW` members or non-members DeLong's variance is too sure of itself where the groups hardly overlap
    (measured: benchmarks/coverage.py); there the interval also holds `area_interval`.
    """
    n_members, n_others = len(members), len(others)
    # Share of the others below each member, ties half, and the reverse: the structural components.
    below = (np.searchsorted(others, members, "left") + np.searchsorted(others, members, "right")) / (
        2 * n_others
    )
    above = 1 - (np.searchsorted(members, others, "left") + np.searchsorted(members, others, "right")) / (
        2 * n_members
    )
    value = float(below.mean())
    variance = _variance(below) / n_members + _variance(above) / n_others
    low, high = logit_interval(value, variance, min(n_members, n_others))
    if min(n_members, n_others) < FEW:
        other_low, other_high = area_interval(value, n_members, n_others)
        low, high = min(low, other_low), max(high, other_high)
    return Metric("auc", value, low, high, n_members + n_others)


def _variance(values: Floats) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.25


def threshold_at_fpr(others: Floats, fpr: float) -> float:
    """The score that a record must exceed to be called a member at most at rate ``fpr`` among ``others``."""
    allowed = whole_part(fpr, len(others))
    return float(others[len(others) - 1 - allowed]) if allowed < len(others) else -np.inf


def tpr_at_fpr(members: Floats, others: Floats, fpr: float) -> Metric:
    """The highest TPR of the step curve whose FPR is at most ``fpr``.

    The interval covers both the members and the choice of the threshold from a finite number of non-members. How many of
    these lie above the true threshold is a binomial count, whatever the scores; each number says between which two of
    them it lies, and so how many members are above it at least and at most: `uncertain_share` of these. Where
    fewer than one non-member is expected above the threshold the rate cannot be measured: ``value`` is
    None, ``resolved`` is False, and the interval says what is left.
    """
    n = len(others)
    hits = int((members > threshold_at_fpr(others, fpr)).sum())
    above = np.arange(count_quantile(n, fpr, _LEFT_OUT), count_quantile(n, fpr, 1 - _LEFT_OUT) + 1)
    # Counted from the top, the true threshold lies between the non-member of this number and the next; above the first where it is
    # 0, below the last where it is n. Members tied with the next count as well, as an attacker could break the tie.
    fewest = len(members) - np.searchsorted(members, others[n - above.clip(1)], "right")
    most = len(members) - np.searchsorted(members, others[n - 1 - above.clip(max=n - 1)], "left")
    fewest[above == 0], most[above == n] = 0, len(members)
    at_most, at_least = bdtr(above, n, fpr), np.where(above > 0, bdtrc(above - 1, n, fpr), 1.0)
    low, high = uncertain_share(fewest, most, at_most, at_least, len(members))
    resolved = n * fpr >= 1
    value = hits / len(members) if resolved else None
    return Metric(
        "tpr_at_fpr", value, low, high, len(members), {"fpr": fpr, "resolved": resolved, "non_members": n}
    )


def whole_part(share: float, n: int) -> int:
    """How many of ``n`` a share is, rounded down; 0.29 of 100 is 29, though the product falls a rounding below."""
    return int(np.floor(share * n * (1 + 1e-12)))


def evaluate(score: Floats, member: npt.NDArray[np.bool_], fprs: tuple[float, ...]) -> list[Metric]:
    """AUC, and TPR at each FPR, of one score. Empty when there are only members or only non-members."""
    members, others = split(score, member)
    if len(members) == 0 or len(others) == 0:
        return []
    return [auc(members, others), *(tpr_at_fpr(members, others, fpr) for fpr in fprs)]
