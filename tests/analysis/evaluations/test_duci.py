"""Shares of a data set that was used: the formula, coverage of the interval, the evaluation on a lake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from losslake.analysis.charts.bounds import usage_shares
from losslake.analysis.evaluations.duci import best_threshold, crossed_thresholds, duci, usage
from losslake.analysis.scoring.catalogue import open_source
from losslake.analysis.source import Source
from losslake.analysis.statistics.roc import roc, split
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from scipy.stats import binom

MakeLake = Callable[..., Lake]
Flags = npt.NDArray[np.bool_]


def named(share: float, n: int = 1000) -> Flags:
    return np.arange(n) < round(share * n)


def rates(*of_each: tuple[float, float], n: int = 500) -> npt.NDArray[np.float64]:
    return np.array([(tpr, fpr, n, n) for tpr, fpr in of_each], dtype=np.float64)


def test_the_formula() -> None:
    stand_ins = rates((0.8, 0.1), (0.84, 0.14), (0.76, 0.06))
    found = usage(named(0.45), stand_ins)
    decisions = named(0.45).astype(float)
    assert found.value == pytest.approx(((decisions - 0.1) / (0.8 - 0.1)).mean(), abs=1e-12)
    assert (found.tpr, found.fpr) == (pytest.approx(0.8), pytest.approx(0.1))
    # The ends are where the test just refutes (Fieller); the delta method divided by a TPR - FPR taken for known.
    # t with 2 degrees of freedom is 4.3027.

    def refuted(share: float) -> bool:
        mixed = share * stand_ins[:, 0] + (1 - share) * stand_ins[:, 1]
        between = np.var(mixed, ddof=1)
        single = (share**2 * 0.8 * 0.2 + (1 - share) ** 2 * 0.1 * 0.9) / 500
        own = (share * 0.8 * 0.2 + (1 - share) * 0.1 * 0.9) / 1000
        variance = own + max(0, between - single) + max(between, single) / 3
        return bool(abs(0.45 - mixed.mean()) > 4.302652729911275 * variance**0.5)

    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < 0.5 < found.high < 1
    for end, outwards in ((found.low, -1e-3), (found.high, 1e-3)):
        assert not refuted(end)
        assert refuted(end + outwards)


def test_a_threshold_is_chosen_on_other_stand_ins() -> None:
    """Of scores without a signal the threshold that was chosen on them has a gap, that of the others has none."""
    gaps = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        reference = [(rng.normal(size=200), rng.random(200) < 0.5) for _ in range(4)]
        for (score, member), threshold in zip(reference, crossed_thresholds(reference), strict=True):
            own = best_threshold(score, member)
            gaps.append([(score[member] > t).mean() - (score[~member] > t).mean() for t in (own, threshold)])
    chosen, crossed = np.mean(gaps, axis=0)
    assert chosen > 0.08
    assert abs(crossed) < 0.02
    alone = [(np.arange(4.0), np.arange(4) > 1)]
    assert crossed_thresholds(alone) == [best_threshold(*alone[0])]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("signal", [0.1, 0.4])
def test_a_weak_signal_gives_no_biased_share(share: float, signal: float) -> None:
    """Members' scores are higher by ``signal`` standard deviations; before, the share was off by up to 0.2 on average."""
    trials, n, found = 120, 600, []
    for seed in range(trials):
        rng = np.random.default_rng([seed, 11])

        def model(member: Flags, rng: np.random.Generator = rng) -> tuple[npt.NDArray[np.float64], Flags]:
            return rng.normal(rng.normal(0, 0.03), 1, n) + signal * member, member

        reference = [model(rng.random(n) < 0.5) for _ in range(8)]
        target, _ = model(rng.permutation(n) < round(share * n))
        thresholds = crossed_thresholds(reference)
        told = [
            ((score[member] > t).mean(), (score[~member] > t).mean(), member.sum(), (~member).sum())
            for (score, member), t in zip(reference, thresholds, strict=True)
        ]
        found.append(usage(target[:, None] > np.array(thresholds), np.array(told, dtype=np.float64)))
    covered = sum((one.low or 0) <= share <= (1 if one.high is None else one.high) for one in found)
    assert covered >= binom.ppf(0.001, trials, 0.95)
    values = [one.value for one in found if one.value is not None]
    if signal < 0.2:
        assert len(values) < trials / 3, "mostly nothing is said"
    else:
        assert len(values) > trials * 0.8
        assert np.mean(values) == pytest.approx(share, abs=0.06)


def test_shares_beyond_0_and_1_are_clipped() -> None:
    stand_ins = rates((0.8, 0.2), (0.8, 0.2))
    assert usage(named(0.05), stand_ins).value == 0
    assert usage(named(0.05), stand_ins).low == 0
    assert usage(named(0.95), stand_ins).value == 1
    assert usage(named(0.95), stand_ins).high == 1


