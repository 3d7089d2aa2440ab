"""Intervals of shares and correlations against SciPy, and whether they cover."""

from __future__ import annotations

import numpy as np
import pytest
from losslake.analysis.intervals import (
    area_interval,
    clopper_pearson,
    correlation_p_value,
    logit_interval,
    spearman_interval,
)
from scipy.stats import beta, binomtest, spearmanr


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


def test_no_trials_say_nothing() -> None:
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
