"""Who a target is compared with must not tell its members: fleets in balance, complements, clones, and runs left out."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from losslake.analysis.attacks.each_run import attack_each
from losslake.analysis.evaluations.catalogue import find_evaluation, run_evaluation
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.analysis.statistics.roc import evaluate
from losslake.collect.experiment.membership import design_members
from losslake.store.errors import InvalidOption, NotEnoughData, NotFound
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]
Mask = npt.NDArray[np.bool_]

SAMPLES, POPULATION = 600, 100
ATTACKS = (
    "lira",
    "lira[variance=sample]",
    "lira[center=median]",
    "lira[queries=gaussian]",
    "lira[mode=offline]",
    "rmia",
    "rmia[mode=offline,a=0.3]",
    "calibrated",
    "attack-r",
    "attack-r[interpolate=true]",
    "attack-s",
)


def fleet(design: str, runs: int, seed: int) -> Mask:
    """Memberships (runs, samples); the population is in none."""
    if design == "coin":
        keep = np.random.default_rng(seed).random((runs, SAMPLES)) < 0.5
    else:
        keep = design_members(SAMPLES, runs, design=design, seed=seed)  # type: ignore[arg-type]
    return np.concatenate([keep, np.zeros((runs, POPULATION), bool)], axis=1)


def made(lake_of: MakeLake, keep: Mask, seed: int, effect: float = 0.0, runs: int | None = None) -> Lake:
    """A lake of phi with records and runs that differ, and so much more phi where a run trained on a record.

    ``runs`` is how many of them to keep, the first ones.
    """
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, keep.shape) + rng.normal(2, 1, keep.shape[1]) + effect * keep
    phi = (values + rng.normal(0, 0.3, (len(keep), 1)))[:runs].astype(np.float32)
    population = np.arange(keep.shape[1]) >= SAMPLES
    return lake_of(keep[:runs], phi, loss=np.logaddexp(0, -phi), population=population)


def auc(scores: pl.DataFrame) -> tuple[float, float, float]:
    score = scores["score"].cast(float).fill_null(np.nan).to_numpy()
    found = evaluate(score, scores["member"].to_numpy(), (0.1,))[0]
    assert found.value is not None
    assert found.ci_low is not None
    assert found.ci_high is not None
    return found.value, found.ci_low, found.ci_high


def told(notes: tuple[str, ...]) -> list[str]:
    return [note for note in notes if "left out" in note or "passed over" in note]


@pytest.mark.parametrize("design", ["balanced", "paired", "coin"])
@pytest.mark.parametrize("runs", [4, 8])
@pytest.mark.parametrize(
    "target", ["run-0000", "run-0001"]
)  # a run of role target, and a shadow run in its place
def test_without_an_effect_no_attack_finds_one(
    lake_of: MakeLake, design: str, runs: int, target: str
) -> None:
    with open_source(made(lake_of, fleet(design, runs, 5), 5), "tests", target) as source:
        for name in ATTACKS:
            analysis, options = source.analysis(name)
            outcome = run_analysis(source, analysis, options)
            value, low, high = auc(outcome.scores.frame)
            # Intervals of 95%, too many to ask all of them to hold .5.
            assert abs(value - 0.5) < (high - low), name
            assert design != "coin" or not told(outcome.notes)


@pytest.mark.parametrize("runs", [4, 8])
def test_intervals_hold_a_half_and_are_centred_where_nothing_is_remembered(
    lake_of: MakeLake, monkeypatch: pytest.MonkeyPatch, runs: int
) -> None:
    # benchmarks/nulls.py at length: parts of a lake's records are draws.
    monkeypatch.setattr(sys.modules[__name__], "SAMPLES", 4_000)
    held, values = [], []
    for seed, design in enumerate(("balanced", "paired", "coin")):
        with open_source(made(lake_of, fleet(design, runs, seed), seed), "tests") as source:
            for name in ("lira", "rmia", "calibrated", "attack-r[interpolate=true]", "attack-s"):
                scores = run_analysis(source, *source.analysis(name)).scores.frame
                for start in range(0, 4_000, 200):
                    value, low, high = auc(scores[start : start + 200])
                    held.append(low <= 0.5 <= high)
                    values.append(value)
    assert np.mean(held) >= 0.92
    assert abs(np.mean(values) - 0.5) < 0.01


@pytest.mark.parametrize("design", ["balanced", "paired"])
def test_counts_do_not_depend_on_membership(lake_of: MakeLake, design: str) -> None:
    with open_source(made(lake_of, fleet(design, 8, 1), 1), "tests", "run-0000") as source:
        outcome = run_analysis(source, find("lira"))
    assert set(zip(outcome.scores.frame["n_in"], outcome.scores.frame["n_out"], strict=True)) == {(3, 3)}
    assert len(told(outcome.notes)) == 1


def test_a_target_with_a_coin_of_its_own_is_compared_with_all(lake_of: MakeLake) -> None:
    keep = fleet("balanced", 8, 1)
    keep = np.concatenate([fleet("coin", 1, 7), keep])
    with open_source(made(lake_of, keep, 1), "tests", "run-0000") as source:
        outcome = run_analysis(source, find("lira"))
    assert set(zip(outcome.scores.frame["n_in"], outcome.scores.frame["n_out"], strict=True)) == {(4, 4)}
    assert told(outcome.notes) == []


@pytest.mark.parametrize("name", ATTACKS)
def test_runs_with_the_training_set_or_its_complement_are_as_good_as_not_there(
    lake_of: MakeLake, name: str
) -> None:
    keep = fleet("coin", 9, 3)
    keep[7], keep[8] = keep[0], keep[0]
    keep[7, :5] = ~keep[7, :5]  # the same but for five records
    keep[8, :SAMPLES] = ~keep[8, :SAMPLES]
    with open_source(made(lake_of, keep, 3, 1.0), "tests", "run-0000") as source:
        analysis, options = source.analysis(name)
        found = run_analysis(source, analysis, options)
        without = run_analysis(source, analysis, {**options, "without": ("run-0007", "run-0008")})
    with open_source(made(lake_of, keep, 3, 1.0, runs=7), "tests", "run-0000") as source:
        expected = run_analysis(source, analysis, options).scores.frame
    for outcome in (found, without):
        np.testing.assert_allclose(outcome.scores.frame["score"], expected["score"], rtol=1e-9)
    assert [[run in note for note in told(found.notes)] for run in ("run-0007", "run-0008")] == [
        [True, False],
        [False, True],
    ]
    assert told(without.notes) == ["left out as asked: run-0007, run-0008"]
    assert "without=run-0007+run-0008" in without.variant


def test_shadow_runs_that_are_all_clones_are_none(lake_of: MakeLake) -> None:
    keep = np.repeat(fleet("coin", 1, 0), 3, axis=0)
    with (
        open_source(made(lake_of, keep, 0), "tests", "run-0000") as source,
        pytest.raises(NotEnoughData, match=r"no shadow runs beside 'run-0000'.*run-0001, run-0002"),
    ):
        run_analysis(source, find("lira"))


def test_runs_that_cannot_be_left_out(lake_of: MakeLake) -> None:
    with open_source(made(lake_of, fleet("coin", 4, 0), 0), "tests", "run-0000") as source:
        with pytest.raises(NotFound, match="no run 'nobody' to leave out"):
            run_analysis(source, find("lira"), {"without": ("nobody",)})
        with pytest.raises(InvalidOption, match="'run-0000' is the target"):
            run_analysis(source, find("lira"), {"without": ("run-0000",)})
        # A name that is read again is the same score.
        assert source.analysis("lira[without=run-0001+run-0002]")[1] == {"without": ("run-0001", "run-0002")}


@pytest.mark.parametrize("design", ["balanced", "paired", "coin"])
@pytest.mark.parametrize("variance", ["sample", "pooled"])
def test_each_run_in_turn_is_compared_as_it_is_alone(lake_of: MakeLake, design: str, variance: str) -> None:
    keep = fleet(design, 8, 2)
    keep = np.concatenate([keep, keep[4:5]])  # and a clone of one of them
    with open_source(made(lake_of, keep, 2), "tests", "run-0000") as source:
        each = attack_each(source, find("lira"), {"variance": variance}, None)
        for run, score in list(zip(each.runs, each.score, strict=True))[::2]:
            with source.beside(run.run) as turned:
                alone = run_analysis(turned, find("lira"), {"variance": variance}).scores.frame
            np.testing.assert_allclose(
                score, alone["score"].cast(float).fill_null(np.nan), rtol=1e-6, atol=1e-9
            )
    assert any("training set of other shadow runs" in note for note in each.notes)


def test_per_model_of_a_fleet_in_balance_is_centred(lake_of: MakeLake) -> None:
    keep = fleet("balanced", 8, 6)
    with open_source(made(lake_of, keep, 6), "tests", "run-0000") as source:
        found = run_evaluation(source, find_evaluation("per-model"), ("lira",))
    aucs = [m.value for m in found.metrics if m.metric == "auc" and m.value is not None]
    assert len(aucs) == 8
    assert max(abs(value - 0.5) for value in aucs) < 0.1
