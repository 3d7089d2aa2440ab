"""LT-IQR over prefixes and over pairs of quantiles, against NumPy and against the analyses themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from findings import pick
from losslake.analysis.charts.traces import ablation_map, evolution_chart
from losslake.analysis.evaluations.catalogue import find_evaluation, run_evaluation
from losslake.analysis.evaluations.compare import compare
from losslake.analysis.evaluations.evolution import evolution
from losslake.analysis.evaluations.quantile_ablation import (
    parse_range,
    quantile_ablation,
    read_traces,
    trace_quantiles,
)
from losslake.analysis.measures.trace import lt_iqr, trace
from losslake.analysis.scores import Finding
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.source import Source
from losslake.analysis.statistics.correlation import Ranked, rank_correlation
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.lake import Lake
from scipy.stats import binom, rankdata, spearmanr

MakeLake = Callable[..., Lake]
SAMPLES, EPOCHS = 90, 12


def audited(seed: int = 0) -> dict[str, Any]:
    """keep, phi and traces: the more exposed a sample, the further its loss falls."""
    rng = np.random.default_rng(seed)
    keep = rng.random((10, SAMPLES)) < 0.5
    keep[1:3], keep[3:5] = True, False
    effect = rng.gamma(1, 2, SAMPLES)
    phi = rng.normal(0, 1, keep.shape) + effect * keep
    fall = np.linspace(1, 0, EPOCHS + 1)
    loss = np.exp(3 * fall - 3) + effect[:, None] * fall + rng.normal(0, 0.3, (SAMPLES, EPOCHS + 1)) ** 2
    return {"keep": keep, "phi": phi.astype(np.float32), "traces": {"loss": loss.astype(np.float32)}}


@pytest.fixture(scope="module")
def source(lake_of: MakeLake) -> Iterator[Source]:
    """Odd traces beside even ones: values that are not finite, epochs that are missing, ties."""
    data = audited()
    population = np.arange(SAMPLES) >= 80
    data["keep"] &= ~population
    loss = np.ma.array(data["traces"]["loss"], mask=False)
    loss[3, 9] = np.nan  # no score from epoch 9 on
    loss[4, 0] = np.inf
    loss[5, 2:6] = np.ma.masked
    loss[6, 1:] = np.ma.masked
    loss[7] = np.ma.masked  # not recorded at all
    loss[8:12] = 1.25
    data["keep"][:, 13] = True  # no LiRA score
    with open_source(
        lake_of(**{**data, "traces": {"loss": loss, "margin": -2 * loss}}, population=population), "tests"
    ) as opened:
        yield opened


# --- quantiles ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [None, 1, 2, 8, 9])
@pytest.mark.parametrize(("low", "high"), [(0.25, 0.75), (0.0, 1.0), (0.1, 0.65)])
def test_ranges_are_those_of_the_analysis(source: Source, last: int | None, low: float, high: float) -> None:
    rows = read_traces(source, parse_range(source, "lt-iqr", ()))
    ends = trace_quantiles(rows, (low, high), None if last is None else last + 1)
    frame = lt_iqr(source, last=last, low=low, high=high).frame
    expected = np.full(SAMPLES, np.nan)
    expected[frame["sample_id"].to_numpy()] = frame["score"].fill_null(np.nan).to_numpy()
    np.testing.assert_allclose(ends[:, 1] - ends[:, 0], expected[rows.sample_id], rtol=1e-6, atol=1e-9)


def test_a_margin_and_a_later_start(source: Source) -> None:
    score = parse_range(source, "trace[signal=margin,first=3,last=10]", ("low", "high"))
    ends = trace_quantiles(read_traces(source, score), (0.25, 0.75))
    frame = trace(source, signal="margin", first=3, last=10).frame
    known = frame["score"].is_not_null().to_numpy()
    np.testing.assert_allclose((ends[:, 1] - ends[:, 0])[known], frame["score"].drop_nulls(), rtol=1e-6)


def test_traces_within_the_steps_lack_epoch_0(lake_of: MakeLake) -> None:
    data = audited(3)
    loss = np.ma.array(data["traces"]["loss"], mask=np.zeros((SAMPLES, EPOCHS + 1), bool))
    loss[:, 0] = np.ma.masked
    loss[~data["keep"][0]] = np.ma.masked
    lake = lake_of(data["keep"], data["phi"], train_traces={"loss": loss})
    with open_source(lake, "tests") as opened:
        finding = evolution(opened, ("lt-iqr",), epochs=(12,), quantiles=(0.5,))
        assert {m.parameters["among"] for m in finding.metrics if m.metric == "quantile"} == {"members"}
        assert pick(finding, "mean").value == pytest.approx(lt_iqr(opened).frame["score"].mean(), rel=1e-6)
        assert pick(finding, "precision_at_k").parameters["records"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_rank_correlation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 6, 50).astype(float), rng.normal(size=50)
    np.testing.assert_allclose(Ranked.of(one).rank, rankdata(one))
    found = rank_correlation(one, other, {})
    expected = spearmanr(one, other)
    assert (found.value, found.parameters["p_value"]) == pytest.approx((expected.statistic, expected.pvalue))
    assert rank_correlation(np.ones(50), other, {}).value is None
    assert rank_correlation(one[:1], other[:1], {}).value is None
    assert rank_correlation(one, one, {}).value == pytest.approx(1, rel=1e-12)


# --- evolution ------------------------------------------------------------------------------------------------


def test_each_prefix_as_the_analysis_alone_has_it(source: Source) -> None:
    finding = evolution(source, ("lt-iqr",), epochs=(2, 7, 12), fpr=0.1, k=0.2)
    for last in (2, 7, 12):
        frame = lt_iqr(source, last=last).frame.filter(lt_iqr(source, last=last).frame["score"].is_not_null())
        for among, side in (("members", frame["member"]), ("non-members", ~frame["member"])):
            values = frame.filter(side)["score"].to_numpy()
            at = {"epoch": last, "among": among}
            mean = pick(finding, "mean", **at)
            reach = 1.959963984540054 * values.std(ddof=1) / np.sqrt(len(values))
            assert (mean.value, mean.ci_low, mean.ci_high, mean.n) == pytest.approx(
                (values.mean(), values.mean() - reach, values.mean() + reach, len(values)), rel=1e-6
            )
            for level in (0.5, 0.9, 0.99):
                found = pick(finding, "quantile", quantile=level, **at)
                assert found.value == pytest.approx(np.quantile(values, level), rel=1e-6)


def test_precision_and_correlation_are_those_of_compare(lake_of: MakeLake) -> None:
    with open_source(lake_of(**audited(4)), "tests") as opened:
        finding = evolution(opened, ("lt-iqr",), epochs=(4, 12), fpr=0.1, k=0.2)
        for last, name in ((4, "lt-iqr[last=4]"), (12, "lt-iqr")):
            expected = compare(opened, (name,), fpr=0.1, k=(0.2,))
            for metric in ("precision_at_k", "spearman"):
                want = pick(expected, metric)
                found = pick(finding, metric, epoch=last)
                assert (found.value, found.ci_low, found.ci_high, found.n) == pytest.approx(
                    (want.value, want.ci_low, want.ci_high, want.n), rel=1e-6
                )
        final = pick(finding, "spearman", epoch=12).value
        assert final is not None
        assert final > 0.5  # the planted effect


def test_intervals_of_quantiles_are_order_statistics(source: Source) -> None:
    finding = evolution(source, ("lt-iqr",), epochs=(12,), quantiles=(0.02, 0.3, 0.5, 0.97))
    frame = lt_iqr(source).frame
    values = np.sort(frame.filter(frame["member"])["score"].drop_nulls().to_numpy())
    n = len(values)
    for level in (0.02, 0.3, 0.5, 0.97):
        found = pick(finding, "quantile", quantile=level, among="members")
        below = [r for r in range(n) if binom.cdf(r, n, level) <= 0.025]
        above = [r for r in range(n) if binom.cdf(r, n, level) >= 0.975]
        assert found.ci_low == (pytest.approx(values[below[-1]], rel=1e-6) if below else None)
        assert found.ci_high == (pytest.approx(values[above[0]], rel=1e-6) if above else None)


def test_intervals_of_quantiles_cover() -> None:
    from losslake.analysis.evaluations.evolution import _quantile

    rng = np.random.default_rng(0)
    drawn = [_quantile(np.sort(rng.random(80)), 0.3, {}) for _ in range(400)]
    assert np.mean([m.ci_low <= 0.3 <= m.ci_high for m in drawn]) >= 0.93  # type: ignore[operator]


def test_ten_even_steps(source: Source) -> None:
    finding = evolution(source, ("lt-iqr",))
    epochs = list(dict.fromkeys(m.parameters["epoch"] for m in finding.metrics))
    assert epochs == [1, 2, 4, 5, 6, 7, 8, 10, 11, 12]


def test_without_shadow_runs(lake_of: MakeLake) -> None:
    data = audited()
    lake = lake_of(data["keep"][:1], data["phi"][:1], traces=data["traces"])
    with open_source(lake, "tests") as opened:
        finding = evolution(opened, ("lt-iqr",))
        assert {m.metric for m in finding.metrics} == {"mean", "quantile"}
        assert finding.notes[0].startswith("no prefix is held against lira: ")
        with pytest.raises(NotEnoughData, match="no shadow runs"):
            quantile_ablation(opened, ("lt-iqr",))


# --- quantile ranges ------------------------------------------------------------------------------------------


def test_each_cell_as_compare_has_it(lake_of: MakeLake) -> None:
    with open_source(lake_of(**audited(5)), "tests") as opened:
        finding = quantile_ablation(opened, ("lt-iqr",), low=(0.0, 0.25), high=(0.75, 1.0), fpr=0.1, k=0.2)
        for low, high in ((0.0, 0.75), (0.0, 1.0), (0.25, 0.75), (0.25, 1.0)):
            expected = compare(opened, (f"lt-iqr[low={low},high={high}]",), fpr=0.1, k=(0.2,))
            for metric in ("precision_at_k", "spearman"):
                assert pick(finding, metric, low=low, high=high).value == pytest.approx(
                    pick(expected, metric).value, rel=1e-6
                )
        usual = pick(finding, "precision_at_k", low=0.25, high=0.75).value
        assert f"it is {usual:.3f} for 0.25 to 0.75" in finding.notes[-1]


def test_only_pairs_in_order(source: Source) -> None:
    finding = quantile_ablation(source, ("lt-iqr",), low=(0.3, 0.6), high=(0.5, 0.6))
    pairs = {(m.parameters["low"], m.parameters["high"]) for m in finding.metrics}
    assert pairs == {(0.3, 0.5), (0.3, 0.6)}


def test_nothing_is_chosen(source: Source) -> None:
    before = lt_iqr(source).frame
    run_evaluation(source, find_evaluation("quantile-ablation"), ())
    assert lt_iqr(source).frame.equals(before)
    assert {option.name: option.default for option in find("lt-iqr").options}["low"] == 0.25


@pytest.mark.parametrize(
    ("evaluation", "scores", "options", "text"),
    [
        (evolution, ("lira",), {}, "lira is no quantile range"),
        (evolution, ("trace[aggregate=mean]",), {}, "is no quantile range"),
        (evolution, ("lt-iqr[last=3]",), {}, "last is what is varied"),
        (evolution, ("lt-iqr",), {"epochs": (0,)}, "epoch 0 is no end of a prefix: take 1 to 12"),
        (evolution, ("lt-iqr",), {"epochs": (13,)}, "epoch 13"),
        (evolution, ("lt-iqr",), {"quantiles": (1.1,)}, "a quantile lies"),
        (evolution, ("lt-iqr",), {"fpr": 1.0}, "false-positive rate"),
        (evolution, ("lt-iqr",), {"k": 0.0}, "k is a share"),
        (quantile_ablation, ("lt-iqr[low=0.1]",), {}, "low is what is varied"),
        (quantile_ablation, ("lt-iqr",), {"low": (1.0,)}, "no lower quantile lies below"),
        (quantile_ablation, ("lt-iqr",), {"low": (-0.1,)}, "a quantile lies"),
        (quantile_ablation, ("lt-iqr",), {"k": 2.0}, "k is a share"),
        (quantile_ablation, ("lt-iqr",), {"fpr": 0.0}, "false-positive rate"),
    ],
)
def test_wrong_options(source: Source, evaluation: Any, scores: Any, options: Any, text: str) -> None:
    with pytest.raises(InvalidOption, match=text):
        evaluation(source, scores, **options)


def test_without_traces(lake_of: MakeLake, source: Source) -> None:
    data = audited()
    with open_source(lake_of(data["keep"], data["phi"]), "tests") as opened:
        for evaluation in (evolution, quantile_ablation):
            with pytest.raises(NotEnoughData, match="has no traces"):
                evaluation(opened, ("lt-iqr",))
    with pytest.raises(NotEnoughData, match="no eval trace of grad_norm"):
        evolution(source, ("trace[signal=grad_norm]",))
    with pytest.raises(NotEnoughData, match="from epoch 40 on"):
        evolution(source, ("lt-iqr[first=40]",))


# --- charts ---------------------------------------------------------------------------------------------------


def test_charts(source: Source) -> None:
    finding = run_evaluation(source, find_evaluation("evolution"), (), {"fpr": 0.1, "k": 0.2})
    spec = evolution_chart(finding).to_dict()
    assert "Precision among the top 20% of the members against lira" in spec["title"]["subtitle"][1]
    spec = ablation_map(quantile_ablation(source, ("lt-iqr",), k=0.2)).to_dict()
    assert "over 100 ranges" in spec["description"]
    for chart in (evolution_chart, ablation_map):
        assert chart(Finding(())).to_dict()
