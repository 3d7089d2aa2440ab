"""What the tail of the losses tells: counted by hand, against counting record by record, and nothing where nothing is learnt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from losslake.analysis.evaluations.catalogue import find_evaluation, run_evaluation
from losslake.analysis.evaluations.tail import tnr_at_fnr
from losslake.analysis.report.data import Report
from losslake.analysis.report.gather import gather
from losslake.analysis.report.parts import Figure, Figures
from losslake.analysis.report.sections.attacks import attacks
from losslake.analysis.report.words import verdict
from losslake.analysis.scores import Finding
from losslake.analysis.scoring.catalogue import open_source
from losslake.analysis.statistics.roc import split
from losslake.store.errors import InvalidOption
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]
Array = npt.NDArray[Any]


def found(lake: Lake, scores: tuple[str, ...] = (), **options: Any) -> Finding:
    with open_source(lake, "tests") as source:
        return run_evaluation(source, find_evaluation("tail"), scores, options)


def counted(loss: Array, member: Array, fnr: float) -> float:
    """The best TNR over all thresholds at which a loss above accuses of no membership."""
    best = 0.0
    for threshold in [-np.inf, *loss]:
        above = loss > threshold
        if above[member].mean() <= fnr:
            best = max(best, above[~member].mean())
    return best


@pytest.mark.parametrize("decimals", [None, 1, 0])  # with ties, too
def test_rates_are_those_of_counting(lake_of: MakeLake, decimals: int | None) -> None:
    rng = np.random.default_rng(0)
    member = rng.random(300) < 0.5
    loss = rng.exponential(1 + 2 * ~member)
    if decimals is not None:
        loss = loss.round(decimals)
    phi = np.zeros((1, 300), np.float32)
    rates = (0.02, 0.1, 0.3)
    finding = found(lake_of(member[None], phi, loss=loss[None].astype(np.float32)), fnr=rates)
    for metric, rate in zip(finding.metrics, rates, strict=True):
        assert metric.metric == "tnr_at_fnr"
        assert metric.parameters["fnr"] == rate
        assert metric.value == pytest.approx(counted(loss.astype(np.float32), member, rate))
        assert metric.n == (~member).sum()
        assert metric.ci_low is not None
        assert metric.ci_high is not None
        assert metric.ci_low <= metric.value <= metric.ci_high


@pytest.mark.parametrize(("members", "others"), [(150, 150), (40, 400), (400, 40)])
def test_without_a_leak_the_rate_is_that_of_members(members: int, others: int) -> None:
    rng = np.random.default_rng(1)
    member = np.arange(members + others) < members
    held = {0.01: 0, 0.1: 0}
    for _ in range(200):
        sides = split(-rng.lognormal(0, 2, members + others), member)
        for rate in held:
            metric = tnr_at_fnr(*sides, rate)
            assert metric.ci_low is not None
            assert metric.ci_high is not None
            held[rate] += metric.ci_low <= rate <= metric.ci_high
    assert min(held.values()) >= 0.92 * 200


def test_learnt_by_heart_is_missing_from_the_tail(lake_of: MakeLake) -> None:
    member = np.arange(1_000) < 500
    loss = np.tile(np.linspace(0, 5, 500), 2)
    loss[:100] = 0.001  # a fifth of the members, at random as to their difficulty or not
    loss[400:500] = 0.001
    finding = found(lake_of(member[None], np.zeros((1, 1_000), np.float32), loss=loss[None]), fnr=(0.002,))
    assert finding.metrics[0].value == pytest.approx(0.2, abs=0.01)


def test_a_report_tells_it_where_there_are_no_shadow_models(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(3)
    keep = rng.random((5, 1_200)) < 0.5
    phi = rng.normal(0, 1, keep.shape) + rng.normal(0, 2, 1_200)
    phi = np.where(keep & (phi < -2), 3, phi).astype(np.float32)
    given = {"loss": np.logaddexp(0, -phi)}
    alone = gather(lake_of(keep[:1], phi[:1], loss=given["loss"][:1]), "tests")
    beside = gather(lake_of(keep, phi, **given), "tests")
    assert alone.finding("tail") is not None
    assert beside.finding("tail") is None
    assert "By the tail of its losses, LiRA with shadow models would name about" in verdict(alone).text
    assert "By the tail" not in verdict(beside).text
    assert "tail" in [figure.name for figure in figures_of(alone)]


def figures_of(report: Report) -> list[Figure]:
    section = attacks(report)
    assert section is not None
    return [figure for part in section.parts if isinstance(part, Figures) for figure in part.items]


def test_what_cannot_be_told_is_said(lake_of: MakeLake) -> None:
    rng = np.random.default_rng(2)
    member = np.arange(60) < 30
    loss = rng.exponential(1, (1, 60)).astype(np.float32)
    finding = found(lake_of(member[None], np.zeros((1, 60), np.float32), loss=loss), fnr=(0.001, 0.1))
    assert [metric.value is None for metric in finding.metrics] == [True, False]
    assert any("30 members cannot resolve an FNR of 0.001" in note for note in finding.notes)
    assert not any(
        "is put at about" in note for note in finding.notes
    )  # 3 members beyond the threshold are too few
    firm = found(lake_of(member[None], np.zeros((1, 60), np.float32), loss=loss), fnr=(0.001, 0.2))
    put = f"LiRA's TPR at an FPR of 0.2 is put at about {firm.metrics[1].value:.2g} (guessing: 0.2)"
    assert [put in note for note in firm.notes] == [True, False]
    everyone = found(lake_of(np.ones((1, 60), bool), np.zeros((1, 60), np.float32), loss=loss))
    assert everyone.metrics == ()
    assert any("both members and non-members" in note for note in everyone.notes)
    with pytest.raises(InvalidOption, match="false-negative rate"):
        found(lake_of(member[None], np.zeros((1, 60), np.float32), loss=loss), fnr=(0.0,))