def test_what_cannot_be_said() -> None:
    for stand_ins in (
        rates((0.3, 0.3), (0.4, 0.4)),
        rates((0.2, 0.5)),
        rates((0.32, 0.3), (0.3, 0.31)),
        rates(),
    ):
        found = usage(named(0.4), stand_ins.reshape(-1, 4))
        assert (found.value, found.low, found.high) == (None, 0.0, 1.0)
    one = usage(named(0.5), rates((0.8, 0.2)))
    assert one.value == pytest.approx(0.5)
    assert (one.low, one.high) == (None, None)
    assert usage(named(0.5)[:0], rates((0.8, 0.2))).value is None


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_the_interval_covers(share: float, spread: float) -> None:
    """Models whose rates differ by ``spread`` from one to the next; the true share is in the interval 95% of the time."""
    trials, covered, values = 300, 0, []
    for seed in range(trials):
        rng = np.random.default_rng([seed, 3])
        shifts = rng.normal(0, spread, (7, 2))
        models = [np.clip((0.6 + shift[0], 0.3 + shift[1]), 0, 1) for shift in shifts]
        stand_ins = np.array(
            [
                (rng.binomial(200, tpr) / 200, rng.binomial(200, fpr) / 200, 200, 200)
                for tpr, fpr in models[1:]
            ]
        )
        members = round(400 * share)
        decisions = rng.random(400) < np.where(np.arange(400) < members, *models[0])
        found = usage(decisions, stand_ins)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= share <= found.high
        # Also where the interval holds everything, and so no value is given.
        values.append(float(np.clip((decisions.mean() - found.fpr) / (found.tpr - found.fpr), 0, 1)))
        assert found.value is None or found.value == pytest.approx(values[-1])
    assert covered >= binom.ppf(0.001, trials, 0.95)
    if 0 < share < 1:
        assert np.median(np.array(values, dtype=float)) == pytest.approx(share, abs=0.05)


def test_the_threshold_sets_members_apart_best() -> None:
    rng = np.random.default_rng(0)
    member = rng.random(300) < 0.5
    score = np.round(rng.normal(size=300) + member, 1)
    threshold = best_threshold(score, member)
    gaps = [(score[member] > t).mean() - (score[~member] > t).mean() for t in np.unique(score) - 1e-6]
    assert (score[member] > threshold).mean() - (score[~member] > threshold).mean() == pytest.approx(
        max(gaps)
    )
    assert not (np.ones(4) > best_threshold(-np.arange(4.0), np.arange(4) > 1)).any() or max(gaps) > 0


