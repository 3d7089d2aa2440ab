"""Agreement of scores against counting by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from findings import pick
from losslake.analysis.charts.agreement import agreement_matrix
from losslake.analysis.charts.pairs import Pairs, pairs_chart
from losslake.analysis.evaluations.agreement import agreement
from losslake.analysis.scores import Finding
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.analysis.source import Source
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.lake import Lake
from scipy.stats import binomtest

MakeLake = Callable[..., Lake]
NAMES = ("lira", "loss", "trace[aggregate=final]")


@pytest.fixture(scope="module")
def source(lake_of: MakeLake) -> Iterator[Source]:
    rng = np.random.default_rng(1)
    keep = rng.random((9, 100)) < 0.5
    keep[1:3], keep[3:5] = True, False
    keep[:, 5] = True  # no LiRA score
    phi = rng.normal(0, 2, keep.shape) + 2 * keep
    loss = np.round(rng.random((100, 5)), 1)  # ties
    loss[7, 2] = np.nan  # no trace score
    with open_source(lake_of(keep, phi.astype(np.float32), traces={"loss": loss}), "tests") as opened:
        yield opened


def answers(source: Source, fpr: float) -> tuple[dict[str, npt.NDArray[np.bool_]], npt.NDArray[np.bool_]]:
    """Who is named by each score, and who was a member, of the samples that have all scores."""
    frames = {
        "lira": run_analysis(source, find("lira")).scores.frame,
        "loss": run_analysis(source, find("loss")).scores.frame,
        "trace[aggregate=final]": run_analysis(source, find("trace"), {"aggregate": "final"}).scores.frame,
    }
    scores = {}
    for name, frame in frames.items():
        scores[name] = np.full(100, np.nan)
        scores[name][frame["sample_id"]] = frame["score"].fill_null(np.nan).to_numpy()
    member = frames["loss"]["member"].to_numpy()
    known = ~np.isnan(np.stack(list(scores.values()))).any(axis=0)
    named = {}
    for name, score in scores.items():
        others = score[known & ~member]
        threshold = min(s for s in others if np.mean(others > s) <= fpr)
        named[name] = (score > threshold)[known]
    return named, member[known]


@pytest.mark.parametrize("fpr", [0.3, 0.1])
def test_pairs_by_counting(source: Source, fpr: float) -> None:
    finding = agreement(source, NAMES, fpr=fpr)
    named, member = answers(source, fpr)
    for first, second in (NAMES[:2], NAMES[::2], NAMES[1:]):
        for among, side in (("members", member), ("non-members", ~member)):
            one, other = named[first][side], named[second][side]
            found = pick(finding, "agreement", first=first, second=second, among=among)
            alike = sum(a == b for a, b in zip(one, other, strict=True))
            exact = binomtest(alike, len(one)).proportion_ci(method="exact")
            assert (found.value, found.n) == (pytest.approx(alike / len(one)), len(one))
            assert found.ci_low is not None
            assert found.ci_high is not None
            if among == "non-members":
                assert (found.ci_low, found.ci_high) == pytest.approx((exact.low, exact.high))
            else:  # the thresholds are uncertain too: tests/analysis/statistics/test_alike.py
                assert found.ci_low <= exact.low < exact.high <= found.ci_high
            chance = np.mean([a == b for a in one for b in other])
            assert found.parameters["by_chance"] == pytest.approx(chance)
            shared = pick(finding, "jaccard", first=first, second=second, among=among)
            both, either = sum(one & other), sum(one | other)
            assert (shared.value, shared.n) == (pytest.approx(both / either), either)


def test_against_the_truth_it_is_tpr_and_one_minus_fpr(source: Source) -> None:
    finding = agreement(source, NAMES, fpr=0.3)
    named, member = answers(source, 0.3)
    for name in NAMES:
        caught = pick(finding, "agreement", first="truth", second=name, among="members")
        spared = pick(finding, "agreement", first="truth", second=name, among="non-members")
        assert caught.value == pytest.approx(named[name][member].mean())
        assert spared.value == pytest.approx(1 - named[name][~member].mean())
        assert spared.value is not None
        assert spared.value >= 0.7


def test_equal_scores_agree_wholly(source: Source) -> None:
    finding = agreement(source, ("lira", "lira[mode=online]"), fpr=0.2)
    for among in ("members", "non-members"):
        assert pick(finding, "agreement", first="lira", second="lira[mode=online]", among=among).value == 1
        assert pick(finding, "jaccard", among=among).value == 1


def test_nobody_named_has_no_jaccard(source: Source) -> None:
    finding = agreement(source, ("lira", "loss"), fpr=0.001)
    nobody = pick(finding, "jaccard", among="non-members")
    assert (nobody.value, nobody.ci_low, nobody.ci_high, nobody.n) == (None, 0, 1, 0)
    assert any("cannot resolve an FPR of 0.001" in note for note in finding.notes)


def test_what_cannot_be_done(source: Source, lake_of: MakeLake) -> None:
    with pytest.raises(InvalidOption, match="two scores or more"):
        agreement(source, ("lira", "lira"))
    with pytest.raises(InvalidOption, match="between 0 and 1"):
        agreement(source, NAMES, fpr=0)
    keep = np.array([[True, True], [True, False]])
    with (
        open_source(lake_of(keep, np.zeros((2, 2)), traces={"loss": np.ones((2, 3))}), "tests") as opened,
        pytest.raises(NotEnoughData, match="no non-member"),
    ):
        agreement(opened, ("loss", "lt-iqr"))


def test_chart(source: Source) -> None:
    finding = agreement(source, NAMES, fpr=0.1)
    spec = agreement_matrix(finding).to_dict()
    assert spec["title"]["text"] == "Agreement of the scores at FPR 10%"
    upper = pick(finding, "agreement", first="lira", second="loss", among="members")
    assert f"lira and loss among members: {upper.value:.2f}" in spec["description"]
    assert "loss and lira among non-members" in spec["description"]
    assert agreement_matrix(Finding(())).to_dict()


@pytest.mark.parametrize("size", [0, 30, 9000])
def test_pairs_chart(size: int) -> None:
    rng = np.random.default_rng(0)
    frames = [
        pl.DataFrame(
            {"sample_id": np.arange(size), "member": rng.random(size) < 0.5, "score": rng.normal(size=size)}
        )
        for _ in range(2)
    ]
    inside = frames[0]["member"].to_numpy()
    x, y = (frame["score"].to_numpy()[inside] for frame in frames)
    pairs = Pairs(np.flatnonzero(inside), x, y, np.zeros(len(x), bool), "lira", "loss", what="members")
    spec = pairs_chart(pairs, "loss against lira").to_dict()
    assert f"{int(frames[0]['member'].sum()):,} members" in spec["description"]
