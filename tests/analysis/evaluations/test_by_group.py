"""AUC and TPR within groups against the same measures of each group taken alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import vl_convert
from losslake.analysis.attacks.lira import lira
from losslake.analysis.charts.groups import MOST_GROUPS, auc_by_group
from losslake.analysis.evaluations.by_group import by_group
from losslake.analysis.measures.memorization import memorization
from losslake.analysis.scores import Finding
from losslake.analysis.scoring.catalogue import open_source
from losslake.analysis.statistics.metric import Metric
from losslake.analysis.statistics.roc import evaluate, split, threshold_at_fpr, tpr_at_fpr
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.lake import Lake
from scipy.stats import binomtest

MakeLake = Callable[..., Lake]
SAMPLES = 400


def arrays(seed: int, runs: int = 13) -> dict[str, Any]:
    """A common group whose phi hardly depends on membership and a rare one, a tenth, that is memorized."""
    rng = np.random.default_rng(seed)
    rare = np.arange(SAMPLES) % 10 == 0
    keep = rng.random((runs, SAMPLES)) < 0.5
    keep[1:3], keep[3:5] = True, False
    effect = np.where(rare, 9.0, 0.3)
    phi = np.where(rare, -4.5, 3.0) + effect * keep + rng.normal(0, 1, keep.shape)
    group = np.where(rare, "rare", "common").tolist()
    return {
        "keep": keep,
        "phi": phi,
        "columns": {"group": group, "decade": (np.arange(SAMPLES) // 100).tolist()},
    }


@pytest.fixture(scope="module")
def lake(lake_of: MakeLake) -> Lake:
    return lake_of(labels=(np.arange(SAMPLES) % 3).astype(np.int32), **arrays(1))


def of(finding: Finding, name: str, group: str, **where: object) -> Metric:
    found = [
        metric
        for metric in finding.metrics
        if metric.metric == name
        and metric.parameters["group"] == group
        and all(metric.parameters.get(key) == value for key, value in where.items())
    ]
    assert len(found) == 1
    return found[0]


def same(found: Metric, expected: Metric) -> None:
    assert (found.value, found.ci_low, found.ci_high, found.n) == (
        expected.value,
        expected.ci_low,
        expected.ci_high,
        expected.n,
    )


def test_each_group_is_judged_as_if_it_were_alone(lake: Lake) -> None:
    with open_source(lake, "tests") as source:
        finding = by_group(source, ("lira",), by="group", fpr=(0.01, 0.1))
        score, member = lira(source).arrays()
    rare = np.arange(SAMPLES) % 10 == 0
    for group, inside in {"all": rare | True, "rare": rare, "common": ~rare}.items():
        area, *rates = evaluate(score[inside], member[inside], (0.01, 0.1))
        same(of(finding, "auc", group), area)
        for fpr, rate in zip((0.01, 0.1), rates, strict=True):
            same(of(finding, "tpr_at_fpr", group, fpr=fpr), rate)
            assert of(finding, "tpr_at_fpr", group, fpr=fpr).parameters["resolved"] is (
                group != "rare" or fpr > 0.05
            )
    assert (of(finding, "auc", "rare").value or 0) > 0.99 > 0.7 > (of(finding, "auc", "common").value or 1)
    assert of(finding, "tpr_at_fpr", "rare", fpr=0.01).value is None
    assert [m.parameters["group"] for m in finding.metrics if m.metric == "auc"] == ["all", "common", "rare"]
    sizes = [
        m.parameters["members"] + m.parameters["non_members"] for m in finding.metrics if m.metric == "auc"
    ]
    assert sizes == [400, 360, 40]
    assert any(
        "the non-members of rare are too few for some FPR of 0.01, 0.1" in note for note in finding.notes
    )


def test_one_threshold_for_all(lake: Lake) -> None:
    with open_source(lake, "tests") as source:
        finding = by_group(source, ("lira",), by="group", fpr=(0.1,), threshold_from="all")
        score, member = lira(source).arrays()
    rare = np.arange(SAMPLES) % 10 == 0
    everyone = split(score, member)[1]
    at = threshold_at_fpr(everyone, 0.1)
    for group, inside in {"rare": rare, "common": ~rare}.items():
        members, others = split(score[inside], member[inside])
        same(of(finding, "tpr_at_fpr", group), tpr_at_fpr(members, everyone, 0.1))
        alarms = of(finding, "fpr_at_threshold", group)
        count = int((others > at).sum())
        exact = binomtest(count, len(others)).proportion_ci(0.95)
        assert (alarms.value, alarms.n) == (count / len(others), len(others))
        np.testing.assert_allclose(
            [alarms.ci_low, alarms.ci_high], [exact.low, exact.high], rtol=1e-6, atol=1e-12
        )
        same(of(finding, "auc", group), evaluate(score[inside], member[inside], ())[0])
    # Of all records it is the rate itself, as near as the number of non-members lets it come.
    everybody = of(finding, "fpr_at_threshold", "all")
    assert (everybody.value, everybody.n) == (int((everyone > at).sum()) / len(everyone), len(everyone))


def test_singletons_are_the_memorized(lake: Lake) -> None:
    with open_source(lake, "tests") as source:
        finding = by_group(source, ("lira", "privacy-score"), threshold=0.6)
        mem = memorization(source).frame["score"].to_numpy()
        score, member = lira(source).arrays()
    chosen = mem > 0.6
    assert 30 < chosen.sum() <= 60
    same(of(finding, "auc", "singletons", score="lira"), evaluate(score[chosen], member[chosen], ())[0])
    assert (of(finding, "auc", "singletons", score="lira").value or 0) > 0.95
    assert finding.notes[0] == f"{chosen.sum()} of 400 samples are singletons: memorization above 0.6"
    assert of(finding, "auc", "others", score="privacy-score").n == 400 - chosen.sum()
    assert any(note.startswith("lira: few members or non-members in") for note in finding.notes)


def test_groups_by_label_and_by_a_column(lake: Lake) -> None:
    with open_source(lake, "tests") as source:
        labels = by_group(source, ("loss",), by="label")
        decades = by_group(source, ("loss",), by="decade")
    assert [m.parameters["group"] for m in labels.metrics if m.metric == "auc"] == ["all", "0", "1", "2"]
    assert [m.parameters["group"] for m in decades.metrics if m.metric == "auc"] == [
        "all",
        "0",
        "1",
        "2",
        "3",
    ]
    assert {of(decades, "auc", str(k)).n for k in range(4)} == {100}


def test_groups_by_subpopulation(lake_of: MakeLake) -> None:
    given = arrays(2)
    features = np.zeros((13, SAMPLES, 3), np.float32)
    features[0, ::10] = 5
    features[0, 1::10] = -5
    with open_source(lake_of(features=features, **given), "tests") as source:
        finding = by_group(source, ("lira",), by="subpopulation")
    names = [m.parameters["group"] for m in finding.metrics if m.metric == "auc"]
    assert names == ["all", "cluster 0", "cluster 1", "cluster 2"]
    assert [of(finding, "auc", name).n for name in names[1:]] == [320, 40, 40]


def test_a_null_signal_is_at_chance_in_every_group(lake_of: MakeLake) -> None:
    given = arrays(3)
    given["phi"] = np.random.default_rng(3).normal(size=given["keep"].shape)
    with open_source(lake_of(**given), "tests") as source:
        finding = by_group(source, ("lira",), by="decade")
    areas = [metric for metric in finding.metrics if metric.metric == "auc"]
    assert sum((m.ci_low or 0) <= 0.5 <= (m.ci_high or 0) for m in areas) >= len(areas) - 1


def test_groups_of_one_side_have_no_auc_and_records_in_none_are_counted(lake_of: MakeLake) -> None:
    given = arrays(4)
    keep = given["keep"]
    group = np.where(keep[0], "seen", "unseen").tolist()
    group[:7] = [None] * 7
    given["columns"] = {"group": group}
    with open_source(lake_of(**given), "tests") as source:
        finding = by_group(source, ("lira",), by="group", fpr=(0.1,))
        beside = by_group(source, ("lira",), by="group", fpr=(0.1,), threshold_from="all")
    assert of(finding, "auc", "seen").value is None
    assert (of(finding, "tpr_at_fpr", "seen").value, of(finding, "tpr_at_fpr", "seen").ci_high) == (None, 1)
    assert of(beside, "tpr_at_fpr", "seen").value is not None
    assert of(beside, "tpr_at_fpr", "unseen").value is None
    assert of(beside, "fpr_at_threshold", "unseen").n == sum(name == "unseen" for name in group)
    assert "lira: 7 scored samples belong to no group; they count under all only" in finding.notes
    vl_convert.vegalite_to_vega(auc_by_group(finding).to_dict())


def test_no_singleton_at_all(lake_of: MakeLake) -> None:
    given = arrays(5)
    given["phi"] = np.ones_like(given["phi"])
    with open_source(lake_of(**given), "tests") as source:
        finding = by_group(source, ("lira",))
    assert of(finding, "auc", "singletons").value is None
    assert finding.notes[0].startswith("0 of 400 samples are singletons")


def test_what_cannot_be_grouped_is_said(lake_of: MakeLake, lake: Lake) -> None:
    with open_source(lake, "tests") as source:
        with pytest.raises(
            InvalidOption, match=r"by 'colour'; choose singletons, .*\(label, split, group, decade\)"
        ):
            by_group(source, ("lira",), by="colour")
        with pytest.raises(NotEnoughData, match=r"no audit sample .* has a split"):
            by_group(source, ("lira",), by="split")
        with pytest.raises(InvalidOption, match="between 0 and 1, not 1"):
            by_group(source, ("lira",), fpr=(1.0,))
        with pytest.raises(InvalidOption, match="a threshold of 1 parts nothing"):
            by_group(source, ("lira",), threshold=1.0)
    columns = {"each": list(range(SAMPLES)), "list": [[1]] * SAMPLES}
    with open_source(lake_of(**{**arrays(6, runs=7), "columns": columns}), "tests") as source:
        with pytest.raises(InvalidOption, match="'each' has 400 values"):
            by_group(source, ("lira",), by="each")
        with pytest.raises(InvalidOption, match="groups are single values"):
            by_group(source, ("lira",), by="list")
    keep = arrays(6, runs=7)["keep"]
    with (
        open_source(lake_of(keep, np.zeros(keep.shape), roles=["shadow"] * 7), "tests") as source,
        pytest.raises(NotEnoughData, match="has no run of role target"),
    ):
        by_group(source, ("lira",))


@pytest.mark.parametrize("groups", [0, 3, 100])
def test_chart_shows_the_first_groups(groups: int) -> None:
    metrics = [
        Metric("auc", 0.6, 0.5, 0.7, 20, {"score": score, "group": group, "members": 9, "non_members": 11})
        for score in ("lira", "loss")
        for group in ("all", *(f"g{k}" for k in range(groups)))
    ]
    spec = auc_by_group(Finding(tuple(metrics) if groups else ())).to_dict()
    vl_convert.vegalite_to_vega(spec)
    assert (f"The first {MOST_GROUPS} of 100 groups." in spec["title"]["subtitle"]) == (groups == 100)
