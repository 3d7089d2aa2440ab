"""How well a score tells members from non-members: ROC, AUC, TPR at a low FPR. Higher score = member."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .intervals import (
    CONFIDENCE,
    area_interval,
    clopper_pearson,
    hidden_counts,
    logit_interval,
    uncertain_share,
)
from .metric import Metric

Floats = npt.NDArray[np.float64]

RESOLVED_FROM = 5
"""Non-members expected above the threshold from which a TPR tells something; under about four its interval reaches down to 0."""

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
    return Roc(np.append(0.0, fpr), np.append(0.0, tpr), np.append(np.inf, thresholds))


def auc(members: Floats, others: Floats, confidence: float = CONFIDENCE) -> Metric:
    """Area under the curve, ties counted half, with the interval of DeLong et al. (1988) on the logit scale.

    Of fewer than `FEW` members or non-members DeLong's variance is too sure of itself where the groups hardly overlap
    (measured: benchmarks/coverage.py); there the interval also holds `area_interval`.
    """
    n_members, n_others = len(members), len(others)
    # Share of the others below each member, ties half, and the reverse: the structural components.
    below = _places(others, members) / (2 * n_others)
    above = 1 - _places(members, others) / (2 * n_members)
    value = float(below.mean())
    variance = _variance(below) / n_members + _variance(above) / n_others
    low, high = logit_interval(value, variance, min(n_members, n_others), confidence)
    if min(n_members, n_others) < FEW:
        other_low, other_high = area_interval(value, n_members, n_others, confidence)
        low, high = min(low, other_low), max(high, other_high)
    return Metric("auc", value, low, high, n_members + n_others)


def _places(ranked: Floats, values: Floats) -> npt.NDArray[np.intp]:
    """Twice how many of ``ranked`` are below each value, those that are equal counting half."""
    left = np.searchsorted(ranked, values, "left")
    tied = left[ranked[np.minimum(left, len(ranked) - 1)] == values]
    return left + (np.searchsorted(ranked, values, "right") if len(tied) else left)


def _variance(values: Floats) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.25


def threshold_at_fpr(others: Floats, fpr: float) -> float:
    """The score that a record must exceed to be called a member at most at rate ``fpr`` among ``others``."""
    allowed = whole_part(fpr, len(others))
    return float(others[len(others) - 1 - allowed]) if allowed < len(others) else -np.inf


def tpr_at_fpr(members: Floats, others: Floats, fpr: float, confidence: float = CONFIDENCE) -> Metric:
    """The highest TPR of the step curve whose FPR is at most ``fpr``.

    The interval covers both the members and the choice of the threshold from a finite number of non-members. How many of
    these lie above the true threshold is a binomial count, whatever the scores; each number says between which two of
    them it lies, and so how many members are above it at least and at most: `uncertain_share` of these, averaged over
    the binomial. Where
    fewer than one non-member is expected above the threshold the rate cannot be measured: ``value`` is
    None, ``resolved`` is False, and the interval says what is left. Verdicts and gates take a rate only where it is `firm`.
    """
    n = len(others)
    hits = int((members > threshold_at_fpr(others, fpr)).sum())
    above, weight = hidden_counts(n, fpr)
    lower, upper = uncertain_thresholds(others, above)
    fewest = len(members) - np.searchsorted(members, lower, "right").astype(np.float64)
    most = len(members) - np.searchsorted(members, upper, "left").astype(np.float64)
    low, high = uncertain_share(
        weight, (fewest, len(members) - fewest), (most, len(members) - most), confidence
    )
    resolved = n * fpr >= 1
    value = hits / len(members) if resolved else None
    about = {"fpr": fpr, "resolved": resolved, "non_members": n}
    return Metric("tpr_at_fpr", value, low, high, len(members), about)


def firm(fpr: float, non_members: int) -> bool:
    """Whether about `RESOLVED_FROM` non-members or more are expected above the threshold."""
    return fpr * non_members >= RESOLVED_FROM * (1 - 1e-9)


def uncertain_thresholds(others: Floats, above: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Between which two scores the true threshold lies, were so many of the sorted ``others`` above it: (K,) each.

    Counted from the top, it lies between the non-member of this number and the next; above the first where it is 0, below the
    last where it is all. A record is above it for certain where it exceeds the first of the two, and cannot be below
    the second; those tied with the second may count, as an attacker could break the tie.
    """
    n = len(others)
    if n == 0:
        return np.full(len(above), np.inf), np.full(len(above), -np.inf)
    first = np.where(above == 0, np.inf, others[n - above.clip(1)])
    second = np.where(above == n, -np.inf, others[n - 1 - above.clip(max=n - 1)])
    return first, second


