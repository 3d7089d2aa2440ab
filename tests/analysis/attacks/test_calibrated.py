"""Calibrated loss against a loop over samples, and on inputs made to break it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from losslake.analysis.attacks.loss import calibrated
from losslake.analysis.scores import Scores
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.analysis.statistics.roc import evaluate
from losslake.store.errors import NotEnoughData
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]
Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


def oracle(loss: Floats, keep: Mask, tau: str) -> list[float | None]:
    """Run 0 is the target."""
    scores: list[float | None] = []
    for n in range(loss.shape[1]):
        others = [m for m in range(1, len(loss)) if np.isfinite(loss[m, n])]
        inside = [float(loss[m, n]) for m in others if keep[m, n]]
        outside = [float(loss[m, n]) for m in others if not keep[m, n]]
        if not outside or (tau == "both" and not inside) or not np.isfinite(loss[0, n]):
            scores.append(None)
        else:
            mean = np.mean(outside) if tau == "out" else (np.mean(inside) + np.mean(outside)) / 2
            scores.append(float(mean - loss[0, n]))
    return scores


def losses(seed: int, runs: int, samples: int) -> tuple[Floats, Mask]:
    rng = np.random.default_rng(seed)
    keep = rng.random((runs, samples)) < 0.5
    level = rng.exponential(2, samples)
    return (level * rng.exponential(np.where(keep, 0.5, 1))).astype(np.float32), keep


def scores_of(lake: Lake, target: str | None = None, **options: object) -> Scores:
    with open_source(lake, "tests", target) as source:
        return calibrated(source, **options)  # type: ignore[arg-type]


def assert_scores(scores: Scores, expected: list[float | None]) -> None:
    found = scores.frame["score"].to_list()
    assert [value is None for value in found] == [value is None for value in expected]
    known = [value for value in expected if value is not None]
    np.testing.assert_allclose(scores.frame["score"].drop_nulls().to_numpy(), known, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("tau", ["both", "out"])
def test_it_matches_the_loop(lake_of: MakeLake, tau: str) -> None:
    loss, keep = losses(0, 9, 40)
    keep[1:, 3], keep[1:, 4] = True, False  # no out-run, no in-run
    loss[:, 5] = 1.25  # the same on all runs
    loss[0, 6] = np.inf
    loss[2:5, 7] = np.inf
    loss[1:, 8] = np.inf
    scores = scores_of(lake_of(keep, np.zeros_like(loss), loss=loss), tau=tau)
    assert_scores(scores, oracle(loss, keep, tau))
    missing = [3, 4, 6, 8] if tau == "both" else [3, 6, 8]
    assert scores.frame.filter(scores.frame["score"].is_null())["sample_id"].to_list() == missing
    assert scores.notes[0].startswith(f"{len(missing)} of 40 samples have no score")
    assert scores.frame["score"][5] == 0
    assert scores.frame["member"].to_list() == keep[0].tolist()
    assert (scores.frame["n_in"][3], scores.frame["n_out"][3]) == (8, 0)


def test_other_roles_views_and_the_population_do_not_count(lake_of: MakeLake) -> None:
    loss, keep = losses(1, 9, 40)
    population = np.arange(40) % 4 == 0
    keep &= ~population
    keep[1, ~population], keep[2, ~population] = True, False
    roles = ["target", *["shadow"] * 5, "reference", "distilled", "leave_one_out"]
    views = np.stack([loss, 7 * loss], axis=2)
    lake = lake_of(keep, np.zeros_like(views), loss=views, population=population, roles=roles)
    scores = scores_of(lake)
    assert scores.frame["sample_id"].to_list() == np.flatnonzero(~population).tolist()
    assert_scores(scores, oracle(loss[:7, ~population], keep[:7, ~population], "both"))


def test_a_target_among_the_shadows_is_left_out(lake_of: MakeLake) -> None:
    loss, keep = losses(2, 9, 40)
    lake = lake_of(keep, np.zeros_like(loss), loss=loss, roles=["shadow"] * 9)
    scores = scores_of(lake, "run-0005")
    assert_scores(scores, oracle(np.roll(loss, 4, axis=0), np.roll(keep, 4, axis=0), "both"))


def test_too_few_runs(lake_of: MakeLake) -> None:
    loss, keep = losses(3, 3, 20)
    with pytest.raises(NotEnoughData, match="has no shadow runs"):
        scores_of(lake_of(keep, np.zeros_like(loss), loss=loss, roles=["target", "distilled", "distilled"]))
    keep[1:] = False
    lake = lake_of(keep, np.zeros_like(loss), loss=loss)
    with pytest.raises(NotEnoughData, match="both in and out of the training sets of its 2 shadow"):
        scores_of(lake)
    assert_scores(scores_of(lake, tau="out"), oracle(loss, keep, "out"))
    keep[1:] = True
    with pytest.raises(NotEnoughData, match="left out of the training sets of its 2 shadow"):
        scores_of(lake_of(keep, np.zeros_like(loss), loss=loss), tau="out")


@pytest.mark.parametrize("tau", ["both", "out"])
def test_planted_members_rank_first(lake_of: MakeLake, tau: str) -> None:
    """Hard records that the target knows by heart come before easy ones, which the loss alone would put first."""
    rng = np.random.default_rng(4)
    keep = rng.random((16, 200)) < 0.5
    keep[1], keep[2] = True, False
    hard = np.arange(200) % 10 == 0
    loss = np.where(hard, np.where(keep, 1, 9), 0.1) * rng.uniform(0.7, 1.3, keep.shape)
    planted = set(np.flatnonzero(hard & keep[0]))
    loss[0, sorted(planted)] = 0.5
    frame = scores_of(lake_of(keep, np.zeros_like(loss), loss=loss), tau=tau).frame
    assert set(frame.sort("score", descending=True)["sample_id"].head(len(planted))) == planted


def test_without_a_signal_the_auc_is_a_half(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(5)
    keep = rng.random((12, 1500)) < 0.5
    loss = rng.exponential(rng.exponential(1, 1500), keep.shape)
    with open_source(lake_of(keep, np.zeros_like(loss), loss=loss), "tests") as source:
        for tau in ("both", "out"):
            outcome = run_analysis(source, find("calibrated"), {"tau": tau})
            auc = evaluate(*outcome.scores.arrays(), ())[0]
            assert auc.ci_low < 0.5 < auc.ci_high  # type: ignore[operator]
