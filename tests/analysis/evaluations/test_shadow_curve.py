"""Success against the number of shadow models: against LiRA on lakes of so many runs, and on planted effects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from findings import pick
from losslake.analysis.attacks.lira import lira
from losslake.analysis.attacks.lira_each import growing, scores_of
from losslake.analysis.attacks.phi_matrix import read_phi
from losslake.analysis.charts.models import shadow_curve_chart
from losslake.analysis.evaluations.catalogue import find_evaluation, run_evaluation
from losslake.analysis.evaluations.shadow_curve import another_set, shadow_curve
from losslake.analysis.measures.memorization import memorization
from losslake.analysis.scores import Finding
from losslake.analysis.scoring.catalogue import open_source
from losslake.analysis.source import Source
from losslake.analysis.statistics.roc import evaluate
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]
SAMPLES, SHADOWS = 120, 10


def arrays(seed: int = 0, shadows: int = SHADOWS, queries: int = 2, effect: float = 1.5) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    keep = rng.random((shadows + 1, SAMPLES)) < 0.5
    size = effect * rng.gamma(1, 1, (SAMPLES, 1))
    phi = rng.normal(0, 1, (*keep.shape, queries)) + size * (keep[:, :, None] - 0.5)
    return keep, phi.astype(np.float32)


@pytest.fixture(scope="module")
def lake(lake_of: MakeLake) -> Lake:
    keep, phi = arrays()
    keep[1:, 0] = True  # never out
    phi[:, 1] = 2.0  # never varies
    return lake_of(keep, phi)


@pytest.fixture
def source(lake: Lake) -> Iterator[Source]:
    with open_source(lake, "tests") as opened:
        yield opened


@pytest.mark.parametrize("number", [1, 2, 5, 10])
@pytest.mark.parametrize(
    ("mode", "variance"),
    [
        ("online", "bayes"),
        ("online", "pooled"),
        ("online", "sample"),
        ("offline", "bayes"),
        ("offline", "pooled"),
    ],
)
def test_the_fits_grow_into_those_of_lira(
    lake_of: MakeLake, source: Source, number: int, mode: Any, variance: Any
) -> None:
    keep, phi = arrays(1)
    phi[:, 3] = 1e6 + phi[:, 3]
    order = np.random.default_rng(number).permutation(SHADOWS)
    with open_source(lake_of(keep, phi), "tests") as whole:
        target, matrix = (
            read_phi(whole, runs, [0, 1]) for runs in ([whole.need_target()], whole.need_shadows())
        )
    ((_, fits),) = growing(matrix.phi, matrix.member, order, [number])
    score = scores_of(target.phi[0].astype(float), fits, mode, variance)
    some = np.concatenate([[0], 1 + order[:number]])
    with open_source(lake_of(keep[some], phi[some]), "tests") as part:
        try:
            frame = lira(part, mode=mode, variance=variance).frame
        except NotEnoughData:
            assert np.isnan(score).all()
            return
    expected = frame["score"].fill_null(np.nan).to_numpy()
    np.testing.assert_allclose(score, expected, rtol=1e-6, atol=1e-8)


def test_all_shadow_runs_give_lira_itself(source: Source) -> None:
    finding = shadow_curve(source, ("lira",), fpr=(0.1,), draws=3)
    score, member = lira(source).arrays()
    for expected in evaluate(score, member, (0.1,)):
        found = pick(finding, expected.metric, shadows=SHADOWS, records="all")
        assert (found.value, found.ci_low, found.ci_high, found.n) == pytest.approx(
            (expected.value, expected.ci_low, expected.ci_high, expected.n), abs=1e-9
        )
        assert (found.parameters["draws"], found.parameters["interval"]) == (1, "records")


def test_memorized_records_are_the_top_of_each_side(source: Source) -> None:
    finding = shadow_curve(source, ("lira",), counts=(SHADOWS,), top=0.2, fpr=(0.5,))
    member = lira(source).arrays()[1]
    value = memorization(source).frame["score"].fill_null(np.nan).to_numpy()
    sides = []
    for side in (member, ~member):
        known = np.sort(value[side & ~np.isnan(value)])
        sides.append(known[-int(0.2 * len(known))])
    # Ties at the edge are broken at random: the records strictly above it are among them whatever the draw.
    certain = (member & (value > sides[0])) | (~member & (value > sides[1]))
    auc = pick(finding, "auc", records="memorized")
    assert auc.n is not None
    assert auc.n >= certain.sum()
    assert auc.n == sum(int(0.2 * (side & ~np.isnan(value)).sum()) for side in (member, ~member))
    assert "records=memorized are" in finding.notes[0]


def test_means_over_draws(source: Source) -> None:
    finding = shadow_curve(source, ("lira",), counts=(4,), draws=7, seed=3, fpr=(0.1,))
    target = read_phi(source, [source.need_target()], [0, 1])
    matrix = read_phi(source, source.need_shadows(), [0, 1])
    auc = pick(finding, "auc", records="all")
    assert auc.parameters["draws"] == 7
    assert auc.ci_low is not None
    assert auc.value is not None
    assert auc.ci_high is not None
    assert auc.ci_low < auc.value < auc.ci_high
    everything = []
    for subset in range(60):
        order = np.random.default_rng(subset).permutation(SHADOWS)
        ((_, fits),) = growing(matrix.phi, matrix.member, order, [4])
        score = scores_of(target.phi[0].astype(float), fits, "online", "pooled")
        everything.append(evaluate(score, target.member[0], ())[0].value)
    assert min(everything) <= auc.value <= max(everything)
    again = shadow_curve(source, ("lira",), counts=(4,), draws=7, seed=3, fpr=(0.1,))
    assert again == finding
    assert shadow_curve(source, ("lira",), counts=(4,), draws=7, seed=4, fpr=(0.1,)) != finding


@pytest.mark.parametrize(("shadows", "number"), [(32, 16), (32, 4), (12, 9)])
def test_another_set_of_shadow_models_lies_in_the_interval(shadows: int, number: int) -> None:
    """Success that is the mean of what each run adds, as far as the run's part in it goes; 95% of new sets lie inside."""
    rng = np.random.default_rng(4)
    held, widths = [], []
    for _ in range(400):
        runs = rng.gamma(2, 0.05, shadows)
        drawn = [float(rng.permutation(runs)[:number].mean()) for _ in range(10)]
        low, high = another_set(drawn, number, shadows)
        new = rng.gamma(2, 0.05, (20, number)).mean(axis=1)
        held.append(((low <= new) & (new <= high)).mean())
        widths.append(high - low)
    assert np.mean(held) >= 0.93
    assert np.mean(widths) < 1.9 * 2 * 1.96 * 0.05 * np.sqrt(
        2 / number
    )  # Student's t of 10, and the mean's own error


