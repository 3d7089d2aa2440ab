"""The trajectory attack: what it finds, that it claims nothing without a signal, whom it knows, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import Outcome, run_analysis
from losslake.analysis.statistics.boosting import log_odds
from losslake.analysis.statistics.roc import auc, split, tpr_at_fpr
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.lake import Lake
from threadpoolctl import threadpool_limits

MakeLake = Callable[..., Lake]
Array = npt.NDArray[Any]


def trained(records: int, epochs: int, effect: float, seed: int) -> tuple[Array, Array]:
    """Membership (records,), and phi (records, epochs + 1): of hard records members end as sure as of easy ones."""
    rng = np.random.default_rng(seed)
    member = rng.random(records) < 0.5
    time = np.arange(epochs + 1) / epochs
    hard = rng.normal(0, 2, (records, 1))
    phi = hard + 3 * time + rng.normal(0, 0.5, (records, epochs + 1)).cumsum(axis=1) / np.sqrt(epochs)
    return member, phi + effect * time**2 * member[:, None] * np.maximum(-hard, 0)


def scored(lake: Lake, name: str = "trajectory", **options: Any) -> Outcome:
    with open_source(lake, "tests") as source:
        return run_analysis(source, find(name), options)


def test_it_finds_more_than_the_loss(lake_of: MakeLake) -> None:
    member, phi = trained(2_000, 8, 1.5, 0)
    given = {"loss": np.logaddexp(0, -phi)}
    lake = lake_of(member[None], phi[None, :, -1].astype(np.float32), traces={**given, "margin": phi})
    found, loss = (scored(lake, name).metrics[0] for name in ("trajectory", "loss"))
    assert found.ci_low is not None
    assert loss.ci_high is not None
    assert found.ci_low > loss.ci_high


@pytest.mark.parametrize("design", ["coin", "first third", "few members"])
def test_without_an_effect_it_claims_nothing(lake_of: MakeLake, design: str) -> None:
    # Parts of a lake's records are draws: an interval of each.
    _, phi = trained(6_000, 5, 0.0, 4)
    member = {
        "coin": np.random.default_rng(1).random(6_000) < 0.5,
        "first third": np.arange(6_000) % 120 < 40,
        "few members": np.arange(6_000) % 120 < 12,
    }[design]
    frame = scored(made(lake_of, member, phi)).scores.frame
    score = frame["score"].cast(float).fill_null(np.nan).to_numpy()
    held, areas = [], []
    for part in np.arange(6_000).reshape(-1, 120):
        sides = split(score[part], member[part])
        for metric, true in ((auc(*sides), 0.5), (tpr_at_fpr(*sides, 0.1), 0.1)):
            assert metric.ci_low is not None
            assert metric.ci_high is not None
            held.append(metric.ci_low <= true <= metric.ci_high)
        areas.append(auc(*sides).value)
    assert np.mean(held) >= 0.9
    assert abs(np.mean(areas) - 0.5) < 4 * np.std(areas) / np.sqrt(len(areas))


def made(lake_of: MakeLake, member: Array, phi: Array) -> Lake:
    return lake_of(member[None], phi[None, :, -1].astype(np.float32), traces={"loss": np.logaddexp(0, -phi)})


def test_known_records_have_no_score_and_the_others_no_part_in_theirs(lake_of: MakeLake) -> None:
    member, phi = trained(400, 5, 1.0, 1)
    frame = scored(made(lake_of, member, phi), fraction=0.25).scores.frame
    known = frame["known"].to_numpy()
    assert known[member].sum() == round(0.25 * member.sum())
    assert known[~member].sum() == round(0.25 * (~member).sum())
    assert frame["score"].is_null().to_numpy().tolist() == known.tolist()
    features = np.concatenate([phi[:, 1:4], phi[:, 1:2], phi[:, -1:]], axis=1)
    features[:, 3] = phi[:, 1]  # the mean over the first half of five epochs
    expected = log_odds(features[known], member[known], features[~known])
    np.testing.assert_allclose(frame["score"].to_numpy()[~known], expected, atol=0.05)
    assert np.corrcoef(frame["score"].to_numpy()[~known], expected)[0, 1] > 0.99
    other = scored(made(lake_of, member, phi), fraction=0.25, seed=1).scores.frame
    assert (other["known"].to_numpy() != known).any()


def test_the_population_is_not_judged_and_what_is_not_finite_has_no_score(lake_of: MakeLake) -> None:
    member, phi = trained(200, 6, 1.0, 2)
    population = np.arange(200) >= 170
    loss = np.logaddexp(0, -phi)
    loss[3, 1], loss[4, 2] = np.nan, np.inf
    lake = lake_of(
        (member & ~population)[None],
        phi[None, :, -1].astype(np.float32),
        traces={"loss": loss},
        population=population,
    )
    frame = scored(lake).scores.frame
    assert frame["sample_id"].to_list() == list(range(170))
    without = frame["score"].is_null() & ~frame["known"]
    assert set(np.flatnonzero(without)) == {3, 4}


def test_what_it_refuses(lake_of: MakeLake) -> None:
    member, phi = trained(200, 6, 1.0, 3)
    loss = np.logaddexp(0, -phi)
    with pytest.raises(NotEnoughData, match="after 1 epoch, and 2 or more"):
        scored(lake_of(member[None], traces={"loss": loss[:, :2]}))
    with pytest.raises(NotEnoughData, match="members alone"):
        scored(lake_of(member[None], train_traces={"loss": loss}))
    for few, what in ((np.arange(200) < 16, "8 members"), (np.arange(200) < 184, "8 non-members")):
        with pytest.raises(NotEnoughData, match=f"has {what}"):
            scored(lake_of(few[None], traces={"loss": loss}))
    for options in ({"fraction": 1.0}, {"seed": -1}):
        with pytest.raises(InvalidOption):
            scored(lake_of(member[None], traces={"loss": loss}), **options)


@pytest.mark.parametrize(("records", "decimals"), [(40, 6), (3_000, 6), (3_000, 1), (3_000, 2)])
def test_bins_are_those_of_scikit_learn(records: int, decimals: int) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(records + decimals)
    member = rng.random(records) < 0.2
    known = np.round(rng.normal(size=(records, 3)) + member[:, None], decimals)
    asked = np.concatenate([known, np.round(2 * rng.normal(size=(500, 3)), 3), np.full((1, 3), 1e300)])
    weight = np.where(member, 0.5 / member.mean(), 0.5 / (1 - member.mean()))
    model = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=8, learning_rate=0.08, early_stopping=False, random_state=0
    )
    with threadpool_limits(1):
        model.fit(known, member, sample_weight=weight)
        np.testing.assert_array_equal(log_odds(known, member, asked), model.decision_function(asked))
