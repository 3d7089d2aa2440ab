"""The privacy score |mean_in - mean_out| / (sd_in + sd_out) against NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from losslake.analysis.measures.privacy_score import privacy_score
from losslake.analysis.scoring.catalogue import open_source
from losslake.store.errors import NotEnoughData
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]


def test_scores_match_numpy(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(1)
    keep = rng.random((15, 50)) < 0.5
    keep[1:3], keep[3:5] = True, False
    keep[:, 0], keep[:, 1] = True, False
    keep[1:, 2], keep[1:, 3] = np.arange(14) == 4, np.arange(14) != 4  # a single run in, a single run out
    phi = rng.normal(3, 5, (15, 50, 2)).astype(np.float32)
    phi[:, 4] = np.where(keep[:, 4], 100, -100)[:, None]  # both sides constant, far apart
    phi[:, 5] = 7.25  # constant altogether
    population = np.arange(50) >= 45
    keep &= ~population
    with open_source(lake_of(keep, phi, population=population), "tests") as source:
        scores = privacy_score(source)
    assert scores.frame["sample_id"].to_list() == list(range(45))
    assert scores.frame["member"].to_list() == keep[0, :45].tolist()
    assert np.flatnonzero(scores.frame["score"].is_null()).tolist() == [0, 1, 2, 3]
    assert scores.notes[0].startswith("4 of 45 samples have no score: fewer than two shadow runs")
    shadows, inside = phi[1:, :, 0].astype(float), keep[1:]
    for n in range(4, 45):
        with_it, without = shadows[inside[:, n], n], shadows[~inside[:, n], n]
        floor = 1e-6  # the standard deviations of a sample that never varies
        d = abs(with_it.mean() - without.mean()) / max(with_it.std() + without.std(), floor)
        assert scores.frame["score"][n] == pytest.approx(d, rel=1e-6, abs=1e-8)
        np.testing.assert_allclose(scores.frame["sd_in"][n], with_it.std(), rtol=1e-6)
        np.testing.assert_allclose(scores.frame["mean_out"][n], without.mean(), rtol=1e-6)
        assert (scores.frame["n_in"][n], scores.frame["n_out"][n]) == (len(with_it), len(without))
    assert scores.frame["score"][4] == pytest.approx(2e8, rel=1e-6)
    assert scores.frame["score"][5] == 0


def test_the_target_is_left_out(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(2)
    keep = np.tile([[True], [True], [True], [False], [False], [False]], (1, 4))
    phi = rng.normal(0, 1, keep.shape)
    phi[0] = 1000
    lake = lake_of(keep, phi, roles=["shadow"] * 6)
    with open_source(lake, "tests", "run-0000") as source:
        assert privacy_score(source).frame["n_in"].to_list() == [2] * 4
        assert privacy_score(source).frame["score"].max() < 20  # type: ignore[operator]
    with open_source(lake, "tests") as source:
        assert privacy_score(source).frame["n_in"].to_list() == [3] * 4


def test_too_few_runs_say_so(lake_of: MakeLake) -> None:
    keep = np.array([[True, True], [True, True], [False, False], [False, False]])
    with (
        open_source(lake_of(keep, np.zeros((4, 2))), "tests") as source,
        pytest.raises(
            NotEnoughData, match=r"needs two shadow runs with and two without a sample; .* 3 shadow runs"
        ),
    ):
        privacy_score(source)
