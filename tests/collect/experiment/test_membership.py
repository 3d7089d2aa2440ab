"""Membership designs: exact balance, right expectations, the same result in any block size."""

from __future__ import annotations

import math
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from losslake.collect.experiment import membership
from losslake.collect.experiment.membership import design_members, target_members
from losslake.store.errors import InvalidOption

SIZES = st.integers(1, 60)
SEEDS = st.integers(0, 2**63)


@given(SIZES, st.integers(1, 40), st.floats(0.01, 0.99), SEEDS, st.integers(1, 70))
@settings(max_examples=200, deadline=None)
def test_balanced_counts(n: int, count: int, probability: float, seed: int, block: int) -> None:
    members = design_members(n, count, design="balanced", seed=seed, probability=probability)
    assert members.shape == (count, n)
    assert members.dtype == np.bool_
    exact = count * probability
    per_sample = members.sum(axis=0)
    assert set(per_sample) <= {math.floor(exact + 1e-9), math.ceil(exact - 1e-9)}
    with patch.object(membership, "_BLOCK_VALUES", block * count):
        blocked = design_members(n, count, design="balanced", seed=seed, probability=probability)
    np.testing.assert_array_equal(members, blocked)


@given(SIZES, st.integers(1, 20), SEEDS)
@settings(max_examples=100, deadline=None)
def test_paired_runs_are_complements(n: int, pairs: int, seed: int) -> None:
    members = design_members(n, 2 * pairs, design="paired", seed=seed)
    np.testing.assert_array_equal(members[0::2], ~members[1::2])
    assert set(members.sum(axis=1)) <= {n // 2, n - n // 2}


@given(SIZES, st.integers(1, 20), SEEDS, st.integers(1, 70))
@settings(max_examples=50, deadline=None)
def test_bernoulli_does_not_depend_on_the_block(n: int, count: int, seed: int, block: int) -> None:
    members = design_members(n, count, design="bernoulli", seed=seed, probability=0.3)
    with patch.object(membership, "_BLOCK_VALUES", block * count):
        blocked = design_members(n, count, design="bernoulli", seed=seed, probability=0.3)
    np.testing.assert_array_equal(members, blocked)


@pytest.mark.parametrize(
    ("count", "probability", "exact"), [(100, 0.29, 29), (30, 0.1, 3), (10, 0.7, 7), (256, 0.5, 128)]
)
def test_products_that_floats_miss_are_exact(count: int, probability: float, exact: int) -> None:
    members = design_members(500, count, design="balanced", seed=1, probability=probability)
    assert (members.sum(axis=0) == exact).all()


def test_odd_products_have_the_right_expectation() -> None:
    members = design_members(40_000, 5, design="balanced", seed=0, probability=0.5)
    counts = members.sum(axis=0)
    # 2 or 3 with probability 1/2 each: the mean of 40,000 has a standard error of 0.0025.
    assert abs(counts.mean() - 2.5) < 0.0125
    few = design_members(40_000, 3, design="balanced", seed=0, probability=0.1)
    assert abs(few.sum(axis=0).mean() - 0.3) < 0.0125


def test_balanced_runs_and_samples_are_independent() -> None:
    members = design_members(20_000, 8, design="balanced", seed=2).astype(float)
    np.testing.assert_allclose(members.mean(axis=1), 0.5, atol=0.02)
    # Within a sample exactly 4 of 8: any two runs correlate at -1/7. All 70 choices are about equally frequent.
    between = np.corrcoef(members)[np.triu_indices(8, 1)]
    np.testing.assert_allclose(between, -1 / 7, atol=0.035)
    patterns = (members.T @ (2 ** np.arange(8))).astype(int)
    _, frequency = np.unique(patterns, return_counts=True)
    assert len(frequency) == 70
    expected = 20_000 / 70
    assert ((frequency - expected) ** 2 / expected).sum() < 125  # chi-square, 69 degrees: 99.99% quantile 119
    # Neighbouring samples know nothing of each other.
    assert abs(np.corrcoef(members[0, :-1], members[0, 1:])[0, 1]) < 0.035


def test_bernoulli_coins() -> None:
    members = design_members(20_000, 10, design="bernoulli", seed=0, probability=0.7)
    assert abs(members.mean() - 0.7) < 0.005
    counts = members.sum(axis=0)
    assert abs(counts.var() - 10 * 0.7 * 0.3) < 0.1


def test_designs_seeds_and_sizes_differ() -> None:
    made = [
        design_members(200, 4, design="balanced", seed=0),
        design_members(200, 4, design="bernoulli", seed=0),
        design_members(200, 4, design="paired", seed=0),
        design_members(200, 4, design="balanced", seed=1),
    ]
    assert len({each.tobytes() for each in made}) == 4
    np.testing.assert_array_equal(made[0], design_members(200, 4, design="balanced", seed=0))
    # Pinned: a lake's fleet must come out the same with any later version.
    assert np.packbits(made[0][:, :16]).tobytes().hex() == PINNED


PINNED = "0346d84aadb976b5"


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.floats(0.01, 1), SEEDS)
@settings(max_examples=100, deadline=None)
def test_target_members_are_class_balanced(counts: list[int], fraction: float, seed: int) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    members = target_members(labels, fraction=fraction, seed=seed)
    assert members.shape == labels.shape
    for label, count in enumerate(counts):
        assert abs(members[labels == label].sum() - fraction * count) < 1 + 1e-6
    assert abs(members.sum() - fraction * len(labels)) <= 0.5 + 1e-6


def test_target_members_are_random_and_repeatable() -> None:
    labels = np.repeat(np.arange(10), 100)
    first = target_members(labels, fraction=0.5, seed=0)
    np.testing.assert_array_equal(first, target_members(labels, fraction=0.5, seed=0))
    other = target_members(labels, fraction=0.5, seed=1)
    assert 400 < (first == other).sum() < 600
    assert (np.bincount(labels[first]) == 50).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"design": "balance"}, r"'balance'\. Did you mean 'balanced'\? valid: balanced, bernoulli, paired"),
        ({"n": 0}, "n is 0"),
        ({"count": 0}, "count is 0"),
        ({"probability": 1.0}, r"probability is 1\.0"),
        ({"seed": -1}, "seed is -1"),
        ({"design": "paired", "count": 3}, "even number of runs"),
        ({"design": "paired", "probability": 0.4}, r"halves: 0\.5"),
    ],
)
def test_refusals(changes: dict[str, object], message: str) -> None:
    options: dict[str, object] = {"n": 5, "count": 4, "design": "balanced", "seed": 0, **changes}
    n, count = options.pop("n"), options.pop("count")
    with pytest.raises(InvalidOption, match=message):
        design_members(n, count, **options)  # type: ignore[arg-type]
    for fraction in (0.0, 1.1, float("nan")):
        with pytest.raises(InvalidOption, match="fraction is"):
            target_members(np.zeros(3, dtype=np.int64), fraction=fraction, seed=0)
