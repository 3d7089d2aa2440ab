"""The loss attack: its score, and its threshold with the rates there, against plain NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from losslake.analysis.attacks.loss import loss
from losslake.analysis.scores import Scores
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.analysis.statistics.roc import evaluate, rates
from losslake.store.errors import NotEnoughData
from losslake.store.lake import Lake
from scipy.stats import binomtest

MakeLake = Callable[..., Lake]


def scores_of(lake: Lake, target: str | None = None) -> Scores:
    with open_source(lake, "tests", target) as source:
        return loss(source)


def losses(seed: int, runs: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    keep = rng.random((runs, samples)) < 0.5
    return rng.exponential(np.where(keep, 0.5, 1.5)).astype(np.float32), keep


def test_the_score_is_the_loss_of_the_record_as_it_is_with_its_sign_turned(lake_of: MakeLake) -> None:
    value, keep = losses(0, 2, 40)
    population = np.arange(40) % 4 == 0
    keep &= ~population
    views = np.stack([value, value + 9], axis=2)
    lake = lake_of(keep, np.zeros_like(views), loss=views, population=population)
    for run in (0, 1):
        frame = scores_of(lake, f"run-{run:04d}").frame
        assert frame["sample_id"].to_list() == np.flatnonzero(~population).tolist()
        assert frame["score"].to_list() == (-value[run, ~population].astype(float)).tolist()
        assert frame["member"].to_list() == keep[run, ~population].tolist()


def test_the_threshold_is_the_mean_loss_of_the_members(lake_of: MakeLake) -> None:
    value, keep = losses(1, 1, 200)
    value, keep = value[0].astype(float), keep[0]
    metrics = {metric.metric: metric for metric in scores_of(lake_of(keep[None], value[None])).metrics}
    assert list(metrics) == ["mean_loss", "tpr_at_mean_loss", "fpr_at_mean_loss", "advantage_at_mean_loss"]
    stored = np.logaddexp(0, -value).astype(np.float32).astype(float)  # the fixture's loss of this phi
    mean = np.mean(stored[keep])
    assert metrics["mean_loss"].value == pytest.approx(mean)
    hits, alarms = int((stored[keep] <= mean).sum()), int((stored[~keep] <= mean).sum())
    for name, count, of in (("tpr", hits, keep.sum()), ("fpr", alarms, (~keep).sum())):
        metric = metrics[f"{name}_at_mean_loss"]
        bounds = binomtest(count, int(of)).proportion_ci(0.95, "exact")
        assert (metric.value, metric.n) == (pytest.approx(count / of), of)
        assert (metric.ci_low, metric.ci_high) == (pytest.approx(bounds.low), pytest.approx(bounds.high))
    advantage = metrics["advantage_at_mean_loss"]
    assert advantage.value == pytest.approx(hits / keep.sum() - alarms / (~keep).sum())
    assert advantage.ci_low < advantage.value < advantage.ci_high  # type: ignore[operator]


def test_members_that_all_lose_the_same_lie_at_their_mean(lake_of: MakeLake) -> None:
    keep = np.arange(60) < 43
    value = np.where(keep, np.float32(0.1), np.float32(0.2))[None]
    metrics = {one.metric: one.value for one in scores_of(lake_of(keep[None], value, loss=value)).metrics}
    assert metrics["tpr_at_mean_loss"] == 1
    assert metrics["fpr_at_mean_loss"] == 0
    assert metrics["advantage_at_mean_loss"] == 1


def test_the_interval_of_the_advantage_covers() -> None:
    rng = np.random.default_rng(0)
    member = np.arange(120) < 60
    inside = 0
    for _ in range(300):
        named = rng.random(120) < np.where(member, 0.3, 0.1)
        *_, advantage = rates(named, member, "here", {})
        inside += advantage.ci_low <= 0.2 <= advantage.ci_high  # type: ignore[operator]
    assert inside >= 279


def test_infinite_losses_have_no_score_and_no_part_in_the_mean(lake_of: MakeLake) -> None:
    value, keep = losses(2, 1, 30)
    infinite = [3, 17]
    value[0, infinite] = np.inf
    scores = scores_of(lake_of(keep, np.zeros_like(value), loss=value))
    assert np.flatnonzero(scores.frame["score"].is_null()).tolist() == infinite
    assert scores.notes == ("2 of 30 samples have no score: the target's loss on them is not finite",)
    finite = np.isfinite(value[0])
    assert scores.metrics[0].value == pytest.approx(value[0, finite & keep[0]].astype(float).mean())
    value[:] = np.inf
    with pytest.raises(NotEnoughData, match="no finite loss"):
        scores_of(lake_of(keep, np.zeros_like(value), loss=value))


@pytest.mark.parametrize("members", [0, 1, 20])
def test_few_or_no_members_or_others(lake_of: MakeLake, members: int) -> None:
    value, _ = losses(3, 1, 20)
    scores = scores_of(lake_of((np.arange(20) < members)[None], np.zeros_like(value), loss=value))
    names = [metric.metric for metric in scores.metrics]
    assert names[:1] == (["mean_loss"] if members else [])
    assert ("tpr_at_mean_loss" in names) == (0 < members < 20)
    assert scores.frame["score"].is_finite().all()


def test_only_the_target_counts(lake_of: MakeLake) -> None:
    value, keep = losses(4, 3, 30)
    one = scores_of(lake_of(keep[:1], np.zeros_like(value[:1]), loss=value[:1]))
    other = scores_of(lake_of(keep, np.zeros_like(value), loss=value))
    assert one.frame.equals(other.frame)
    assert one.metrics == other.metrics


def test_no_signals(lake_of: MakeLake) -> None:
    lake = lake_of(np.ones((1, 5), bool), traces={"loss": np.ones((5, 3))})
    with pytest.raises(NotEnoughData, match="has no signals"):
        scores_of(lake)
    lake = lake_of(np.ones((2, 5), bool), np.ones((2, 5)), roles=["shadow"] * 2)
    with pytest.raises(NotEnoughData, match="name the run to look at with --target"):
        scores_of(lake)


def test_planted_members_rank_first(lake_of: MakeLake) -> None:
    value, keep = losses(5, 1, 200)
    planted = np.flatnonzero(keep[0])[::7]
    value[0] += 1
    value[0, planted] = 0.001
    frame = scores_of(lake_of(keep, np.zeros_like(value), loss=value)).frame.sort("score", descending=True)
    assert set(frame["sample_id"].head(len(planted))) == set(planted)
    auc = evaluate(*Scores(frame).arrays(), ())[0]
    assert auc.ci_low > 0.5  # type: ignore[operator]


def test_without_a_signal_the_auc_is_a_half(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(6)
    keep = rng.random((1, 1000)) < 0.5
    value = rng.exponential(1, keep.shape)
    with open_source(lake_of(keep, np.zeros_like(value), loss=value), "tests") as source:
        auc, *rest = run_analysis(source, find("loss")).metrics
    assert auc.ci_low < 0.5 < auc.ci_high  # type: ignore[operator]
    advantage = rest[-1]
    assert advantage.metric == "advantage_at_mean_loss"
    assert advantage.ci_low < 0 < advantage.ci_high  # type: ignore[operator]
