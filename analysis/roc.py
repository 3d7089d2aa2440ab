"""How well a score tells members from non-members: ROC, AUC, TPR at a low FPR. Higher score = member."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import bdtrik

from .intervals import CONFIDENCE, area_interval, clopper_pearson, logit_interval
from .metric import Metric

Floats = npt.NDArray[np.float64]

FEW = 500
"""With fewer members or non-members than this, an interval of an AUC is not left to its variance alone."""


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

    The interval covers both the members and the choice of the threshold from a finite number of non-members:
    the order statistics that bracket the threshold, then Clopper-Pearson at both, each at half the error.
    Where fewer than one non-member is expected above the threshold the rate cannot be measured: ``value`` is
    None, ``resolved`` is False, and the interval says what is left.
    """
    n = len(others)
    half = (1 + CONFIDENCE) / 2
    hits = int((members > threshold_at_fpr(others, fpr)).sum())
    fewest, most = _quantile_of_count(n, fpr, (1 - half) / 2), _quantile_of_count(n, fpr, 1 - (1 - half) / 2)
    strict = int((members > others[n - fewest]).sum()) if fewest > 0 else 0
    loose = int((members >= others[n - 1 - most]).sum()) if most < n else len(members)
    low = clopper_pearson(strict, len(members), half)[0]
    high = clopper_pearson(loose, len(members), half)[1]
    resolved = n * fpr >= 1
    value = hits / len(members) if resolved else None
    return Metric(
        "tpr_at_fpr", value, low, high, len(members), {"fpr": fpr, "resolved": resolved, "non_members": n}
    )


def whole_part(share: float, n: int) -> int:
    """How many of ``n`` a share is, rounded down; 0.29 of 100 is 29, though the product falls a rounding below."""
    return int(np.floor(share * n * (1 + 1e-12)))


def _quantile_of_count(n: int, share: float, level: float) -> int:
    """The ``level`` quantile of a binomial count."""
    count = float(bdtrik(level, n, share))
    return 0 if not np.isfinite(count) or count < 0 else min(n, int(np.ceil(count)))


def evaluate(score: Floats, member: npt.NDArray[np.bool_], fprs: tuple[float, ...]) -> list[Metric]:
    """AUC, and TPR at each FPR, of one score. Empty when there are only members or only non-members."""
    members, others = split(score, member)
    if len(members) == 0 or len(others) == 0:
        return []
    return [auc(members, others), *(tpr_at_fpr(members, others, fpr) for fpr in fprs)]
