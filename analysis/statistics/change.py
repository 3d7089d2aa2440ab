"""How much a rate or an area moved between two models: its interval, where they were asked about records that they share."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .metric import Metric
from .roc import Floats, split, threshold_at_fpr, whole_part

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def change(before: Metric, now: Metric, together: float | None = None) -> Metric | None:
    """How much higher a metric is than it was, as `difference_interval` says; None where either has no value.

    ``together`` is the correlation of the errors of the two, None where nothing tells which records they share.
    """
    was, value = _with_ends(before), _with_ends(now)
    if was is None or value is None:
        return None
    low, high = difference_interval(was, value, together or 0.0)
    about = {**now.parameters, "paired": together is not None}
    return Metric(f"{now.metric}_change", value[0] - was[0], low, high, now.n, about)


def difference_interval(
    before: tuple[float, float, float], now: tuple[float, float, float], together: float = 0.0
) -> tuple[float, float]:
    """Interval of the difference of two estimates, each given as (value, low, high), from their own intervals.

    ``together`` is the correlation of their errors: 0 where the two are independent; then it holds the difference as often as they hold
    what they estimate. Source: Zou & Donner (2008), equation 5; at 0 it is Newcombe (1998), method 10.
    """
    (was, was_low, was_high), (value, low, high) = before, now
    return (
        value - was - _joined(value - low, was_high - was, together),
        value - was + _joined(high - value, was - was_low, together),
    )


def _joined(one: float, other: float, together: float) -> float:
    return math.sqrt(max(one * one + other * other - 2 * together * one * other, 0.0))


def correlation_of_errors(before: Floats, now: Floats, shared: tuple[Ids, Ids]) -> float:
    """Correlation of the errors of two estimates from what each record adds to either (`added_to_auc`, `added_to_tpr`).

    ``shared`` are the places in ``before`` and in ``now`` of the records that both models were asked about; the others go into the spread of one alone.
    """
    spread = math.sqrt(float(before @ before) * float(now @ now))
    return float(np.clip(before[shared[0]] @ now[shared[1]] / spread, -1, 1)) if spread > 0 else 0.0


def added_to_auc(score: Floats, member: Flags) -> Floats:
    """What each record adds to the error of the AUC, (n,): its structural component (DeLong et al. 1988) less their mean, over their number; 0 without a score."""
    members, others = split(score, member)
    added = np.zeros(len(score))
    known = ~np.isnan(score)
    for mine, against, sign in ((known & member, others, 1), (known & ~member, members, -1)):
        place = np.searchsorted(against, score[mine], "left") + np.searchsorted(against, score[mine], "right")
        part = sign * place / (2 * len(against))
        added[mine] = (part - part.mean()) / len(part)
    return added


def added_to_tpr(score: Floats, member: Flags, fpr: float) -> Floats:
    """What each record adds to the error of the TPR at this FPR, (n,); 0 without a score.

    A member adds by lying above the threshold or not; a non-member by moving the threshold, the more, the steeper the ROC curve is there: between
    a standard deviation of the number of non-members above it fewer and one more.
    """
    members, others = split(score, member)
    added = np.zeros(len(score))
    known = ~np.isnan(score)
    above = np.zeros(len(score), bool)
    above[known] = score[known] > threshold_at_fpr(others, fpr)
    allowed, n = whole_part(fpr, len(others)), len(others)
    few, many = (
        max(0, round(allowed - math.sqrt(allowed))),
        min(n - 1, round(allowed + math.sqrt(allowed) + 1)),
    )
    between = np.searchsorted(members, others[n - 1 - few], "right") - np.searchsorted(
        members, others[n - 1 - many], "right"
    )
    steep = between / len(members) / max((many - few) / n, 1 / n)
    for mine, weight in ((known & member, 1.0), (known & ~member, -steep)):
        hit = above[mine].astype(np.float64)
        added[mine] = weight * (hit - hit.mean()) / max(len(hit), 1)
    return added


def _with_ends(metric: Metric) -> tuple[float, float, float] | None:
    if metric.value is None or metric.ci_low is None or metric.ci_high is None:
        return None
    return metric.value, metric.ci_low, metric.ci_high
