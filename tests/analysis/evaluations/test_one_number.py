"""The same quantity has the same interval wherever it is printed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from findings import pick
from losslake.analysis.evaluations.agreement import TRUTH, agreement, spearman
from losslake.analysis.evaluations.by_group import by_group
from losslake.analysis.evaluations.compare import compare
from losslake.analysis.evaluations.defences import defences
from losslake.analysis.evaluations.onion import onion
from losslake.analysis.evaluations.per_model import per_model
from losslake.analysis.gate.check import check_rules
from losslake.analysis.gate.rules import Rule
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.analysis.source import Source
from losslake.analysis.statistics.metric import Metric
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]
SCORES = ("lira", "loss")
FPRS = (0.02, 0.1, 0.3)
RECORDS = 240


@pytest.fixture(scope="module")
def lake(lake_of: MakeLake) -> Lake:
    """Experiments "tests", "defended" and "whole"; every record has a score of every attack."""
    rng = np.random.default_rng(0)
    keep = rng.random((9, RECORDS)) < 0.5
    keep[1:3], keep[3:5] = True, False
    phi = rng.normal(0, 1, keep.shape) + rng.normal(0, 1, RECORDS) + keep
    made = lake_of(keep, phi)
    lake_of(keep, phi / 2 + rng.normal(0, 1, keep.shape), lake=made, experiment="defended")
    whole = np.hstack([keep, rng.random((9, 5)) < 0.5])
    whole[1:3], whole[3:5] = True, False
    return lake_of(whole, rng.normal(0, 1, whole.shape) + whole, lake=made, experiment="whole")


def known(metric: Metric) -> tuple[float | None, ...]:
    return metric.value, metric.ci_low, metric.ci_high, metric.n


def said(source: Source, score: str, fpr: float) -> Iterator[tuple[str, Metric]]:
    """Everywhere the TPR at an FPR is printed."""
    at = {"score": score, "fpr": fpr}
    other = next(name for name in SCORES if name != score)
    yield "compare", pick(compare(source, (other,), against=score, fpr=fpr), "vulnerable")
    alike = agreement(source, SCORES, fpr=fpr)
    yield "agreement", pick(alike, "agreement", first=TRUTH, second=score, among="members")
    for of in ("group", "all"):
        parted = by_group(source, (score,), by="label", fpr=(fpr,), threshold_from=of)  # type: ignore[arg-type]
        yield "by-group", pick(parted, "tpr_at_fpr", group="all", **at)
    yield "per-model", pick(per_model(source, (score,), fpr=(fpr,)), "tpr_at_fpr", run="run-0000")
    beside = defences(source, (score,), with_="defended", fpr=(fpr,))
    yield "defences", pick(beside, "tpr_at_fpr", experiment="tests", **at)
    (verdict,) = check_rules(source, [Rule("tpr", score, 0.5, fpr=fpr)])
    assert verdict.metric is not None
    yield "gate", verdict.metric


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("fpr", FPRS)
def test_tpr(lake: Lake, score: str, fpr: float) -> None:
    with open_source(lake, "tests") as source:
        scored = run_analysis(source, find(score), fprs=(fpr,))
        expected = next(m for m in scored.metrics if m.metric == "tpr_at_fpr")
        assert expected.value is not None
        for where, metric in said(source, score, fpr):
            assert known(metric) == pytest.approx(known(expected)), where


@pytest.mark.parametrize("score", SCORES)
def test_tpr_before_records_were_removed(lake: Lake, score: str) -> None:
    with open_source(lake, "whole") as source:
        scored = run_analysis(source, find(score), fprs=FPRS)
    with open_source(lake, "tests") as source:
        peeled = onion(source, (score,), before="whole", fpr=FPRS)
    for expected in scored.metrics:
        if expected.metric == "tpr_at_fpr":
            found = pick(peeled, "exposed_with_removed", fpr=expected.parameters["fpr"])
            assert known(found) == pytest.approx(known(expected))


def test_auc(lake: Lake) -> None:
    with open_source(lake, "tests") as source:
        for score in SCORES:
            expected = next(m for m in run_analysis(source, find(score)).metrics if m.metric == "auc")
            places = {
                "by-group": pick(by_group(source, (score,), by="label"), "auc", group="all"),
                "per-model": pick(per_model(source, (score,)), "auc", run="run-0000"),
                "defences": pick(
                    defences(source, (score,), with_="defended"), "auc", experiment="tests", score=score
                ),
                "gate": check_rules(source, [Rule("auc", score, 0.5)])[0].metric,
            }
            for where, metric in places.items():
                assert metric is not None
                assert known(metric) == pytest.approx(known(expected)), where


@pytest.mark.parametrize("among", ["all", "members", "non-members"])
def test_spearman(lake: Lake, among: str) -> None:
    with open_source(lake, "tests") as source:
        direct = pick(spearman(source, SCORES, among=among), "spearman")  # type: ignore[arg-type]
        beside = pick(compare(source, ("loss",), against="lira", among=among), "spearman")  # type: ignore[arg-type]
    assert known(direct) == pytest.approx(known(beside))
