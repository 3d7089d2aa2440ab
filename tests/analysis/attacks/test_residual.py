"""The residual attack: scores against fits made one record at a time, no claims without a signal, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from losslake.analysis.attacks import residual as attack
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import Outcome, run_analysis
from losslake.analysis.statistics.roc import auc, split, tpr_at_fpr
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.lake import Lake
from threadpoolctl import threadpool_limits

MakeLake = Callable[..., Lake]
Array = npt.NDArray[Any]


def trained(records: int, epochs: int, effect: float, seed: int) -> tuple[Array, Array]:
    """Membership (records,), and phi (records, epochs + 1) of records that differ, with so much more at the end for members."""
    rng = np.random.default_rng(seed)
    member = rng.random(records) < 0.5
    time = np.arange(epochs + 1) / epochs
    walk = rng.normal(0, 0.5, (records, epochs + 1)).cumsum(axis=1) / np.sqrt(epochs)
    hard = rng.normal(0, 2, (records, 1))
    return member, hard + 4 * time + walk + effect * time**2 * member[:, None]


def made(lake_of: MakeLake, member: Array, phi: Array, **more: Any) -> Lake:
    traces = {"loss": np.logaddexp(0, -phi), "margin": phi + 0.1 * np.sin(97 * phi)}
    given = {"traces": traces, "phi": phi[None, :, -1].astype(np.float32), **more}
    return lake_of(member[None], **given)


def scored(lake: Lake, **options: Any) -> Outcome:
    with open_source(lake, "tests") as source:
        return run_analysis(source, find("residual"), options)


def one_by_one(member: Array, columns: Array, final: Array, label: Array) -> Array:
    """Each record's residual from a fit of its own to the non-members of the other parts, as equations with rows for the penalty."""
    part = np.random.default_rng(0).permutation(len(final)) % attack.FOLDS
    found = []
    for record in range(len(final)):
        rows = [i for i in range(len(final)) if not member[i] and part[i] != part[record]]
        terms = []
        for values in columns.T:
            low, high = np.quantile(values[rows], [attack.TRIMMED, 1 - attack.TRIMMED])
            held = np.clip(values[rows], low, high)
            terms.append(((np.clip(values, low, high)) - held.mean()) / held.std())
        design = np.stack(
            [*terms, *(term**2 for term in terms), *(label == c for c in np.unique(label))], axis=1
        )
        design = design - design[rows].mean(axis=0)
        low, high = np.quantile(final[rows], [attack.TRIMMED, 1 - attack.TRIMMED])
        wanted = np.clip(final[rows], low, high)
        penalty = np.sqrt(attack.RIDGE * len(rows)) * np.eye(design.shape[1])
        equations = np.concatenate([design[rows], penalty])
        right = np.concatenate([wanted - wanted.mean(), np.zeros(len(penalty))])
        weights = np.linalg.lstsq(equations, right)[0]
        found.append(final[record] - design[record] @ weights - wanted.mean())
    return np.array(found)


def test_scores_are_those_of_fits_made_record_by_record(lake_of: MakeLake) -> None:
    member, phi = trained(90, 6, 1.0, 0)
    label = np.arange(90) % 3
    outcome = scored(made(lake_of, member, phi, labels=label.astype(np.int32)), epochs=2)
    frame = outcome.scores.frame
    columns = np.concatenate([phi[:, 1:3], (phi + 0.1 * np.sin(97 * phi))[:, 1:3]], axis=1)
    expected = one_by_one(member, columns, phi[:, -1], label)
    np.testing.assert_allclose(frame["score"], expected, atol=2e-4)  # traces are float32
    np.testing.assert_allclose(frame["phi"] - frame["expected"], frame["score"], atol=1e-6)
    np.testing.assert_allclose(frame["phi"], phi[:, -1], atol=1e-5)
    explained = next(metric for metric in outcome.metrics if metric.metric == "explained")
    assert explained.value == pytest.approx(
        1 - np.mean(expected[~member] ** 2) / np.var(phi[~member, -1]), abs=1e-4
    )
    assert explained.n == (~member).sum()


def test_it_finds_what_the_final_loss_hides(lake_of: MakeLake) -> None:
    member, phi = trained(1_000, 10, 1.0, 1)
    lake = made(lake_of, member, phi)
    with open_source(lake, "tests") as source:
        loss = run_analysis(source, find("loss"), {})
    area = loss.metrics[0].ci_high
    for options in ({}, {"features": "phi"}, {"features": "margin"}, {"regression": "quantile"}):
        found = scored(lake, **options).metrics[0].ci_low
        assert found is not None
        assert area is not None
        assert found > area + 0.1


@pytest.mark.parametrize("design", ["coin", "first half", "few non-members", "few members"])
def test_without_an_effect_it_claims_nothing(design: str) -> None:
    held = {0.0: 0, 0.1: 0}
    areas = []
    trials = 80
    for seed in range(trials):
        _, phi = trained(240, 5, 0.0, seed)
        rng = np.random.default_rng(seed)
        member = {
            "coin": rng.random(240) < 0.5,
            "first half": np.arange(240) < 120,
            "few non-members": np.arange(240) >= 40,
            "few members": np.arange(240) < 40,
        }[design]
        seen = np.concatenate([phi[:, 1:4], np.maximum(phi[:, 1:4], 0)], axis=1)
        known = np.ones(240, bool)
        classes = np.eye(4)[rng.integers(0, 4, 240)]
        expected = attack._predicted((seen, classes), phi[:, -1], known, ~member, attack._least_squares)
        sides = split(phi[:, -1] - expected, member)
        area, rate = auc(*sides), tpr_at_fpr(*sides, 0.1)
        assert area.value is not None
        areas.append(area.value)
        for at, metric, true in ((0.0, area, 0.5), (0.1, rate, 0.1)):
            assert metric.ci_low is not None
            assert metric.ci_high is not None
            held[at] += metric.ci_low <= true <= metric.ci_high
    assert min(held.values()) >= 0.9 * trials
    assert abs(np.mean(areas) - 0.5) < 4 * np.std(areas) / np.sqrt(trials)