def test_all_of_the_shadow_models_say_nothing_of_another_set() -> None:
    assert another_set([0.6, 0.7], 8, 8) == (0, 1)
    assert another_set([0.6], 4, 8) == (0, 1)


def test_one_shadow_with_and_one_without_each_record_do(lake_of: MakeLake) -> None:
    keep, phi = arrays(2, shadows=2, effect=30)
    keep[2] = ~keep[1]
    rng = np.random.default_rng(7)
    phi = (rng.normal(0, 1, phi.shape) + 30 * keep[:, :, None]).astype(np.float32)
    with open_source(lake_of(keep, phi), "tests") as opened:
        finding = shadow_curve(opened, ("lira",))
    auc = pick(finding, "auc", shadows=2, records="all")
    assert (auc.value, auc.n, auc.parameters["coverage"]) == (1.0, SAMPLES, 1.0)
    assert pick(finding, "shadows_to_reach", records="all", auc=0.9).value == 2


def test_shadows_to_reach(source: Source) -> None:
    finding = shadow_curve(source, ("lira",), draws=5, reach=(0.55, 1.0))
    curve = {
        m.parameters["shadows"]: m
        for m in finding.metrics
        if m.metric == "auc" and m.parameters["records"] == "all"
    }
    reached = [n for n, m in curve.items() if m.value is not None and m.value >= 0.55]
    found = pick(finding, "shadows_to_reach", records="all", auc=0.55)
    assert found.value == min(reached)
    assert found.ci_low is not None
    assert found.ci_low <= found.value
    never = pick(finding, "shadows_to_reach", records="all", auc=1.0)
    assert (never.value, never.ci_low, never.ci_high) == (None, None, None)


def test_a_null_signal_stays_at_half(lake_of: MakeLake) -> None:
    keep, phi = arrays(5, shadows=16, effect=0)
    with open_source(lake_of(keep, phi), "tests") as opened:
        finding = shadow_curve(opened, ("lira",), draws=4)
    whole = pick(finding, "auc", shadows=16, records="all")
    assert whole.ci_low is not None
    assert whole.ci_high is not None
    assert whole.ci_low < 0.5 < whole.ci_high


def test_memorization_does_not_look_at_the_target(lake_of: MakeLake) -> None:
    keep, phi = arrays(6)
    turned = phi.copy()
    turned[0] *= -1
    notes = []
    for values in (phi, turned):
        with open_source(lake_of(keep, values), "tests") as opened:
            notes.append(shadow_curve(opened, ("lira",), counts=(4,), draws=2).notes)
    assert notes[0] == notes[1]


def test_without_memorization_all_records_are_left(lake_of: MakeLake) -> None:
    keep, phi = arrays(6)
    with open_source(lake_of(keep, phi, correct=None), "tests") as opened:
        finding = shadow_curve(opened, ("lira",), draws=2)
    assert {m.parameters["records"] for m in finding.metrics} == {"all"}
    assert "no record can be said to be memorized" in finding.notes[0]


@pytest.mark.parametrize(
    ("scores", "options", "text"),
    [
        (("rmia",), {}, "not for rmia"),
        (("lira[center=median]",), {}, "not for lira"),
        (("lira",), {"counts": (11,)}, "11 shadow runs cannot be drawn: there are 10"),
        (("lira",), {"counts": (0,)}, "0 shadow runs cannot be drawn"),
        (("lira",), {"draws": 0}, "at least 1 draw"),
        (("lira",), {"top": 0.0}, "top is a share"),
        (("lira",), {"fpr": (1.0,)}, "false-positive rate"),
        (("lira",), {"reach": (2.0,)}, "AUC to reach"),
    ],
)
def test_wrong_options(source: Source, scores: tuple[str, ...], options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidOption, match=text):
        shadow_curve(source, scores, **options)


def test_one_run_alone_scores_nothing_online(source: Source) -> None:
    with pytest.raises(NotEnoughData, match="none of 3 draws of up to 1 shadow runs"):
        shadow_curve(source, ("lira",), counts=(1,), draws=3)
    assert shadow_curve(source, ("lira[mode=offline]",), counts=(1,), draws=3).metrics


def test_chart(source: Source) -> None:
    finding = run_evaluation(source, find_evaluation("shadow-curve"), (), {"draws": 2})
    assert "all records: 0." in shadow_curve_chart(finding).to_dict()["description"]
    assert shadow_curve_chart(Finding(())).to_dict()