SAMPLES = 240


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A target on 3/4 of group a and 1/4 of group b (1/2 of the labels), shadows on halves of everything."""
    rng = np.random.default_rng(0)
    lake = Lake.open(tmp_path_factory.mktemp("duci") / "lake", create=True)
    group = np.repeat(["a", "b", ""], [120, 100, 20])
    labels = (np.arange(SAMPLES) % 2).astype(np.int32)
    lake.create_experiment(
        "tests", pa.table({"label": labels, "group": pa.array([name or None for name in group.tolist()])})
    )
    chance = np.array([{"a": 0.75, "b": 0.25, "": 0.5}[name] for name in group.tolist()])
    for number in range(9):
        member = rng.random(SAMPLES) < (0.5 if number else chance)
        if number == 8:
            member[:] = True  # no stand-in: without non-members
        phi = rng.normal(0, 1, SAMPLES) + 3 * member
        with lake.write_run("tests", f"run-{number}", members=member) as writer:
            writer.append_signals(
                np.arange(SAMPLES),
                np.zeros(SAMPLES, np.int16),
                labels,
                loss=np.logaddexp(0, -phi),
                phi=phi,
                correct=phi > 0,
            )
            writer.commit(RunInfo(role="shadow" if number else "target"))
    return lake


@pytest.fixture
def source(lake: Lake) -> Iterator[Source]:
    with open_source(lake, "tests") as opened:
        yield opened


def test_shares_of_all_and_of_each_group(source: Source, lake: Lake) -> None:
    finding = duci(source, ("loss", "lira"), stand_ins=3, by="group")
    assert [(one.parameters["score"], one.parameters.get("group")) for one in finding.metrics] == [
        (score, group) for score in ("loss", "lira") for group in (None, "a", "b")
    ]
    member = np.array(lake.sql("select member from signals where run = 'run-0' order by sample_id")["member"])
    for metric in finding.metrics:
        group = metric.parameters.get("group")
        own = {None: slice(None), "a": slice(0, 120), "b": slice(120, 220)}[group]
        # Two records were never in, or never out of, a shadow run: lira has no score of them.
        missing = 0 if metric.parameters["score"] == "loss" else 2
        assert metric.parameters["true_share"] == pytest.approx(member[own].mean(), abs=1e-9 + missing / 80)
        assert len(member[own]) - missing <= (metric.n or 0) <= len(member[own])
        assert metric.value is not None
        assert metric.ci_low is not None
        assert metric.ci_high is not None
        assert metric.ci_low <= metric.parameters["true_share"] <= metric.ci_high
        assert abs(metric.value - metric.parameters["true_share"]) < 0.1
        assert metric.parameters["stand_ins"] == 3
    assert finding.notes == (
        "lira: 2 of 240 samples have no score: no shadow run trained on them, or none did without them",
    )
    text = usage_shares(finding).to_dict()["description"]
    assert "all records by loss" in text
    assert "group b by lira" in text
    by_label = duci(source, ("loss",), by="label")
    assert [one.parameters.get("label") for one in by_label.metrics] == [None, "0", "1"]
    assert by_label.metrics[0].parameters["stand_ins"] == 7, "all that have members and non-members"


def test_a_score_by_hand(source: Source) -> None:
    """Threshold, rates and share of the loss attack from the arrays."""
    rows = [
        source.rows(run, "signals", ["member", "loss"])
        for run in source.runs
        if run.run in ("run-0", "run-1", "run-4")
    ]
    (target, *others) = [
        (-frame["loss"].to_numpy().astype(float), frame["member"].to_numpy()) for frame in rows
    ]
    (metric,) = duci(source, ("loss",), stand_ins=2).metrics
    # Each stand-in at the threshold of the other one, and the target at both.
    crossed = [best_threshold(*other) for other in reversed(others)]
    pairs = list(zip(others, crossed, strict=True))
    tpr = np.mean([(score[member] > threshold).mean() for (score, member), threshold in pairs])
    fpr = np.mean([(score[~member] > threshold).mean() for (score, member), threshold in pairs])
    assert metric.parameters["tpr"] == pytest.approx(tpr)
    assert metric.parameters["fpr"] == pytest.approx(fpr)
    assert metric.parameters["threshold"] in crossed
    named_share = np.mean([target[0] > threshold for threshold in crossed])
    assert metric.value == pytest.approx((named_share - fpr) / (tpr - fpr))


def test_one_stand_in_has_no_interval(source: Source) -> None:
    finding = duci(source, ("loss",), stand_ins=1)
    assert (finding.metrics[0].ci_low, finding.metrics[0].ci_high) == (None, None)
    assert finding.metrics[0].value is not None
    assert any("one stand-in" in note for note in finding.notes)
    assert usage_shares(finding).to_dict()


def test_a_score_that_stand_ins_lack(source: Source, lake_of: MakeLake) -> None:
    rng = np.random.default_rng(0)
    keep = rng.random((4, 50)) < 0.5
    phi = rng.normal(size=keep.shape) + 4 * keep
    lake = lake_of(keep, phi, traces={"loss": rng.random((50, 4))})
    with open_source(lake, "tests") as opened:
        finding = duci(opened, ("lt-iqr", "loss"))
        assert [one.value is None for one in finding.metrics] == [True, False]
        assert "lt-iqr: no estimate" in finding.notes[0]
        with pytest.raises(NotEnoughData, match="no share can be estimated"):
            duci(opened, ("lt-iqr",))


def test_a_score_without_signal_says_nothing_of_the_share(lake_of: MakeLake) -> None:
    """It was an error for a score that never varies, and a share for noise by whose luck the threshold was chosen."""
    rng = np.random.default_rng(1)
    keep = rng.random((6, 60)) < 0.5
    for phi in (np.ones(keep.shape), rng.normal(size=keep.shape)):
        with open_source(lake_of(keep, phi), "tests") as opened:
            finding = duci(opened, ("loss",))
        (metric,) = finding.metrics
        assert (metric.value, metric.ci_low, metric.ci_high) == (None, 0.0, 1.0)
        assert any("tells members from non-members too little" in note for note in finding.notes)
        assert usage_shares(finding).to_dict()


def test_what_there_must_be(source: Source, lake_of: MakeLake, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="stand-ins is 0"):
        duci(source, ("loss",), stand_ins=0)
    keep = np.ones((3, 10), bool)
    keep[0, :5] = False
    lake = lake_of(keep, np.ones(keep.shape))
    with open_source(lake, "tests") as opened, pytest.raises(NotEnoughData, match="left out others"):
        duci(opened, ("loss",))
    keep[1:, ::2] = False
    lake = lake_of(keep, np.ones(keep.shape))
    with open_source(lake, "tests") as opened, pytest.raises(NotEnoughData, match="have no group"):
        duci(opened, ("loss",), by="group")


@pytest.mark.parametrize("decimals", [0, 1, 9])
@pytest.mark.parametrize("apart", [0.0, 0.4])
def test_the_best_threshold_is_that_of_the_whole_curve(decimals: int, apart: float) -> None:
    rng = np.random.default_rng(decimals)
    for records in [*range(2, 12), 60, 2000]:
        member = rng.permutation(records) < (records + 1) // 2
        score = np.round(rng.normal(size=records) + apart * member, decimals)
        score[rng.random(records) < 0.05] = np.nan
        members, others = split(score, member)
        if not len(members):
            continue
        curve = roc(members, others)
        best = curve.threshold[np.argmax(curve.tpr - curve.fpr)]
        assert best_threshold(score, member) == np.nextafter(best, -np.inf)
    assert best_threshold(np.arange(3.0), np.zeros(3, bool)) > 1e308  # no member to name
