"""Precision and recall of the top k: whether the intervals cover when truth and top are drawn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from losslake.analysis.evaluations.compare import expected_hits
from losslake.analysis.statistics.correlation import Ranked
from losslake.analysis.statistics.roc import threshold_at_fpr, tpr_at_fpr, whole_part
from losslake.analysis.statistics.top_k import Truth, precision_and_recall
from scipy.special import ndtri

Floats = npt.NDArray[np.float64]


def members(rng: np.random.Generator, n: int, shape: str) -> tuple[Floats, Floats]:
    """The attack's scores and the cheap ones: of one record in seven both know something."""
    exposed = np.where(rng.random(n) < 0.15, rng.gamma(2, 2.0, n), 0)
    attack, score = rng.normal(0, 1, n) + exposed, exposed + rng.normal(0, 1, n)
    if shape == "ties":
        return attack, np.round(score)
    return attack, exposed + rng.standard_t(2, n) if shape == "heavy tails" else score


@pytest.mark.parametrize(
    ("shape", "n", "others", "fpr", "share"),
    [
        ("normal", 900, 900, 0.01, 0.1),
        ("normal", 60, 2_000, 0.01, 0.2),
        ("normal", 2_000, 200, 0.03, 0.1),
        ("heavy tails", 1_000, 1_000, 0.01, 0.05),
        ("ties", 1_000, 1_000, 0.01, 0.1),
    ],
)
def test_coverage(shape: str, n: int, others: int, fpr: float, share: float) -> None:
    rng = np.random.default_rng(5)
    attack, score = members(rng, 1_000_000, shape)
    true = attack > ndtri(1 - fpr)
    top = int(share * len(score))
    precision = expected_hits(score, true, top) / top
    recall = precision * share / true.mean()
    held, widths, values = np.zeros(2), [], []
    for _ in range(200):
        attack, score = members(rng, n, shape)
        outside = np.sort(rng.normal(0, 1, others))
        intervals = precision_and_recall(Ranked.of(score), Truth.of(attack, outside, fpr), share)
        held += [low <= truth <= high for (low, high), truth in zip(intervals, (precision, recall))]
        found, k = attack > threshold_at_fpr(outside, fpr), whole_part(share, n)
        hits = expected_hits(score, found, k)
        values.append([hits / k, hits / max(found.sum(), 1)])
        widths.append([high - low for low, high in intervals])
        for value, (low, high) in zip(values[-1], intervals):
            assert low <= value <= high
    assert (held / 200 >= 0.93).all()
    assert (np.mean(widths, axis=0) < 1.4 * 2 * 1.96 * np.std(values, axis=0)).all()


def test_all_members_are_the_attacks_rate() -> None:
    rng = np.random.default_rng(1)
    attack, score = members(rng, 500, "normal")
    others = np.sort(rng.normal(size=300))
    precision, recall = precision_and_recall(Ranked.of(score), Truth.of(attack, others, 0.05), 1.0)
    rate = tpr_at_fpr(np.sort(attack), others, 0.05)
    assert precision == pytest.approx((rate.ci_low, rate.ci_high), rel=0.02)
    assert recall == (1, 1)


@pytest.mark.parametrize("others", [0, 1, 50])
@pytest.mark.parametrize("n", [1, 3, 50])
def test_few_records(n: int, others: int) -> None:
    rng = np.random.default_rng(n)
    for share in (0.1, 0.5, 1.0):
        truth = Truth.of(rng.normal(size=n), np.sort(rng.normal(size=others)), 0.01)
        for low, high in precision_and_recall(Ranked.of(rng.normal(size=n)), truth, share):
            assert 0 <= low <= high <= 1
