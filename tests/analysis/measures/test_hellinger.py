"""Hellinger distances against the formula and against integrals; what they say of the shadow models needed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from losslake.analysis.measures.memorization import memorization
from losslake.analysis.measures.privacy_score import hellinger
from losslake.analysis.scoring.catalogue import open_source
from losslake.store.errors import NotEnoughData
from losslake.store.lake import Lake
from scipy.integrate import quad
from scipy.stats import norm

MakeLake = Callable[..., Lake]


def distance(inside: np.ndarray, outside: np.ndarray) -> float:
    """H by its definition, 1 - integral of sqrt(p q), where both vary."""
    p, q = norm(inside.mean(), inside.std()), norm(outside.mean(), outside.std())
    ends = [one.ppf(t) for one in (p, q) for t in (1e-15, 1 - 1e-15)]
    middle = sorted([inside.mean(), outside.mean()])
    overlap = quad(
        lambda x: np.sqrt(p.pdf(x) * q.pdf(x)), min(ends), max(ends), points=middle, limit=300, epsabs=1e-12
    )[0]
    return float(np.sqrt(max(0, 1 - overlap)))


def test_distances_match_the_integral(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(1)
    keep = rng.random((21, 30)) < 0.5
    keep[1:3], keep[3:5] = True, False
    keep[:, 0], keep[:, 1] = True, False
    keep[1:, 2], keep[1:, 3] = np.arange(20) == 4, np.arange(20) != 4  # a single run in, a single run out
    phi = rng.normal(0, rng.uniform(0.3, 4, 30), keep.shape) + keep * rng.uniform(0, 5, 30)
    phi[:, 4] = np.where(keep[:, 4], 100, -100)  # both sides constant, far apart
    phi[:, 5] = 7.1  # constant altogether
    phi[:, 6] = np.where(keep[:, 6], 7.1, phi[:, 6])  # one side constant
    phi = phi.astype(np.float32)
    population = np.arange(30) >= 26
    keep &= ~population
    with open_source(lake_of(keep, phi, population=population), "tests") as source:
        scores = hellinger(source)
    frame = scores.frame
    assert frame["sample_id"].to_list() == list(range(26))
    assert frame["member"].to_list() == keep[0, :26].tolist()
    assert np.flatnonzero(frame["score"].is_null()).tolist() == [0, 1, 2, 3]
    assert scores.notes[0].startswith("4 of 26 samples have no score: fewer than two shadow runs")
    assert frame["score"][4:7].to_list() == [1, 0, 1]
    inside = keep[1:]
    for n in range(7, 26):
        own = phi[1:, n].astype(np.float64)
        expected = distance(own[inside[:, n]], own[~inside[:, n]])
        assert frame["score"][n] == pytest.approx(expected, abs=1e-6)
        assert frame["squared"][n] == pytest.approx(expected**2, abs=1e-6)
        counts = inside[:, n].sum(), 20 - inside[:, n].sum()
        assert (frame["n_in"][n], frame["n_out"][n]) == counts
        assert frame["by_chance"][n] == pytest.approx(sum(1 / (count - 1) for count in counts) / 4)


def test_shadow_models_needed_are_given_where_the_runs_can_tell(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(2)
    keep = np.tile(np.arange(41) % 2 == 0, (400, 1)).T
    effect = np.where(np.arange(400) < 200, 0.0, 3.0)
    phi = rng.normal(0, 1, keep.shape) + effect * keep
    with open_source(lake_of(keep, phi), "tests") as source:
        scores = hellinger(source)
        mem = memorization(source).frame
    frame = scores.frame
    squared, needed = frame["squared"].to_numpy(), frame["shadows_needed"].to_numpy()
    told = ~np.isnan(needed)
    np.testing.assert_allclose(needed[told], 1 / squared[told], rtol=1e-9)
    assert told[200:].all()
    assert told[:200].mean() < 0.12  # 5% by chance
    assert squared[:200].mean() == pytest.approx(frame["by_chance"][0], rel=0.15)
    # 1 - exp(-9/8) of two unit Gaussians 3 apart, a little more for the noise
    assert np.median(needed[200:]) == pytest.approx(1 / (1 - np.exp(-9 / 8)), rel=0.1)
    assert scores.notes == (
        f"{400 - told.sum()} of 400 samples lie no further apart than chance puts them with 40 shadow runs; "
        "what they call for is more than these can tell",
    )
    share, median = scores.metrics
    assert share.value == told.mean()
    assert median.value == pytest.approx(np.median(needed[told]))
    assert frame["mem"].to_list() == mem["score"].to_list()
    clear = (mem["ci_low"] > 0) | (mem["ci_high"] < 0)
    assert (frame["shadows_bound"].is_not_null() == clear).all()
    bound = frame.filter(clear)
    np.testing.assert_allclose(bound["shadows_bound"], 2 / bound["mem"].to_numpy() ** 2)


def test_advantage_lies_between_what_the_theorems_say(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(3)
    keep = np.tile(np.arange(61) % 2 == 0, (24, 1)).T
    spread = np.where(keep, rng.uniform(0.5, 2, 24), rng.uniform(0.5, 2, 24))
    phi = rng.uniform(-4, 1, 24) + rng.uniform(0, 6, 24) * keep + rng.normal(size=keep.shape) * spread
    with open_source(lake_of(keep, phi), "tests") as source:
        frame = hellinger(source).frame
    phi, keep = phi[1:].astype(np.float32).astype(np.float64), keep[1:]
    for n, row in enumerate(frame.iter_rows(named=True)):
        p, q = (norm(own.mean(), own.std()) for own in (phi[keep[:, n], n], phi[~keep[:, n], n]))
        grid = np.linspace(-25, 25, 50_001)
        advantage = np.abs(p.pdf(grid) - q.pdf(grid)).sum() * (grid[1] - grid[0]) / 2
        # Lemma 1 and theorem 1: the adversary who knows both; the label (phi > 0) alone gives mem away, theorem 2.
        assert row["score"] ** 2 <= advantage <= np.sqrt(2) * row["score"]
        assert p.sf(0) - q.sf(0) <= advantage + 1e-6
        if row["shadows_needed"] is not None and row["shadows_bound"] is not None:
            assert (
                row["shadows_needed"] <= row["shadows_bound"] * 1.1
            )  # corollary 1, mem being a count of 30 runs
    assert (frame["shadows_needed"].is_not_null() & frame["shadows_bound"].is_not_null()).sum() > 10


def test_the_target_is_left_out_and_may_be_missing(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(4)
    keep = np.tile([[True], [True], [True], [False], [False], [False]], (1, 4))
    phi = rng.normal(0, 1, keep.shape)
    phi[0] = 1000
    lake = lake_of(keep, phi, roles=["shadow"] * 6)
    with open_source(lake, "tests", "run-0000") as source:
        assert hellinger(source).frame["n_in"].to_list() == [2] * 4
    with open_source(lake, "tests") as source:
        frame = hellinger(source).frame
    assert frame["n_in"].to_list() == [3] * 4
    assert frame["member"].null_count() == 4


def test_correctness_is_not_needed(lake_of: MakeLake) -> None:
    keep = np.tile(np.arange(9) % 2 == 0, (3, 1)).T
    phi = np.random.default_rng(5).normal(0, 1, keep.shape) + 9 * keep
    with open_source(lake_of(keep, phi, correct=None), "tests") as source:
        frame = hellinger(source).frame
    assert frame["shadows_needed"].null_count() == 0
    assert frame["mem"].null_count() == frame["shadows_bound"].null_count() == 3


def test_too_few_runs_say_so(lake_of: MakeLake) -> None:
    keep = np.array([[True, True], [True, True], [False, False], [False, False]])
    with (
        open_source(lake_of(keep, np.zeros((4, 2))), "tests") as source,
        pytest.raises(
            NotEnoughData, match=r"two shadow runs with and two without a sample; .* 3 shadow runs"
        ),
    ):
        hellinger(source)


@pytest.mark.parametrize("kind", ["normal", "t4", "gumbel"])
@pytest.mark.parametrize("shadows", [8, 32])
def test_few_records_without_an_effect_are_resolved_whatever_the_tails(
    lake_of: MakeLake, kind: str, shadows: int
) -> None:
    rng = np.random.default_rng(shadows)
    keep = rng.random((shadows + 1, 2_000)) < 0.5
    draw = {"normal": rng.normal, "gumbel": rng.gumbel, "t4": lambda size: rng.standard_t(4, size)}[kind]
    strong = np.arange(2_000) < 200
    phi = draw(size=keep.shape) + 4 * (keep & strong)
    with open_source(lake_of(keep, phi), "tests") as source:
        frame = hellinger(source).frame
    told = frame["shadows_needed"].is_not_null().to_numpy()
    assert told[~strong].mean() < 0.08  # with t4 and 32 runs .15 by the quantile of Gaussians
    assert shadows < 32 or told[strong].mean() > 0.95
