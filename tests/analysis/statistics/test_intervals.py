"""Intervals of shares and correlations against SciPy, and whether they cover."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from losslake.analysis.statistics.correlation import Ranked, rank_correlation, with_error
from losslake.analysis.statistics.intervals import (
    area_interval,
    clopper_pearson,
    correlation_p_value,
    hidden_counts,
    logit_interval,
    spearman_interval,
    uncertain_share,
)
from scipy.stats import beta, binom, binomtest, spearmanr


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
    trials, hidden, tail = 40, np.arange(21), (1 - confidence) / 2
    weight = binom.pmf(hidden, 20, 0.3)
    for curve in (hidden, hidden // 2, hidden // 4 + 5, np.full(21, 3)):
        beyond = {"low": 0.0, "high": 0.0}
        for j in hidden:
            # The truth is the curve at j, and K hits are seen there: the whole curve is up or down by as much.
            for k in range(trials + 1):
                seen = np.clip(curve - curve[j] + k, 0, trials)
                low, high = uncertain_share(weight, (seen, trials - seen), (seen, trials - seen), confidence)
                chance = weight[j] * binom.pmf(k, trials, 0.3)
                beyond["low"] += chance * (low > 0.3)
                beyond["high"] += chance * (high < 0.3)
        assert max(beyond.values()) <= tail + 0.003


def test_the_bounds_of_uncertain_hits_are_those_of_the_mixture() -> None:
    weight = np.array([0.2, 0.5, 0.3])
    fewest, most = np.array([0.0, 3, 9]), np.array([3.0, 9, 25])
    low, high = uncertain_share(weight, (fewest, 25 - fewest), (most, 25 - most))
    assert (low, high) == (0.0, 1.0)  # no hit, and no miss, is more likely than the error
    fewest, most = np.array([2.0, 3, 9]), np.array([3.0, 9, 12])
    low, high = uncertain_share(weight, (fewest, 25 - fewest), (most, 25 - most))
    assert weight @ beta.cdf(low, fewest, 26 - fewest) == pytest.approx(0.025, rel=1e-5)
    assert weight @ beta.sf(high, most + 1, 25 - most) == pytest.approx(0.025, rel=1e-5)
    one = np.ones(1)
    known = uncertain_share(one, (9 * one, 16 * one), (9 * one, 16 * one))
    np.testing.assert_allclose(known, clopper_pearson(9, 25), rtol=1e-6)


@pytest.mark.parametrize(
    ("n", "share"), [(0, 0.1), (1, 0.5), (30, 0.001), (900, 0.01), (25_000, 0.1), (7, 1.0)]
)
@pytest.mark.parametrize("most", [None, 24])
def test_hidden_counts_are_binomial(n: int, share: float, most: int | None) -> None:
    count, weight = hidden_counts(n, share, most)
    assert weight.sum() == pytest.approx(1)
    assert (count >= 0).all()
    assert (count <= n).all()
    assert len(count) <= (most or n + 1)
    mean, variance = n * share, n * share * (1 - share)
    assert weight @ count == pytest.approx(mean, abs=0.1 * np.sqrt(variance) + 1e-9)
    assert weight @ (count - mean) ** 2 == pytest.approx(variance, rel=0.05, abs=0.01)


def test_no_trials_say_nothing() -> None:
    none = np.zeros(1)
    assert uncertain_share(np.ones(1), (none, none), (none, none)) == (0.0, 1.0)
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
    assert spearman_interval(0.9, 0.1, 3) == (-1, 1)
    low, high = spearman_interval(1.0, 0.0, 50)
    assert 0.99 < low <= high <= 1
    assert spearman_interval(-0.5, 0.1, 50) == tuple(
        -bound for bound in reversed(spearman_interval(0.5, 0.1, 50))
    )


def rho(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    return float(spearmanr(x, y).statistic)


@pytest.mark.parametrize("tied", [False, True])
def test_the_error_of_spearman_is_what_each_pair_adds(tied: bool) -> None:
    """Against the jackknife: leave each pair out."""
    x, noise = np.random.default_rng(3).normal(size=(2, 400))
    y = x**3 * noise + x
    if tied:
        x, y = np.round(x), np.maximum(y, 0)
    left = [rho(np.delete(x, n), np.delete(y, n)) for n in range(400)]
    error = np.std(left) * np.sqrt(399)
    found, got = with_error(Ranked.of(x), Ranked.of(y))
    assert found == pytest.approx(rho(x, y))
    assert got == pytest.approx(error, rel=0.02)


def drawn(
    shape: str, rng: np.random.Generator, n: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    x, noise = rng.normal(size=(2, n))
    if shape == "some pairs equal, heavy tails":
        x = np.exp(x)
        return x, np.where(rng.random(n) < 0.3, np.exp(noise), x)
    if shape == "spread grows":
        x = rng.gamma(1, 1, n)
        return x, x * (1 + noise)
    y = 0.6 * x + 0.8 * noise
    return (np.round(x), np.maximum(y, 0.5)) if shape == "ties" else (x, y)


@pytest.mark.parametrize("shape", ["some pairs equal, heavy tails", "spread grows", "ties", "normal"])
@pytest.mark.parametrize("n", [50, 1_000])
def test_spearman_coverage(shape: str, n: int) -> None:
    rng = np.random.default_rng(11)
    truth = rho(*drawn(shape, rng, 400_000))
    held, widths, values = 0, [], []
    for _ in range(400):
        found = rank_correlation(*drawn(shape, rng, n), {})
        assert found.value is not None
        assert found.ci_low is not None
        assert found.ci_high is not None
        held += found.ci_low <= truth <= found.ci_high
        widths.append(found.ci_high - found.ci_low)
        values.append(found.value)
    assert held / 400 >= 0.92
    assert np.mean(widths) < 1.3 * 2 * 1.96 * np.std(values)