@pytest.mark.parametrize(("records", "fit"), [(20_000, attack._least_squares), (2_000, attack._boosted(0.5))])
def test_scores_do_not_depend_on_how_many_threads_there_are(records: int, fit: attack.Fit) -> None:
    rng = np.random.default_rng(0)
    member, phi = trained(records, 13, 1.0, 0)
    seen = (phi[:, 1:13], np.eye(50)[rng.integers(0, 50, records)])
    found = set()
    for threads in (1, 2, 8):
        with threadpool_limits(threads):
            found.add(attack._predicted(seen, phi[:, -1], np.ones(records, bool), ~member, fit).tobytes())
    assert len(found) == 1


def test_members_that_are_easier_from_the_beginning_are_no_leak(lake_of: MakeLake) -> None:
    member, phi = trained(2_000, 6, 0.0, 4)
    phi = phi + 1.0 * member[:, None]
    outcome = scored(made(lake_of, member, phi))
    area = outcome.metrics[0]
    assert area.ci_low is not None
    assert area.ci_low < 0.5
    final = auc(*split(phi[:, -1], member))
    assert final.ci_low is not None
    assert final.ci_low > 0.55  # which the loss attack takes for one


def test_a_quantile_accuses_as_many_non_members_as_it_says(lake_of: MakeLake) -> None:
    member, phi = trained(2_000, 6, 0.0, 3)
    for quantile in (0.5, 0.9):
        frame = scored(made(lake_of, member, phi), regression="quantile", quantile=quantile).scores.frame
        above = frame["score"].to_numpy()[~member] > 0
        assert abs(above.mean() - (1 - quantile)) < 0.06


def test_the_population_is_fitted_to_and_not_judged(lake_of: MakeLake) -> None:
    _, phi = trained(300, 6, 0.0, 4)
    population, member = np.arange(300) >= 200, np.arange(300) < 195
    phi[member, -1] += 1
    frame = scored(made(lake_of, member, phi, population=population)).scores.frame
    assert frame["sample_id"].to_list() == list(range(200))
    score = frame["score"].to_numpy()
    assert score[:195].mean() > score[195:].mean() + 0.5


def test_what_is_not_finite_has_no_score(lake_of: MakeLake) -> None:
    member, phi = trained(200, 6, 1.0, 5)
    loss = np.ma.masked_array(np.logaddexp(0, -phi))
    loss[3, 1], loss[4, 2] = np.nan, np.inf
    loss[6, 5] = np.nan  # between the first epochs and the last
    outcome = scored(lake_of(member[None], phi[None, :, -1].astype(np.float32), traces={"loss": loss}))
    assert set(np.flatnonzero(outcome.scores.frame["score"].is_null())) == {3, 4}
    assert any("2 of 200 samples have no score" in note for note in outcome.notes)


def test_ties_and_losses_of_zero_have_scores(lake_of: MakeLake) -> None:
    member, _ = trained(200, 6, 1.0, 6)
    loss = np.zeros((200, 7))
    loss[:, 0] = 2.3
    frame = scored(
        lake_of(member[None], np.full((1, 200), 20, np.float32), traces={"loss": loss})
    ).scores.frame
    np.testing.assert_allclose(frame["score"], 0, atol=1e-6)
    assert frame["score"].n_unique() == 1  # no order of equal records by rounding


def test_without_signals_the_last_epoch_is_the_end(lake_of: MakeLake) -> None:
    member, phi = trained(200, 6, 1.0, 7)
    traces = {"loss": np.logaddexp(0, -phi)}
    alone = scored(lake_of(member[None], traces=traces)).scores.frame
    beside = scored(lake_of(member[None], phi[None, :, -1].astype(np.float32), traces=traces)).scores.frame
    np.testing.assert_allclose(alone["score"], beside["score"], atol=1e-3)


def test_other_losses_stand_in_for_phi_by_themselves(lake_of: MakeLake) -> None:
    member, phi = trained(200, 6, 1.0, 8)
    given = {"traces": {"loss": -phi}, "extras": [{"loss": "hinge"}]}
    frame = scored(lake_of(member[None], **given), features="phi").scores.frame
    np.testing.assert_allclose(frame["phi"], phi[:, -1], rtol=1e-6)


def test_what_it_refuses(lake_of: MakeLake) -> None:
    member, phi = trained(200, 6, 1.0, 9)
    lake = lake_of(member[None], traces={"loss": np.logaddexp(0, -phi)})
    for options, word in (({"epochs": 0}, "1 epoch"), ({"quantile": 1.0}, "between 0 and 1")):
        with pytest.raises(InvalidOption, match=word):
            scored(lake, **options)
    with pytest.raises(NotEnoughData, match="no margins"):
        scored(lake, features="both")
    with pytest.raises(NotEnoughData, match="after 1 epoch, and 2 or more"):
        scored(lake_of(member[None], traces={"loss": np.logaddexp(0, -phi[:, :2])}))
    with pytest.raises(NotEnoughData, match="members alone"):
        scored(lake_of(member[None], train_traces={"loss": np.logaddexp(0, -phi)}))
    few = np.arange(200) < 185
    with pytest.raises(NotEnoughData, match="of 15 alone"):
        scored(lake_of(few[None], traces={"loss": np.logaddexp(0, -phi)}))
