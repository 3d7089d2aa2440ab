"""Memorization estimates, standard errors and intervals against the plain formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from losslake.analysis.measures.memorization import memorization
from losslake.analysis.scoring.catalogue import open_source
from losslake.store.errors import NotEnoughData
from losslake.store.lake import Lake
from scipy.stats import binomtest, norm

MakeLake = Callable[..., Lake]
Mask = npt.NDArray[np.bool_]
Z = norm.ppf(0.975)


def runs(seed: int, count: int = 14, samples: int = 40) -> tuple[Mask, Mask]:
    """Membership and correctness; samples 0 and 1 are never out and never in, 2 and 3 always right and always wrong."""
    rng = np.random.default_rng(seed)
    keep = rng.random((count, samples)) < 0.5
    keep[1:3], keep[3:5] = True, False
    keep[:, 0], keep[:, 1] = True, False
    correct = rng.random(keep.shape) < rng.uniform(0, 1, samples) + 0.3 * keep
    correct[:, 2], correct[:, 3] = True, False
    return keep, correct


def test_estimates_match_the_formulas(lake_of: MakeLake) -> None:
    keep, correct = runs(1)
    with open_source(lake_of(keep, np.zeros(keep.shape), correct=correct), "tests") as source:
        scores = memorization(source)
    assert scores.frame["member"].to_list() == keep[0].tolist()
    assert scores.notes == (
        "2 of 40 samples have no score: no shadow run trained on them, or none did without them",
    )
    keep, correct = keep[1:], correct[1:]  # the target is no shadow
    for row in scores.frame.iter_rows(named=True):
        inside, outside = (
            correct[keep[:, row["sample_id"]] == side, row["sample_id"]] for side in (True, False)
        )
        assert (row["n_in"], row["n_out"]) == (len(inside), len(outside))
        if len(inside) == 0 or len(outside) == 0:
            assert row["score"] is None
            assert row["se"] is None
            assert (row["ci_low"], row["ci_high"]) == (-1, 1)
            continue
        p, q = inside.mean(), outside.mean()
        assert row["mean_in"] == pytest.approx(p)
        assert row["mean_out"] == pytest.approx(q)
        assert row["score"] == pytest.approx(p - q, abs=1e-12)
        assert row["se"] == pytest.approx(np.sqrt(p * (1 - p) / len(inside) + q * (1 - q) / len(outside)))
        # Agresti & Caffo: one success and one failure more on each side, then the usual interval.
        a, b = (inside.sum() + 1) / (len(inside) + 2), (outside.sum() + 1) / (len(outside) + 2)
        half = Z * np.sqrt(a * (1 - a) / (len(inside) + 2) + b * (1 - b) / (len(outside) + 2))
        # Newcombe's method 10: Wilson's intervals of both shares, put together.
        wilson = [
            binomtest(int(side.sum()), len(side)).proportion_ci(method="wilson") for side in (inside, outside)
        ]
        low = p - q - np.hypot(p - wilson[0].low, wilson[1].high - q)
        high = p - q + np.hypot(wilson[0].high - p, q - wilson[1].low)
        assert row["ci_low"] == pytest.approx(max(min(a - b - half, low), -1), rel=1e-6)
        assert row["ci_high"] == pytest.approx(min(max(a - b + half, high), 1), rel=1e-6)


def test_probability_in_place_of_correctness(lake_of: MakeLake) -> None:
    keep, _ = runs(2)
    keep[:, 5] = (
        np.arange(14) == 1
    )  # sample 5 is in one run only: its mean says something, its spread nothing
    loss = np.random.default_rng(2).exponential(1.5, keep.shape).astype(np.float32)
    loss[3:7, 6] = np.inf  # a probability of 0
    lake = lake_of(keep, np.zeros(keep.shape), loss=loss, correct=None)
    with open_source(lake, "tests") as source:
        frame = memorization(source, of="probability").frame
        with pytest.raises(NotEnoughData, match="try --of probability"):
            memorization(source)
    probability, keep = np.exp(-loss[1:].astype(float)), keep[1:]
    for n, row in enumerate(frame.iter_rows(named=True)):
        inside, outside = probability[keep[:, n], n], probability[~keep[:, n], n]
        if len(inside) == 0 or len(outside) == 0:
            assert row["score"] is None
            continue
        mem = inside.mean() - outside.mean()
        assert row["score"] == pytest.approx(mem, rel=1e-6)
        assert row["se"] == pytest.approx(
            np.sqrt(inside.var() / len(inside) + outside.var() / len(outside)), rel=1e-6
        )
        if len(inside) == 1:
            assert n == 5
            assert (row["ci_low"], row["ci_high"]) == (-1, 1)
            continue
        half = Z * np.sqrt(inside.var(ddof=1) / len(inside) + outside.var(ddof=1) / len(outside))
        assert row["ci_low"] == pytest.approx(max(mem - half, -1), rel=1e-6)
        assert row["ci_high"] == pytest.approx(min(mem + half, 1), rel=1e-6)


def test_runs_without_correctness_do_not_count(lake_of: MakeLake) -> None:
    keep, correct = runs(3)
    lake = lake_of(keep[:8], np.zeros((8, 40)), correct=correct[:8])
    names = [f"imported-{m}" for m in range(6)]
    lake_of(keep[8:], np.zeros((6, 40)), correct=None, lake=lake, names=names, roles=["shadow"] * 6)
    with open_source(lake, "tests") as source:
        frame = memorization(source).frame
    assert frame["n_in"].to_list() == keep[1:8].sum(axis=0).tolist()


def test_metrics_over_samples(lake_of: MakeLake) -> None:
    keep, correct = runs(4, count=30)
    with open_source(lake_of(keep, np.zeros(keep.shape), correct=correct), "tests") as source:
        scores = memorization(source)
    known = scores.frame["score"].drop_nulls().to_numpy()
    mean, moderate, high = scores.metrics
    spread = Z * known.std(ddof=1) / np.sqrt(len(known))
    assert (mean.metric, mean.n) == ("mean", 38)
    np.testing.assert_allclose(
        [mean.value, mean.ci_low, mean.ci_high], known.mean() + spread * np.array([0, -1, 1])
    )
    for metric, threshold in ((moderate, 0.4), (high, 0.8)):
        assert metric.metric == "share_above"
        assert metric.parameters["threshold"] == threshold
        assert metric.parameters["estimates"] == pytest.approx((known > threshold).mean())
        assert metric.ci_low is not None
        assert 0 <= metric.ci_low <= metric.value <= metric.ci_high <= 1


def test_what_is_above_a_level_by_chance_is_no_share_of_records(lake_of: MakeLake) -> None:
    """Predictions that have nothing to do with the record: every estimate above 0.4 is there by chance."""
    rng = np.random.default_rng(8)
    keep = rng.permuted(np.tile(np.arange(6) < 3, (600, 1)), axis=1).T
    correct = rng.random(keep.shape) < 0.2
    with open_source(lake_of(keep, np.zeros(keep.shape), correct=correct), "tests") as source:
        found = memorization(source).metrics[1]
    assert found.parameters["estimates"] > 0.05
    assert found.parameters["by_chance"] == pytest.approx(found.parameters["estimates"], abs=0.04)
    assert (found.ci_low, round(found.value or 0, 2)) == (0, 0)


def test_equal_differences_of_shares_are_equal(lake_of: MakeLake) -> None:
    """0.8 - 0.2 and 1.0 - 0.4 are 0.6, and not above it, though subtracting rounds them to different numbers."""
    keep = np.repeat(np.arange(20) < 10, 3).reshape(20, 3)
    right = np.zeros_like(keep)
    for sample, (inside, outside) in enumerate(((8, 2), (10, 4), (7, 1))):
        right[:inside, sample] = True
        right[10 : 10 + outside, sample] = True
    keep, right = (
        np.concatenate([table[:1], table]) for table in (keep, right)
    )  # the first run is the target
    with open_source(lake_of(keep, np.zeros(keep.shape), correct=right), "tests") as source:
        assert memorization(source).frame["score"].to_list() == [0.6, 0.6, 0.6]


def test_target_among_the_shadows_population_and_queries(lake_of: MakeLake) -> None:
    keep, correct = runs(5)
    population = np.arange(40) % 4 == 3
    keep &= ~population
    phi = np.stack([np.where(correct, 1, -1), np.full(keep.shape, 9)], axis=2)  # query 1 is right always
    lake = lake_of(keep, phi, population=population, roles=["shadow"] * 14)
    with open_source(lake, "tests", "run-0002") as source:
        frame = memorization(source).frame
    rest = np.arange(14) != 2
    assert frame["sample_id"].to_list() == np.flatnonzero(~population).tolist()
    assert frame["n_in"].to_list() == keep[rest][:, ~population].sum(axis=0).tolist()
    assert frame["member"].to_list() == keep[2, ~population].tolist()
    n = int(np.flatnonzero(~population)[8])
    own = correct[rest, n][keep[rest, n]].mean() - correct[rest, n][~keep[rest, n]].mean()
    assert frame["score"][8] == pytest.approx(own)


def test_no_target_is_needed(lake_of: MakeLake) -> None:
    keep, correct = runs(6)
    lake = lake_of(keep, np.zeros(keep.shape), correct=correct, roles=["shadow"] * 14)
    with open_source(lake, "tests") as source:
        frame = memorization(source).frame
    assert frame["n_in"].to_list() == keep.sum(axis=0).tolist()
    assert frame["member"].null_count() == 40


def test_the_interval_covers_the_truth(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(8)
    truth = rng.uniform(0.02, 0.98, (2, 600))  # Pr[correct | in] and Pr[correct | out] of 600 samples
    keep = np.tile(np.arange(24) % 2 == 0, (600, 1)).T
    correct = rng.random(keep.shape) < np.where(keep, truth[0], truth[1])
    lake = lake_of(keep, np.zeros(keep.shape), correct=correct, roles=["shadow"] * 24)
    with open_source(lake, "tests") as source:
        frame = memorization(source).frame
    mem = truth[0] - truth[1]
    covered = (frame["ci_low"].to_numpy() <= mem) & (mem <= frame["ci_high"].to_numpy())
    assert covered.mean() >= 0.93
    assert (frame["ci_high"] - frame["ci_low"]).max() < 0.85


def test_nothing_to_estimate_from_says_so(lake_of: MakeLake) -> None:
    keep = np.array([[True, False], [True, True]])
    with (
        open_source(lake_of(keep, np.zeros((2, 2))), "tests") as source,
        pytest.raises(NotEnoughData, match="has 1 shadow runs"),
    ):
        memorization(source)


def test_a_target_without_rows_leaves_membership_open(lake_of: MakeLake) -> None:
    keep, correct = runs(9)
    names = [f"s{m}" for m in range(13)]
    lake = lake_of(keep[1:], np.zeros((13, 40)), correct=correct[1:], roles=["shadow"] * 13, names=names)
    lake_of(keep[:1], lake=lake, names=["target"])
    with open_source(lake, "tests") as source:
        frame = memorization(source).frame
    assert frame["n_in"].to_list() == keep[1:].sum(axis=0).tolist()
    assert frame["member"].null_count() == 40
