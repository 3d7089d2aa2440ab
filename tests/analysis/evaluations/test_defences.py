"""Two experiments side by side: figures are those of each alone, differences cover, and what does not match is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from findings import pick
from losslake.analysis.charts.experiments import attacks_with_and_without
from losslake.analysis.commands import analyze_group
from losslake.analysis.evaluations.defences import auc_correlation, defences
from losslake.analysis.scores import Finding
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]
N = 300


def answers(seed: int, gain: float, runs: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Membership that only the seed decides, and phi that tells members by ``gain``."""
    rng = np.random.default_rng(seed)
    keep = rng.random((runs, N)) < 0.5
    keep[1:3], keep[3:5] = True, False
    hard = rng.normal(0, 1, N)
    return keep, rng.normal(0, 1, keep.shape) + hard + gain * keep


@pytest.fixture(scope="module")
def lake(lake_of: MakeLake) -> Lake:
    made = lake_of(*answers(0, 2.0), experiment="plain")
    return lake_of(*answers(0, 0.2), experiment="defended", lake=made)


def compare(lake: Lake, scores: tuple[str, ...] = ("lira",), at: str = "plain", **options: Any) -> Finding:
    with open_source(lake, at) as source:
        return defences(source, scores, **options)


def test_figures_are_those_of_each_experiment_alone(lake: Lake) -> None:
    finding = compare(lake, ("lira", "loss"), with_="defended", fpr=(0.1,))
    for experiment in ("plain", "defended"):
        with open_source(lake, experiment) as source:
            for score in ("lira", "loss"):
                alone = run_analysis(source, find(score), fprs=(0.1,)).metrics
                for expected in alone[:2]:
                    found = pick(finding, expected.metric, score=score, experiment=experiment)
                    assert (found.value, found.ci_low, found.ci_high, found.n) == (
                        expected.value, expected.ci_low, expected.ci_high, expected.n
                    )  # fmt: skip
    for metric, of in (("auc", "auc"), ("tpr_at_fpr", "tpr_at_fpr")):
        first, second = (pick(finding, metric, score="lira", experiment=e) for e in ("plain", "defended"))
        difference = pick(finding, "difference", score="lira", of=of)
        assert difference.value == pytest.approx((second.value or 0) - (first.value or 0), abs=1e-12)
    gone = pick(finding, "difference", score="lira", of="auc")
    assert gone.ci_high is not None
    assert gone.ci_high < -0.1, "the planted defence helps"
    # The other way round it is the same, with the other sign.
    back = pick(compare(lake, at="defended", with_="plain"), "difference", score="lira", of="auc")
    assert (back.value, back.ci_low, back.ci_high) == pytest.approx(
        (-(gone.value or 0), -gone.ci_high, -(gone.ci_low or 0)), abs=1e-12
    )


def test_correlation_is_that_of_placements() -> None:
    rng = np.random.default_rng(3)
    member = rng.random(60) < 0.4
    one, other = np.round(rng.normal(0, 1, (2, 60)) + rng.normal(0, 1, 60) + member, 1)
    pairs = []
    for score in (one, other):
        above = score[member][:, None] - score[~member][None, :]
        pairs.append((above > 0) + 0.5 * (above == 0))
    of_members, of_others = ([p.mean(axis=axis) for p in pairs] for axis in (1, 0))
    covariance = np.cov(of_members) / member.sum() + np.cov(of_others) / (~member).sum()
    expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert auc_correlation(one, other, member) == pytest.approx(expected, abs=1e-12)
    assert auc_correlation(one, one, member) == pytest.approx(1)
    assert auc_correlation(one, -one, member) == pytest.approx(-1)
    assert auc_correlation(one, np.zeros(60), member) == 0
    assert auc_correlation(one, other, np.arange(60) == 0) == 0


def test_the_same_scores_differ_by_nothing(lake_of: MakeLake) -> None:
    made = lake_of(*answers(1, 1.0), experiment="a")
    lake_of(*answers(1, 1.0), experiment="b", lake=made)
    same = pick(compare(made, at="a"), "difference", of="auc")
    assert same.value == 0
    # Each interval is a little longer to one side, which is what is left.
    assert (same.ci_low, same.ci_high) == pytest.approx((0, 0), abs=0.02)


def test_intervals_of_differences_cover() -> None:
    from losslake.analysis.evaluations.defences import _difference
    from losslake.analysis.statistics.roc import evaluate
    from scipy.special import ndtr

    rng = np.random.default_rng(0)
    n, covered, trials = 200, 0, 400
    truth = ndtr(0.3 / np.sqrt(2)) - ndtr(1.2 / np.sqrt(2))
    for _ in range(trials):
        member = np.arange(n) < n // 2
        shared = rng.normal(0, np.sqrt(0.6), n)
        one, other = (shared + rng.normal(0, np.sqrt(0.4), n) + gain * member for gain in (1.2, 0.3))
        first, second = (evaluate(score, member, ())[0] for score in (one, other))
        found = _difference(first, second, auc_correlation(one, other, member), {})
        assert found.ci_low is not None
        assert found.ci_high is not None
        covered += found.ci_low <= truth <= found.ci_high
    assert 0.925 <= covered / trials <= 0.99


