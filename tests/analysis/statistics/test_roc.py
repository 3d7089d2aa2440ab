"""ROC, AUC and TPR at a low FPR against brute force; ties, small groups, and whether the intervals cover."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from losslake.analysis.statistics.intervals import area_interval
from losslake.analysis.statistics.metric import Metric
from losslake.analysis.statistics.roc import auc, evaluate, roc, split, threshold_at_fpr, tpr_at_fpr
from scipy.optimize import brentq
from scipy.stats import beta, binom, mannwhitneyu, norm

Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator], tuple[Floats, Floats]]

SCORES: dict[str, Draw] = {
    "smooth": lambda rng: (rng.normal(1, 1, 37), rng.normal(0, 1, 53)),
    "ties": lambda rng: (rng.integers(0, 6, 40) + 1.0, rng.integers(0, 6, 61) * 1.0),
    "two values": lambda rng: (rng.integers(0, 2, 30) * 1.0, rng.integers(0, 2, 25) * 1.0),
    "all tied": lambda rng: (np.zeros(20), np.zeros(30)),
    "infinite": lambda rng: (
        np.append(rng.normal(size=20), [np.inf, np.inf]),
        np.append(rng.normal(size=30), -np.inf),
    ),
    "few": lambda rng: (rng.normal(1, 1, 2), rng.normal(0, 1, 3)),
}


@pytest.fixture(params=[(name, seed) for name in SCORES for seed in range(3)], ids=lambda p: f"{p[0]}-{p[1]}")
def groups(request: pytest.FixtureRequest) -> tuple[Floats, Floats]:
    """Sorted scores of members and of non-members."""
    name, seed = request.param
    members, others = SCORES[name](np.random.default_rng(seed))
    return np.sort(members), np.sort(others)


def kernel(members: Floats, others: Floats) -> Floats:
    """1 where a member scores above a non-member, a half where they tie: the Mann-Whitney kernel, O(n^2)."""
    return np.array([[1.0 if m > o else 0.5 if m == o else 0.0 for o in others] for m in members])


def test_auc_counts_ties_half(groups: tuple[Floats, Floats]) -> None:
    members, others = groups
    metric = auc(members, others)
    assert metric.value == pytest.approx(kernel(members, others).mean(), rel=1e-12)
    assert metric.value == pytest.approx(mannwhitneyu(members, others).statistic / len(members) / len(others))
    assert metric.n == len(members) + len(others)


def test_auc_interval_is_delongs_on_the_logit_scale(
    groups: tuple[Floats, Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("losslake.analysis.statistics.roc.FEW", 0)
    members, others = groups
    table = kernel(members, others)
    value = table.mean()
    variance = table.mean(axis=1).var(ddof=1) / len(members) + table.mean(axis=0).var(ddof=1) / len(others)
    metric = auc(members, others)
    if variance == 0 and 0 < value < 1:
        assert (metric.ci_low, metric.ci_high) == (0, 1)
        return
    if value in (0, 1):  # see the test on separation
        return
    spread = norm.ppf(0.975) * np.sqrt(variance) / (value * (1 - value))
    logit = np.log(value / (1 - value)) + spread * np.array([-1, 1])
    np.testing.assert_allclose([metric.ci_low, metric.ci_high], 1 / (1 + np.exp(-logit)), rtol=1e-9)


def test_auc_interval_of_few_records_holds_both(
    groups: tuple[Floats, Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    members, others = groups
    both = auc(members, others)
    monkeypatch.setattr("losslake.analysis.statistics.roc.FEW", 0)
    delong = auc(members, others)
    assert both.value is not None
    by_size = area_interval(both.value, len(members), len(others))
    assert both.ci_low == min(delong.ci_low or 0, by_size[0])
    assert both.ci_high == max(delong.ci_high or 0, by_size[1])


def test_the_curve_has_one_step_a_distinct_score(groups: tuple[Floats, Floats]) -> None:
    members, others = groups
    curve = roc(members, others)
    thresholds = sorted({*members.tolist(), *others.tolist()}, reverse=True)
    assert curve.threshold.tolist() == [np.inf, *thresholds]
    assert curve.tpr.tolist() == pytest.approx([0, *(np.mean([m >= t for m in members]) for t in thresholds)])
    assert curve.fpr.tolist() == pytest.approx([0, *(np.mean([o >= t for o in others]) for t in thresholds)])
    assert (curve.fpr[-1], curve.tpr[-1]) == (1, 1)
    assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(auc(members, others).value)


@pytest.mark.parametrize("fpr", [0.02, 0.1, 1 / 3, 0.5, 0.999])
def test_tpr_at_fpr_is_the_best_of_all_thresholds(groups: tuple[Floats, Floats], fpr: float) -> None:
    members, others = groups
    best = 0.0
    for threshold in [np.inf, *members, *others]:
        for called, falsely in (
            (members >= threshold, others >= threshold),
            (members > threshold, others > threshold),
        ):
            if np.isinf(threshold) and not np.isinf(members).any():
                continue
            if falsely.sum() <= fpr * len(others) + 1e-9:
                best = max(best, float(called.mean()))
    metric = tpr_at_fpr(members, others, fpr)
    resolved = len(others) * fpr >= 1
    assert metric.parameters == {"fpr": fpr, "resolved": resolved, "non_members": len(others)}
    assert metric.value == (best if resolved else None)
    assert metric.ci_low is not None
    assert metric.ci_high is not None
    assert 0 <= metric.ci_low <= best <= metric.ci_high <= 1
    assert np.mean(others > threshold_at_fpr(others, fpr)) <= fpr + 1e-12


@pytest.mark.parametrize("fpr", [0.001, 0.02, 0.1, 0.5, 0.999])
def test_the_interval_of_a_tpr_is_over_how_many_others_may_be_above(
    groups: tuple[Floats, Floats], fpr: float
) -> None:
    members, others = groups
    m, n = len(members), len(others)
    chance = binom.pmf(np.arange(n + 1), n, fpr)
    ranked = others[::-1]
    surely = np.array([(members > ranked[j - 1]).sum() if j else 0 for j in range(n + 1)])
    perhaps = np.array([(members >= ranked[j]).sum() if j < n else m for j in range(n + 1)])

    def below(share: float) -> float:  # how sure it is that the truth lies below
        return float(chance @ np.where(surely > 0, beta.cdf(share, np.maximum(surely, 1), m - surely + 1), 1))

    def under(share: float) -> float:
        return float(
            chance @ np.where(perhaps < m, beta.cdf(share, perhaps + 1, np.maximum(m - perhaps, 1)), 0)
        )

    low = 0.0 if below(0) >= 0.025 else brentq(lambda share: below(share) - 0.025, 0, 1)
    high = 1.0 if under(1 - 1e-12) <= 0.975 else brentq(lambda share: under(share) - 0.975, 0, 1)
    metric = tpr_at_fpr(members, others, fpr)
    # Counts with less than 1 in 10,000 are left out.
    assert (metric.ci_low, metric.ci_high) == pytest.approx((low, high), abs=2e-3)


def test_an_fpr_that_is_a_whole_number_of_records_counts_in_full() -> None:
    others = np.arange(100.0)  # 0.29 * 100 is 28.999999999999996
    members = np.arange(100.0) + 0.5
    for allowed in range(1, 100):
        assert tpr_at_fpr(members, others, allowed / 100).value == pytest.approx((allowed + 1) / 100)


def test_thresholds_are_set_by_non_members_alone() -> None:
    others = np.sort(np.random.default_rng(0).normal(size=100))
    assert tpr_at_fpr(np.array([-99.0, 99.0]), others, 0.01).value == 0.5
    assert threshold_at_fpr(others, 0.01) == others[-2]
    assert threshold_at_fpr(others, 0.001) == others[-1]


def test_an_fpr_that_cannot_be_resolved_has_no_value() -> None:
    rng = np.random.default_rng(1)
    members, others = np.sort(rng.normal(5, 1, 200)), np.sort(rng.normal(0, 1, 99))
    metric = tpr_at_fpr(members, others, 0.01)
    assert metric.value is None
    assert metric.parameters["resolved"] is False
    assert metric.ci_low == 0  # the threshold may lie above every record
    assert metric.to_json()["value"] is None
    assert tpr_at_fpr(members, np.append(others, 9), 0.01).value is not None


@pytest.mark.parametrize(("shift", "value"), [(10, 1), (-10, 0)])
def test_perfect_and_inverted_separation(shift: float, value: float) -> None:
    others = np.linspace(0, 1, 50)
    members = others[:40] + shift
    metric, at_tenth = auc(members, others), tpr_at_fpr(members, others, 0.1)
    assert metric.value == value
    assert metric.ci_low is not None
    assert metric.ci_high is not None
    width = metric.ci_high - metric.ci_low
    assert 0.05 < width < 0.15  # not zero, though the sample varies in nothing
    assert value in (metric.ci_low, metric.ci_high)
    assert at_tenth.value == value


@pytest.mark.parametrize("member", [True, False])
def test_one_class_has_no_curve(member: bool) -> None:
    assert evaluate(np.arange(5.0), np.full(5, member), (0.1,)) == []


def test_nan_scores_are_left_out() -> None:
    score = np.array([1, np.nan, 3, 0, np.nan, 2.0])
    member = np.array([True, True, True, False, False, False])
    members, others = split(score, member)
    assert (members.tolist(), others.tolist()) == ([1, 3], [0, 2])
    assert evaluate(score, member, ())[0].value == 0.75
    assert evaluate(np.array([np.nan, 1.0]), np.array([True, False]), (0.1,)) == []


def test_higher_means_member() -> None:
    score, member = np.array([3.0, 2, 1, 0]), np.array([True, True, False, False])
    assert [metric.value for metric in evaluate(score, member, (0.5,))] == [1, 1]
    assert [metric.value for metric in evaluate(-score, member, (0.5,))] == [0, 0]


# --- coverage: 95% intervals hold the truth in at least 92% of 300 trials ------------------------------------


def coverage(truth: float, draw: Callable[[np.random.Generator], Metric], seed: int) -> float:
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(300):
        metric = draw(rng)
        assert metric.ci_low is not None
        assert metric.ci_high is not None
        held += metric.ci_low <= truth <= metric.ci_high
    return held / 300


@pytest.mark.parametrize(("members", "others"), [(40, 60), (200, 80), (25, 200)])
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_auc_coverage(members: int, others: int, shift: float) -> None:
    def draw(rng: np.random.Generator) -> Metric:
        return auc(np.sort(rng.normal(shift, 1, members)), np.sort(rng.normal(0, 1, others)))

    assert coverage(norm.cdf(shift / np.sqrt(2)), draw, seed=members) >= 0.92


@pytest.mark.parametrize(("fpr", "shift"), [(0.1, 0.0), (0.1, 1.5), (0.01, 1.0), (0.001, 3.0)])
def test_tpr_at_fpr_coverage(fpr: float, shift: float) -> None:
    def draw(rng: np.random.Generator) -> Metric:
        return tpr_at_fpr(np.sort(rng.normal(shift, 1, 150)), np.sort(rng.normal(0, 1, 200)), fpr)

    assert coverage(norm.sf(norm.isf(fpr) - shift), draw, seed=3) >= 0.92


@pytest.mark.parametrize("fpr", [0.05, 0.2])
def test_tpr_at_fpr_coverage_with_heavy_ties(fpr: float) -> None:
    """Scores are counts: the truth is the best TPR of the population's own step curve at most at that FPR."""
    counts = np.arange(12)
    truth = max(binom.sf(c, 10, 0.6) for c in [-1, *counts] if binom.sf(c, 10, 0.4) <= fpr)

    def draw(rng: np.random.Generator) -> Metric:
        return tpr_at_fpr(
            np.sort(rng.binomial(10, 0.6, 150) * 1.0), np.sort(rng.binomial(10, 0.4, 120) * 1.0), fpr
        )

    assert coverage(truth, draw, seed=4) >= 0.92


def test_the_interval_of_a_tpr_narrows_with_the_data() -> None:
    rng = np.random.default_rng(5)
    widths = []
    for n in (100, 1_000, 10_000):
        metric = tpr_at_fpr(np.sort(rng.normal(1, 1, n)), np.sort(rng.normal(0, 1, n)), 0.05)
        assert metric.ci_low is not None
        assert metric.ci_high is not None
        widths.append(metric.ci_high - metric.ci_low)
    assert widths[0] > 1.5 * widths[1] > 3 * widths[2]
