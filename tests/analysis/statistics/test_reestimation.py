"""Chances of a second estimate against enumeration and simulation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from losslake.analysis.statistics.reestimation import (
    GRID,
    Outcomes,
    _distinct,
    _Tail,
    chance_above,
    distribution,
)
from scipy.stats import binom


@pytest.mark.parametrize(
    ("n_in", "n_out", "threshold"), [(1, 1, 0.0), (4, 5, 0.4), (5, 5, 0.6), (3, 7, -0.3), (4, 4, 0.99)]
)
def test_tails_by_enumeration(n_in: int, n_out: int, threshold: float) -> None:
    tail = _Tail.of(n_in, n_out).above(threshold)
    for (i, p), (j, q) in product(list(enumerate(GRID))[::5], list(enumerate(GRID))[::4]):
        expected = sum(
            binom.pmf(k, n_in, p) * binom.pmf(m, n_out, q)
            for k, m in product(range(n_in + 1), range(n_out + 1))
            # Whole numbers: a tie is not above.
            if round(1000 * (k * n_out - m * n_in)) > round(1000 * threshold * n_in * n_out)
        )
        assert tail[i, j] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("most", [1, 5, 300, 1 << 20])
def test_distinct_counts_are_those_of_whole_columns(most: int) -> None:
    columns = np.random.default_rng(most).integers(0, most + 1, (4, 400))
    columns[:, ::3] = columns[:, :1]
    for found, expected in zip(
        _distinct(*columns), np.unique(columns, axis=1, return_counts=True), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_many_runs_stay_finite() -> None:
    tail = _Tail.of(1500, 1500).above(0.5)
    assert np.isfinite(tail).all()
    assert tail[-1, 0] == pytest.approx(1)
    assert tail[0, -1] == 0


def test_one_record_by_bayes() -> None:
    rng = np.random.default_rng(0)
    prior = rng.random((len(GRID), len(GRID)))
    prior /= prior.sum()
    record = Outcomes(*(np.array([value]) for value in (3, 4, 1, 5)))
    found = chance_above(prior, record, np.array([2]), np.array([3]), (0.2, 0.5))
    weight = np.array([[binom.pmf(3, 4, p) * binom.pmf(1, 5, q) for q in GRID] for p in GRID]) * prior
    for column, threshold in enumerate((0.2, 0.5)):
        expected = (weight * _Tail.of(2, 3).above(threshold)).sum() / weight.sum()
        assert found[0, column] == pytest.approx(expected)


def test_the_distribution_of_one_kind_of_record_is_one_point() -> None:
    many = np.full(3000, 40)
    rng = np.random.default_rng(1)
    prior = distribution(Outcomes(many, many, rng.binomial(40, GRID[10], 3000), many))
    assert prior[20].sum() == pytest.approx(1, abs=1e-3)
    assert prior[:, 9:12].sum() > 0.97


@pytest.mark.parametrize("shadows", [10, 40])
def test_records_that_were_chosen_for_a_low_estimate(shadows: int) -> None:
    rng = np.random.default_rng(shadows)
    inside, outside = rng.uniform(0.9, 1, 6000), rng.beta(2, 1, 6000)
    n_in = rng.integers(shadows // 3, shadows // 2, 6000)
    n_out = shadows - n_in
    first, second = (
        Outcomes(rng.binomial(n_in, inside), n_in, rng.binomial(n_out, outside), n_out) for _ in range(2)
    )
    old, new = (one.right_in / n_in - one.right_out / n_out for one in (first, second))
    chance = chance_above(distribution(first), first, n_in, n_out, (0.4, 0.7))
    for column, level in enumerate((0.4, 0.7)):
        low = old <= level
        share = np.mean(new[low] > level)
        error = 3.5 * np.sqrt(share * (1 - share) / low.sum())
        assert chance[low, column].mean() == pytest.approx(share, abs=error)