def test_different_members_are_taken_for_independent(lake_of: MakeLake) -> None:
    made = lake_of(*answers(0, 2.0), experiment="plain")
    lake_of(*answers(1, 0.2), experiment="other", lake=made)
    finding = compare(made)
    assert any("different members" in note for note in finding.notes)
    first, second = (pick(finding, "auc", experiment=e) for e in ("plain", "other"))
    difference = pick(finding, "difference", of="auc")
    down = np.hypot((second.value or 0) - (second.ci_low or 0), (first.ci_high or 0) - (first.value or 0))
    assert difference.ci_low == pytest.approx((difference.value or 0) - down, abs=1e-12)


def test_unresolved_rates_give_an_interval_alone(lake: Lake) -> None:
    finding = compare(lake, fpr=(0.001,))
    difference = pick(finding, "difference", of="tpr_at_fpr")
    assert difference.value is None
    assert difference.parameters["resolved"] is False
    first, second = (pick(finding, "tpr_at_fpr", experiment=e) for e in ("plain", "defended"))
    assert (difference.ci_low, difference.ci_high) == (
        (second.ci_low or 0) - (first.ci_high or 1), (second.ci_high or 1) - (first.ci_low or 0)
    )  # fmt: skip


def test_costs_and_recipes_are_told(lake_of: MakeLake) -> None:
    keep, phi = answers(0, 1.0)
    made = lake_of(keep, phi, experiment="plain")
    made.create_experiment("private", made.samples("plain"))
    for m in range(len(keep)):
        with made.write_run("private", f"run-{m}", members=keep[m]) as writer:
            loss = np.logaddexp(0, -phi[m])
            writer.append_signals(np.arange(N), np.zeros(N, int), np.zeros(N, int), loss=loss, phi=phi[m])
            extra = {
                "dp": {"epsilon": 3.5, "delta": 1e-5, "noise": 1.1, "clip": 1.0, "accountant": "rdp"},
                "tested_on": "test split",
            }
            writer.commit(
                RunInfo("shadow" if m else "target", recipe={"dp_noise": 1.1 if m < 3 else None},
                        test_accuracy=0.75, train_accuracy=0.8, extra=extra)
            )  # fmt: skip
    finding = compare(made, with_="private", with_target="run-0")
    epsilon = pick(finding, "epsilon")
    assert epsilon.value == 3.5
    assert epsilon.parameters == {
        "experiment": "private", "run": "run-0", "delta": 1e-5, "noise": 1.1, "clip": 1.0, "accountant": "rdp"
    }  # fmt: skip
    assert pick(finding, "test_accuracy").value == 0.75
    assert pick(finding, "train_accuracy").value == 0.8
    assert any("4 of 6 shadow runs of private have another recipe" in note for note in finding.notes)
    assert any("is on: test split" in note for note in finding.notes)
    chart = attacks_with_and_without(finding).to_dict()
    assert "private: test accuracy 0.75, epsilon 3.5." in chart["title"]["subtitle"]


def test_what_cannot_be_compared(lake: Lake, lake_of: MakeLake) -> None:
    alone = lake_of(*answers(0, 1.0))
    with pytest.raises(NotEnoughData, match="no other experiment"):
        compare(alone, at="tests")
    with pytest.raises(InvalidOption, match="with itself"):
        compare(lake, with_="plain")
    keep, phi = answers(0, 1.0)
    lake_of(keep[:, :100], phi[:, :100], lake=alone, experiment="fewer")
    with pytest.raises(InvalidOption, match="holds other records"):
        compare(alone, at="tests", with_="fewer")
    lake_of(keep, phi, lake=alone, experiment="second")
    lake_of(keep, phi, lake=alone, experiment="third")
    with pytest.raises(InvalidOption, match="--with"):
        compare(alone, at="tests")
    with pytest.raises(InvalidOption, match="between 0 and 1"):
        compare(lake, fpr=(1.5,))
    members = np.ones_like(keep)
    everyone = lake_of(members, phi, experiment="one")
    lake_of(members, phi, lake=everyone, experiment="two")
    with pytest.raises(NotEnoughData):
        compare(everyone, ("loss",), at="one")


def test_chart_shows_pairs(lake: Lake) -> None:
    finding = compare(lake, ("lira", "loss"))
    chart = attacks_with_and_without(finding).to_dict()
    encoded = chart["layer"][2]["encoding"]
    assert encoded["y"]["sort"] == ["lira", "loss"]
    assert encoded["color"]["scale"]["domain"] == ["plain", "defended"]
    (of_lira,) = (
        m
        for m in finding.metrics
        if m.metric == "difference" and m.parameters["of"] == "auc" and m.parameters["score"] == "lira"
    )
    assert f"lira −{abs(of_lira.value or 0):.3f}" in chart["description"]
    assert attacks_with_and_without(Finding(())).to_dict()


def test_command(lake: Lake) -> None:
    command = ["defences", "lira", "loss", "--lake", lake.path, "--experiment", "plain", "--with", "defended"]
    answer = CliRunner().invoke(analyze_group, command)
    assert answer.exit_code == 0, answer.output
    assert "difference score=lira experiment=defended of=auc" in answer.stdout