def whole_part(share: float, n: int) -> int:
    """How many of ``n`` a share is, rounded down; 0.29 of 100 is 29, though the product falls a rounding below."""
    return int(np.floor(share * n * (1 + 1e-12)))


def evaluate(score: Floats, member: npt.NDArray[np.bool_], fprs: tuple[float, ...]) -> list[Metric]:
    """AUC, and TPR at each FPR, of one score. Empty when there are only members or only non-members."""
    members, others = split(score, member)
    if len(members) == 0 or len(others) == 0:
        return []
    return [auc(members, others), *(tpr_at_fpr(members, others, fpr) for fpr in fprs)]


def rates(
    named: npt.NDArray[np.bool_], member: npt.NDArray[np.bool_], where: str, parameters: Mapping[str, Any]
) -> tuple[Metric, ...]:
    """TPR, FPR and advantage = TPR - FPR of naming these records members, called ``tpr_WHERE`` and likewise.

    Both rates with Clopper-Pearson intervals; that of the advantage is put together from theirs, as of independent
    shares (Newcombe 1998, method 10). Empty when there are only members or only non-members.
    """
    n_members, n_others = int(member.sum()), int((~member).sum())
    if n_members == 0 or n_others == 0:
        return ()
    hits, alarms = int((named & member).sum()), int((named & ~member).sum())
    tpr, fpr = hits / n_members, alarms / n_others
    tpr_low, tpr_high = clopper_pearson(hits, n_members)
    fpr_low, fpr_high = clopper_pearson(alarms, n_others)
    below = math.hypot(tpr - tpr_low, fpr_high - fpr)
    above = math.hypot(tpr_high - tpr, fpr - fpr_low)
    advantage = tpr - fpr
    return (
        Metric(f"tpr_{where}", tpr, tpr_low, tpr_high, n_members, parameters),
        Metric(f"fpr_{where}", fpr, fpr_low, fpr_high, n_others, parameters),
        Metric(
            f"advantage_{where}",
            advantage,
            max(-1.0, advantage - below),
            min(1.0, advantage + above),
            n_members + n_others,
            parameters,
        ),
    )


@dataclass(frozen=True)
class Confusion:
    """Counts of records by what they are and what the attack says."""

    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int

    @property
    def records(self) -> int:
        return self.true_positives + self.false_negatives + self.false_positives + self.true_negatives

    def metrics(self) -> tuple[Metric, ...]:
        """The four rates, accuracy and precision with Clopper-Pearson intervals; the counts as ``records``.

        confusion is the share of the members (or of the non-members) that the attack says this of. Accuracy and
        precision depend on how many members there are for each non-member. Nothing can be said without records.
        """
        members = self.true_positives + self.false_negatives
        others = self.false_positives + self.true_negatives
        named = self.true_positives + self.false_positives
        right = self.true_positives + self.true_negatives
        cells = (
            ("member", "member", self.true_positives, members),
            ("member", "non-member", self.false_negatives, members),
            ("non-member", "member", self.false_positives, others),
            ("non-member", "non-member", self.true_negatives, others),
        )
        return (
            *(
                Metric.share("confusion", hits, of, {"is": truth, "said": said, "records": hits})
                for truth, said, hits, of in cells
            ),
            Metric.share("accuracy", right, self.records),
            Metric.share("precision", self.true_positives, named),
        )


def confusion(said: npt.NDArray[np.bool_], member: npt.NDArray[np.bool_]) -> Confusion:
    """Count records that the attack says are members (``said``) against those that are."""
    return Confusion(
        int((said & member).sum()),
        int((~said & member).sum()),
        int((said & ~member).sum()),
        int((~said & ~member).sum()),
    )
