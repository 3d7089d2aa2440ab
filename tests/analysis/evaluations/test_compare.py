"""Precision and recall at k, agreement and correlations of scores, against brute force."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from findings import pick
from losslake.analysis.evaluations.agreement import spearman
from losslake.analysis.evaluations.catalogue import EVALUATIONS, run_evaluation
from losslake.analysis.evaluations.compare import compare, expected_hits
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.analysis.source import Source
from losslake.analysis.statistics.roc import tpr_at_fpr
from losslake.store.errors import InvalidOption, NotEnoughData, NotFound
from losslake.store.lake import Lake
from scipy.stats import spearmanr

MakeLake = Callable[..., Lake]
FINAL = "trace[aggregate=final]"
SAMPLES = 80


def audited(seed: int = 0, shadows: int = 12) -> dict[str, npt.NDArray[np.generic]]:
    """keep, phi and traces of a target and shadow runs; the more exposed a sample, the wider its loss trace."""
    rng = np.random.default_rng(seed)
    keep = rng.random((shadows + 1, SAMPLES)) < 0.5
    keep[1:3], keep[3:5] = True, False
    effect = rng.gamma(1, 1.5, SAMPLES)
    phi = rng.normal(0, 1, SAMPLES) + effect * keep + rng.normal(0, 0.7, keep.shape)
    fall = np.linspace(1, 0, 8)
    loss = np.exp(-fall[::-1] * 3) + effect[:, None] * fall + rng.normal(0, 0.3, (SAMPLES, 8)) ** 2
    loss[:30, -1] = np.round(loss[:30, -1], 1)  # ties in the final loss
    loss[7, 3] = np.nan  # no trace score
    keep[:, 9] = True  # no LiRA score
    return {"keep": keep, "phi": phi.astype(np.float32), "traces": {"loss": loss.astype(np.float32)}}


@pytest.fixture(scope="module")
def source(lake_of: MakeLake) -> Iterator[Source]:
    population = np.arange(SAMPLES) >= 76
    data = audited()
    data["keep"] &= ~population
    with open_source(lake_of(**data, population=population), "tests") as opened:
        yield opened


def frame_of(source: Source, name: str, **options: object) -> pl.DataFrame:
    return run_analysis(source, find(name), options).scores.frame


@pytest.fixture(scope="module")
def columns(source: Source) -> dict[str, npt.NDArray[np.float64]]:
    """The scores by sample id, NaN where there is none, and who was a member."""
    frames = {
        "lt-iqr": frame_of(source, "lt-iqr"),
        FINAL: frame_of(source, "trace", aggregate="final"),
        "lira": frame_of(source, "lira"),
        "memorization": frame_of(source, "memorization"),
    }
    found = {}
    for name, frame in frames.items():
        found[name] = np.full(SAMPLES, np.nan)
        found[name][frame["sample_id"]] = frame["score"].to_numpy()
    found["member"] = source.rows(source.need_target(), "signals", ["member"])["member"].to_numpy()
    return found


# --- precision and recall at k ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "score",
    [
        [3, 1, 2, 5, 4, 0],
        [1, 1, 1, 1, 1, 1],
        [2, 2, 1, 1, 1, 0],
        [5, 3, 3, 3, 3, 0],
        [-np.inf, 0, 0, 1, 1, 1],
    ],
)
@pytest.mark.parametrize("k", range(1, 7))
def test_ties_at_the_edge_count_as_every_order_on_average(score: list[float], k: int) -> None:
    vulnerable = np.array([True, False, True, True, False, False])
    hits = []
    for order in permutations(range(6)):  # every way to break ties
        ranked = sorted(order, key=lambda n: -score[n])  # stable: ties stay in the order of the permutation
        hits.append(sum(vulnerable[n] for n in ranked[:k]))
    assert expected_hits(np.array(score, float), vulnerable, k) == pytest.approx(np.mean(hits), rel=1e-12)


@pytest.mark.parametrize("fpr", [0.1, 0.25, 0.001])
def test_vulnerable_precision_and_recall(source: Source, columns: dict[str, npt.NDArray], fpr: float) -> None:
    finding = compare(source, ("lt-iqr", FINAL), fpr=fpr, k=(0.001, 0.1, 0.29, 1.0))
    scored = ~np.isnan([columns[name] for name in ("lt-iqr", FINAL, "lira")]).any(axis=0)
    member = columns["member"].astype(bool)
    others = columns["lira"][scored & ~member]
    # The lowest threshold that so few of the target's own non-members exceed.
    threshold = min(t for t in others if np.mean(others > t) <= fpr)
    inside = np.flatnonzero(scored & member)
    vulnerable = columns["lira"][inside] > threshold
    share = pick(finding, "vulnerable")
    assert share.value == pytest.approx(vulnerable.mean())
    assert (share.n, share.parameters["records"]) == (len(inside), vulnerable.sum())
    assert 0 < vulnerable.sum() < len(inside)
    rate = tpr_at_fpr(np.sort(columns["lira"][inside]), np.sort(others), fpr)
    assert (share.ci_low, share.ci_high) == (rate.ci_low, rate.ci_high)  # the same number, the same interval
    rng = np.random.default_rng(1)
    for name in ("lt-iqr", FINAL):
        for of_members in (0.1, 0.29, 1.0):
            k = int(of_members * len(inside))
            draws = []
            for _ in range(400):
                shuffled = rng.permutation(len(inside))
                ranked = shuffled[np.argsort(-columns[name][inside][shuffled], kind="stable")]
                draws.append(vulnerable[ranked[:k]].sum())
            precision = pick(finding, "precision_at_k", score=name, k=of_members)
            recall = pick(finding, "recall_at_k", score=name, k=of_members)
            assert precision.parameters["records"] == precision.n == k
            assert precision.value == pytest.approx(
                np.mean(draws) / k, abs=5 * np.std(draws) / 20 / k + 1e-12
            )
            assert recall.value == pytest.approx(precision.value * k / vulnerable.sum())
            assert precision.ci_low is not None
            assert precision.ci_low <= precision.value
            if of_members == 1.0:  # all members: the share of vulnerable ones, which is the attack's TPR
                assert (precision.ci_low, precision.ci_high) == pytest.approx(
                    (share.ci_low, share.ci_high), abs=0.01
                )
        assert pick(finding, "precision_at_k", score=name, k=0.001).value is None
        assert pick(finding, "recall_at_k", score=name, k=0.001).value is None
        assert pick(finding, "recall_at_k", score=name, k=1.0).value == 1
    coarse = [note for note in finding.notes if "vulnerable means above every one of them" in note]
    assert len(coarse) == (fpr * len(others) < 1)
    assert any(note.startswith("74 of 76 samples have all of these scores") for note in finding.notes)


def test_agreement(source: Source, columns: dict[str, npt.NDArray]) -> None:
    finding = compare(source, ("lt-iqr", "memorization"), fpr=0.2)
    names = ("lt-iqr", "memorization", "lira")
    scored = ~np.isnan([columns[name] for name in names]).any(axis=0)
    member = columns["member"].astype(bool)
    members = np.flatnonzero(scored & member)
    count = pick(finding, "vulnerable").parameters["records"]
    assert 1 < count < len(members)
    top = {name: set(sorted(members, key=lambda n: (-columns[name][n], n))[:count]) for name in names}
    for first, second in (("lt-iqr", "memorization"), ("lt-iqr", "lira"), ("memorization", "lira")):
        both, either = top[first] & top[second], top[first] | top[second]
        metric = pick(finding, "agreement", first=first, second=second)
        assert metric.value == pytest.approx(len(both) / len(either))
        assert (metric.n, metric.parameters["both"]) == (len(either), len(both))


def test_a_score_compared_with_itself_is_perfect(source: Source) -> None:
    finding = compare(source, ("lira[mode=online]",), fpr=0.1, k=(0.1,))
    top = pick(finding, "precision_at_k")
    assert top.parameters["records"] <= pick(finding, "vulnerable").parameters["records"]
    assert top.value == 1
    assert pick(finding, "agreement").value == 1
    assert pick(finding, "spearman").value == pytest.approx(1)


def test_without_non_members_nobody_is_vulnerable(lake_of: MakeLake) -> None:
    data = audited()
    data["keep"][0] = True
    with open_source(lake_of(**data), "tests") as source:
        finding = compare(source, ("lt-iqr",))
    assert pick(finding, "vulnerable").value == 0
    assert any(note.startswith("0 non-members cannot resolve") for note in finding.notes)
    assert pick(finding, "recall_at_k", k=0.5).value is None


# --- Spearman ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("among", ["all", "members", "non-members"])
def test_spearman_matches_scipy(source: Source, columns: dict[str, npt.NDArray], among: str) -> None:
    names = ("lt-iqr", FINAL, "lira", "memorization")
    finding = spearman(source, names, among=among)
    assert len(finding.metrics) == 6
    member = columns["member"].astype(bool)
    wanted = {"all": np.ones(SAMPLES, bool), "members": member, "non-members": ~member}[among]
    for metric in finding.metrics:
        x, y = columns[metric.parameters["first"]][wanted], columns[metric.parameters["second"]][wanted]
        both = ~np.isnan(x) & ~np.isnan(y)
        expected = spearmanr(x[both], y[both])
        assert metric.n == both.sum()
        assert metric.value == pytest.approx(expected.statistic, rel=1e-6)
        assert metric.parameters["p_value"] == pytest.approx(expected.pvalue, rel=1e-6)
        assert metric.ci_low is not None
        assert metric.ci_high is not None
        assert metric.ci_low < metric.value < metric.ci_high
        rho = abs(metric.value)
        assert metric.parameters["strength"] == (
            "weak" if rho < 0.4 else "moderate" if rho < 0.6 else "strong"
        )


def test_a_score_that_never_varies_has_no_correlation(lake_of: MakeLake) -> None:
    data = audited()
    data["traces"]["loss"][:, -1] = 0.5
    with open_source(lake_of(**data), "tests") as source:
        finding = spearman(source, ("lt-iqr", FINAL))
    assert finding.metrics[0].value is None
    assert "strength" not in finding.metrics[0].parameters
    assert finding.notes == (
        f"lt-iqr and {FINAL} have no correlation: fewer than two samples, or one never varies",
    )


def test_scores_kept_before_there_was_a_target_do_not_count_twice(lake_of: MakeLake) -> None:
    data = audited()
    lake = lake_of(
        data["keep"][1:], data["phi"][1:], roles=["shadow"] * 12, names=[f"s{m}" for m in range(12)]
    )
    with open_source(lake, "tests") as source:
        before = spearman(source, ("memorization", "privacy-score")).metrics[0]
        with pytest.raises(NotEnoughData, match="no run of role target"):
            spearman(source, ("memorization", "privacy-score"), among="members")
    lake_of(data["keep"][:1], data["phi"][:1], lake=lake, names=["target"])
    with open_source(lake, "tests") as source:
        after = spearman(source, ("memorization", "privacy-score"))
    assert before.n is not None
    assert before.n > 70
    assert after.metrics[0].n == before.n
    assert after.metrics[0].value == pytest.approx(before.value)


def test_membership_of_a_target_that_has_traces_only(lake_of: MakeLake) -> None:
    data = audited()
    with open_source(lake_of(data["keep"][:1], traces=data["traces"]), "tests") as source:
        metric = spearman(source, ("lt-iqr", FINAL), among="members").metrics[0]
    assert metric.n == (data["keep"][0] & (np.arange(SAMPLES) != 7)).sum()


def test_each_target_and_experiment_has_its_own_scores(lake_of: MakeLake) -> None:
    first, second = audited(1), audited(2)
    lake = lake_of(
        first["keep"], first["phi"], traces=first["traces"], names=["a", *[f"s{m}" for m in range(12)]]
    )
    lake_of(second["keep"][:1], second["phi"][:1], traces=second["traces"], lake=lake, names=["b"])
    lake_of(**audited(3), lake=lake, experiment="another")
    alone = []
    for experiment, target in (("tests", "a"), ("tests", "b"), ("another", None)):
        with open_source(lake, experiment, target) as source:
            metric = spearman(source, ("lt-iqr", "lira")).metrics[0]
            x, y = frame_of(source, "lt-iqr")["score"], frame_of(source, "lira")["score"]
        both = (x.is_not_null() & y.is_not_null()).to_numpy()
        assert metric.value == pytest.approx(
            spearmanr(x.to_numpy()[both], y.to_numpy()[both]).statistic, rel=1e-6
        )
        alone.append(metric.value)
    assert len(set(alone)) == 3
    with pytest.raises(NotFound, match=r"several targets \(a, b\); choose one with --target"):
        open_source(lake, "tests")


def test_wrong_questions_say_so(source: Source) -> None:
    with pytest.raises(InvalidOption, match="two scores or more"):
        spearman(source, ("lira",))
    with pytest.raises(InvalidOption, match="at least one score"):
        compare(source, ())
    with pytest.raises(InvalidOption, match=r"k is a share .* not 1\.5"):
        compare(source, ("lt-iqr",), k=(1.5,))
    with pytest.raises(InvalidOption, match="between 0 and 1, not 0"):
        compare(source, ("lt-iqr",), fpr=0)
    with pytest.raises(InvalidOption, match=r"there is no analysis 'lirra'; did you mean 'lira'\?"):
        compare(source, ("lt-iqr",), against="lirra")


def test_without_shadow_runs(lake_of: MakeLake) -> None:
    data = audited()
    with (
        open_source(lake_of(data["keep"][:1], data["phi"][:1], traces=data["traces"]), "tests") as source,
        pytest.raises(NotEnoughData, match="has no shadow runs beside 'run-0000'; collect some"),
    ):
        compare(source, ("lt-iqr",))


def test_no_member_with_all_scores(lake_of: MakeLake) -> None:
    data = audited()
    data["keep"][0] = False
    with (
        open_source(lake_of(**data), "tests") as source,
        pytest.raises(NotEnoughData, match="no member of the target has all of these scores"),
    ):
        compare(source, ("lt-iqr",))


def test_metrics_are_kept_in_the_lake(lake_of: MakeLake) -> None:
    lake = lake_of(**audited())
    evaluation = next(one for one in EVALUATIONS if one.name == "compare")
    with open_source(lake, "tests") as source:
        finding = run_evaluation(source, evaluation, ("lt-iqr",), {"fpr": 0.1})
    kept = lake.sql("select * from metrics where analysis = 'compare'")
    assert len(kept) == len(finding.metrics)
    assert set(kept["variant"]) == {"lt-iqr;fpr=0.1"}
    assert set(kept["target"]) == {"run-0000"}
