"""Intervals of shares and correlations against SciPy, and whether they cover."""

from __future__ import annotations

import numpy as np
import pytest
from losslake.analysis.statistics.intervals import (
    area_interval,
    clopper_pearson,
    correlation_p_value,
    logit_interval,
    spearman_interval,
    uncertain_share,
)
from scipy.optimize import brentq
from scipy.stats import beta, binom, binomtest, chi2, norm, spearmanr


@pytest.mark.parametrize("trials", [1, 2, 7, 60, 5_000])
@pytest.mark.parametrize("confidence", [0.95, 0.975, 0.5])
def test_clopper_pearson_is_scipys_exact_interval(trials: int, confidence: float) -> None:
    for hits in sorted({0, 1, trials // 3, trials // 2, trials - 1, trials}):
        exact = binomtest(hits, trials).proportion_ci(confidence, method="exact")
        # scipy searches for the bounds, to about 1e-12; the quantiles of the beta distribution are the same exactly.
        got = clopper_pearson(hits, trials, confidence)
        np.testing.assert_allclose(got, (exact.low, exact.high), rtol=1e-6, atol=1e-11)
        tail = (1 - confidence) / 2
        if 0 < hits < trials:
            bounds = beta.ppf(tail, hits, trials - hits + 1), beta.isf(tail, hits + 1, trials - hits)
            np.testing.assert_allclose(got, bounds, rtol=1e-9)


def test_clopper_pearson_of_shared_out_ties_lies_between_its_neighbours() -> None:
    for hits in (0, 3, 9):
        below, between, above = (clopper_pearson(h, 10) for h in (hits, hits + 0.4, hits + 1))
        assert below[0] < between[0] < above[0]
        assert below[1] < between[1] <= above[1]


@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_a_share_of_uncertain_hits_is_beyond_as_seldom_as_promised(confidence: float) -> None:
    """In every pair of the two counts: the probability of those at which the bound lies beyond the truth is summed up."""
    trials, hidden, tail = 16, np.arange(21), (1 - confidence) / 2
    at_most, at_least = binom.cdf(hidden, 20, 0.3), binom.sf(hidden - 1, 20, 0.3)
    curves = {
        "steep": np.minimum(hidden * 2, trials),
        "flat": hidden // 4 + 5,
        "a step at the expected count": np.where(hidden > 6, 14, 3),
        "a step above it": np.where(hidden > 8, 14, 3),
    }
    for curve in curves.values():
        beyond = {"low": 0.0, "high": 0.0}
        for j in hidden:
            # The truth is the curve at j, and K hits are seen there: the whole curve is up or down by as much.
            for truth in (0.15, 0.6):
                for k in range(trials + 1):
                    seen = np.clip(curve - curve[j] + k, 0, trials)
                    low, high = uncertain_share(seen, seen, at_most, at_least, trials, confidence)
                    chance = binom.pmf(j, 20, 0.3) * binom.pmf(k, trials, truth) / 2
                    beyond["low"] += chance * (low > truth)
                    beyond["high"] += chance * (high < truth)
        assert max(beyond.values()) <= tail + 1e-9


def test_the_bounds_of_uncertain_hits_are_the_farthest() -> None:
    fewest, most = np.array([0, 3, 9, 20]), np.array([3, 9, 20, 25])
    at_most, at_least = np.array([0.001, 0.1, 0.7, 1.0]), np.array([1.0, 0.999, 0.9, 0.3])
    low, high = uncertain_share(fewest, most, at_most, at_least, 25)
    radius = brentq(lambda r: (chi2.sf(r * r, 2) + 2 * chi2.sf(r * r, 1)) / 4 - 0.025, 0, 9)
    rest = [
        norm.sf(np.sqrt(radius**2 - max(norm.isf(p), 0) ** 2)) for p in at_most[1:]
    ]  # the first is too unlikely
    assert low == pytest.approx(min(beta.ppf(r, f, 25 - f + 1) for r, f in zip(rest, fewest[1:])), rel=1e-9)
    assert high == 1.0
    assert uncertain_share(fewest, most - 1, at_most, at_least, 25)[1] == pytest.approx(
        beta.isf(norm.sf(np.sqrt(radius**2 - norm.isf(0.3) ** 2)), 25, 1)
    )
    wide = uncertain_share(np.array([9]), np.array([9]), np.ones(1), np.ones(1), 25)
    exact = clopper_pearson(9, 25, 1 - 2 * norm.sf(radius))
    np.testing.assert_allclose(wide, exact, rtol=1e-9)


def test_no_trials_say_nothing() -> None:
    none = np.zeros(1, dtype=int)
    assert uncertain_share(none, none, np.ones(1), np.ones(1), 0) == (0.0, 1.0)
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("sizes", [(1, 1), (2, 9), (25, 200), (4_000, 300)])
@pytest.mark.parametrize("value", [0.0, 0.02, 0.5, 0.71, 0.999, 1.0])
def test_the_bounds_of_an_area_lie_z_standard_errors_away(value: float, sizes: tuple[int, int]) -> None:
    low, high = area_interval(value, *sizes)
    assert 0 <= low <= value <= high <= 1
    for bound in {low, high} - {0.0, 1.0, value}:
        q1, q2 = bound / (2 - bound), 2 * bound**2 / (1 + bound)  # Hanley & McNeil's, of an exponential model
        # Newcombe evens the two sizes out: each pair counts (m + n) / 2 - 1 others, rather than m - 1 and n - 1.
        others = (sum(sizes) / 2 - 1) * (q1 + q2 - 2 * bound**2)
        variance = (bound * (1 - bound) + others) / (sizes[0] * sizes[1])
        assert abs(value - bound) == pytest.approx(1.959963984540054 * np.sqrt(variance), rel=1e-6)


@pytest.mark.parametrize(("value", "variance"), [(1e-9, 0.25), (1 - 1e-9, 0.25), (0.5, 1e300), (0.5, 1e-300)])
def test_logit_intervals_stay_inside(value: float, variance: float) -> None:
    low, high = logit_interval(value, variance, 10)
    assert 0 <= low <= value <= high <= 1


@pytest.mark.parametrize("n", [3, 4, 10, 200])
def test_p_values_match_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(2, n))
    expected = spearmanr(x, y)
    assert correlation_p_value(expected.statistic, n) == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert correlation_p_value(1.0, n) == 0
    assert correlation_p_value(0.3, 2) == 1


def test_spearman_interval_at_its_ends() -> None:
    assert spearman_interval(0.9, 3) == (-1, 1)
    low, high = spearman_interval(1.0, 50)
    assert 0.99 < low <= high <= 1
    assert spearman_interval(-0.5, 50) == tuple(-bound for bound in reversed(spearman_interval(0.5, 50)))


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("n", [25, 120])
def test_spearman_coverage(correlation: float, n: int) -> None:
    rng = np.random.default_rng(11)
    truth = 6 / np.pi * np.arcsin(correlation / 2)  # of a bivariate normal
    held = 0
    for _ in range(300):
        x, noise = rng.normal(size=(2, n))
        y = correlation * x + np.sqrt(1 - correlation**2) * noise
        ranks = np.argsort(np.argsort([x, y], axis=1), axis=1)
        low, high = spearman_interval(float(np.corrcoef(ranks)[0, 1]), n)
        held += low <= truth <= high
    assert held / 300 >= 0.92
