"""Charts compile to Vega whatever the data, and show what they were given."""

from __future__ import annotations

import itertools
import json
import re
import warnings
from dataclasses import replace
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import pytest
import vl_convert
from losslake.analysis.charts import groups as charts_groups
from losslake.analysis.charts import pairs as charts_pairs
from losslake.analysis.charts import roc as charts_roc
from losslake.analysis.charts import scores as charts
from losslake.analysis.charts import traces as charts_traces
from losslake.analysis.charts.agreement import correlation_matrix, precision_curve
from losslake.analysis.charts.axes import Axis, axis_for, histogram, number, percent
from losslake.analysis.charts.style import DASHES, SERIES, colours, dashes, theme
from losslake.analysis.scores import Finding, Scores
from losslake.analysis.statistics.metric import Metric
from losslake.analysis.statistics.roc import evaluate, roc, split

SIZES = {"normal": 400, "one": 1, "empty": 0}
MEMBERSHIPS = ("both", "members", "non-members", "unknown")


def scores(size: int, membership: str = "both", *, seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    member = {
        "both": rng.random(size) < 0.5,
        "members": np.ones(size, bool),
        "non-members": np.zeros(size, bool),
    }
    column: Any = member.get(membership, [None] * size)
    values = rng.normal(size=size)
    return Scores(
        pl.DataFrame(
            {"sample_id": np.arange(size), "member": pl.Series(column, dtype=pl.Boolean), "score": values},
        )
    )


def compiled(chart: Any) -> dict[str, Any]:
    """The chart's Vega specification; fails on a chart that does not compile or lacks what every chart must have."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spec = chart.to_dict()
    assert spec["title"]["text"]
    assert len(spec["description"]) > 10
    vega = vl_convert.vegalite_to_vega(spec)
    assert isinstance(vega, dict)
    return vega


def rows(chart: Any) -> list[dict[str, Any]]:
    """The data of every layer, one after the other; layers that share theirs count once."""
    spec = chart.to_dict()
    return [row for text in spec["datasets"].values() for row in json.loads(text)]


@pytest.mark.parametrize("membership", MEMBERSHIPS)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize(
    "draw", [charts.score_by_membership, charts.memorization_histogram, charts.score_histogram]
)
def test_score_charts_compile(draw: Any, size: int, membership: str) -> None:
    compiled(draw(scores(size, membership)))


def test_score_charts_leave_out_missing_scores() -> None:
    some = scores(50)
    holes = pl.when(pl.col("sample_id") % 2 == 0).then(pl.col("score")).alias("score")
    chart = charts.score_histogram(Scores(some.frame.with_columns(holes)))
    assert sum(row["count"] for row in rows(chart)) == 25
    compiled(chart)


def test_histograms_are_shares_of_their_own_group() -> None:
    found = rows(charts.score_by_membership(scores(300)))
    for group in ("members", "non-members"):
        bars = [row for row in found if row["group"] == group and "count" in row]
        assert sum(row["share"] for row in bars) == pytest.approx(1)


def test_memorization_histogram_says_how_many_are_memorized() -> None:
    frame = pl.DataFrame({"sample_id": [0, 1, 2], "member": [True, True, False], "score": [0.0, 0.9, 1.0]})
    spec = charts.memorization_histogram(Scores(frame)).to_dict()
    assert spec["title"]["subtitle"] == ["2 of 3 samples lie above 0.8 (dashed line)."]


def finding(pairs: int = 3) -> Finding:
    names = [f"score-{i}" for i in range(pairs)]
    found = [
        Metric("spearman", None if i == 0 else 0.4, -0.1, 0.7, 90, {"first": a, "second": b})
        for i, (a, b) in enumerate((a, b) for a in names for b in names if a < b)
    ]
    found += [
        Metric(
            "precision_at_k", None if k == 0.01 else 0.5, 0.3, 0.7, 10, {"score": name, "k": k, "records": 10}
        )
        for name in names
        for k in (0.01, 0.1, 0.5)
    ]
    return Finding((*found, Metric("vulnerable", 0.05, 0.02, 0.1, 200)))


@pytest.mark.parametrize("given", [finding(), finding(2), Finding(())], ids=["normal", "pair", "empty"])
@pytest.mark.parametrize("draw", [correlation_matrix, precision_curve])
def test_finding_charts_compile(draw: Any, given: Finding) -> None:
    compiled(draw(given))


def curve(name: str, members: int, others: int, *, seed: int = 0, ties: bool = False) -> charts_roc.Curve:
    rng = np.random.default_rng(seed)
    score = np.concatenate([rng.normal(1, 1, members), rng.normal(0, 1, others)])
    score = score.round() if ties else score
    found = charts_roc.curve(name, score, np.arange(members + others) < members)
    assert found is not None
    return found


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize(
    "curves",
    [[("a", 300, 500), ("b", 200, 400)], [("tiny", 1, 1)], [("few", 3, 2)], []],
    ids=["normal", "tiny", "few", "none"],
)
def test_roc_chart_compiles(curves: list[tuple[str, int, int]], log: bool) -> None:
    compiled(charts_roc.roc_chart([curve(*one) for one in curves], log=log))


@pytest.mark.parametrize(("members", "others"), [(1, 1), (3, 40), (700, 90), (30_000, 25_000)])
def test_the_corners_that_are_drawn_make_the_same_charts(members: int, others: int) -> None:
    rng = np.random.default_rng(members)
    score = np.append(rng.normal(1, 1, members), rng.normal(0, 1, others))
    score[rng.random(len(score)) < 0.2] = 0.5  # a tie
    found = charts_roc.curve("a", score, np.arange(len(score)) < members)
    assert found is not None
    drawn = charts_roc.drawn_of(found)
    assert len(drawn.fpr) <= min(len(found.fpr), 700)
    for options in ({}, {"firm": True}, {"log": False}):
        one, other = (charts_roc.roc_chart([each], **options).to_dict() for each in (drawn, found))
        assert one == other


def test_roc_of_one_class_has_no_curve() -> None:
    score = np.arange(5.0)
    assert charts_roc.curve("a", score, np.ones(5, bool)) is None
    assert charts_roc.curve("a", score, np.zeros(5, bool)) is None
    assert charts_roc.curve("a", np.full(5, np.nan), np.arange(5) < 2) is None


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("log", [True, False])
def test_thinned_roc_lies_on_the_curve_and_keeps_its_low_end(ties: bool, log: bool) -> None:
    full = curve("a", 20_000, 30_000, ties=ties)
    fpr, tpr = charts_roc.thin(full, log=log)
    assert len(fpr) <= 2 * (charts_roc.CELLS + 2)
    assert set(zip(fpr, tpr, strict=True)) <= set(zip(full.fpr, full.tpr, strict=True))
    assert (fpr[-1], tpr[-1]) == (1, 1)
    if log:  # every one of the first steps, where the attack is judged, is there
        first = full.fpr[(full.fpr > 0) & (full.fpr <= 10 / 30_000)]
        assert set(first) <= set(fpr)


def test_curve_is_the_upper_corner_of_every_step() -> None:
    rng = np.random.default_rng(3)
    score, member = rng.integers(0, 6, 80).astype(float), rng.random(80) < 0.5
    found = charts_roc.curve("a", score, member)
    assert found is not None
    steps = roc(*split(score, member))
    for fpr, tpr in zip(found.fpr, found.tpr, strict=True):
        assert tpr == steps.tpr[steps.fpr <= fpr].max()
    assert (np.diff(found.fpr) > 0).all()


def test_roc_draws_nothing_below_what_the_non_members_resolve() -> None:
    found = curve("a", 500, 40)
    chart = charts_roc.roc_chart([found])
    drawn = [row["fpr"] for row in rows(chart) if row.get("attack") == "a"]
    assert min(drawn) == pytest.approx(1 / 40)
    assert "cannot resolve" in chart.to_dict()["title"]["subtitle"][0]


def test_each_firm_curve_begins_where_its_own_non_members_resolve() -> None:
    """An attack that scores fewer non-members takes nothing from another one, and the words name whose rate it is."""
    chart = charts_roc.roc_chart([curve("many", 900, 800), curve("few", 900, 100)], firm=True)
    least = {
        name: min(row["fpr"] for row in rows(chart) if row.get("attack") == name) for name in ("many", "few")
    }
    assert least == pytest.approx({"many": 5 / 800, "few": 5 / 100})
    said = chart.to_dict()["title"]["subtitle"][0]
    assert "From FPR 0.62% on, which 800 non-members resolve; attacks that score fewer" in said
    alone = charts_roc.roc_chart([curve("many", 900, 800)], firm=True).to_dict()["title"]["subtitle"][0]
    assert "resolve." in alone


def test_description_does_not_state_a_rate_that_is_not_resolved() -> None:
    assert "not resolved" in charts_roc.roc_chart([curve("a", 50, 20)]).to_dict()["description"]


@pytest.mark.parametrize("others", [2_000, 30])
def test_tpr_chart_has_a_dot_only_where_resolved(others: int) -> None:
    rng = np.random.default_rng(0)
    member = np.arange(100 + others) < 100
    metrics = evaluate(rng.normal(size=len(member)) + member, member, (0.001, 0.01, 0.1))
    chart = charts_roc.tpr_chart([("a", metrics)])
    compiled(chart)
    told = {row["fpr"]: row["told"] for row in rows(chart) if "told" in row}
    assert (told[0.001] == "not resolved") is (others == 30)
    assert told[0.1] != "not resolved"


def test_tpr_chart_without_attacks() -> None:
    compiled(charts_roc.tpr_chart([]))


def pairs(size: int, marked: float = 0.1) -> charts_pairs.Pairs:
    rng = np.random.default_rng(0)
    x = rng.lognormal(0, 2, size)
    return charts_pairs.Pairs(
        np.arange(size),
        x,
        rng.standard_t(1.2, size),
        rng.random(size) < marked,
        "LT-IQR",
        "LiRA",
        what="members",
    )


@pytest.mark.parametrize("marked", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("size", [0, 1, 300, 6_000])
def test_pairs_chart_compiles(size: int, marked: float) -> None:
    compiled(charts_pairs.pairs_chart(pairs(size, marked), "LT-IQR against LiRA", "rho"))


def test_many_pairs_are_counted_in_cells_and_it_says_so() -> None:
    given = pairs(20_000, 0.01)
    chart = charts_pairs.pairs_chart(given, "LT-IQR against LiRA")
    found = rows(chart)
    single = [row for row in found if "sample" in row]
    assert len(single) == given.marked.sum()
    assert sum(row["count"] for row in found if "count" in row) + len(single) == 20_000
    assert "are counted in cells" in " ".join(chart.to_dict()["title"]["subtitle"])
    assert len(found) < 4_000


def test_pairs_that_are_not_finite_are_left_out() -> None:
    given = charts_pairs.Pairs(
        np.arange(3), np.array([1.0, np.nan, 2.0]), np.array([1.0, 1.0, np.inf]), np.zeros(3, bool), "x", "y"
    )
    assert [row["sample"] for row in rows(charts_pairs.pairs_chart(given, "x against y"))] == [0]


@pytest.mark.parametrize("shape", [(50, 12), (1, 1), (0, 5), (3, 0)])
def test_traces_chart_compiles(shape: tuple[int, int]) -> None:
    traces = np.random.default_rng(0).exponential(size=shape)
    band = charts_traces.band_of(traces)
    lines = [charts_traces.Line(f"sample {i}", trace) for i, trace in enumerate(traces[:4])]
    compiled(charts_traces.traces_chart(lines, band))
    compiled(charts_traces.traces_chart([], band, signal="grad_norm"))


def test_band_leaves_out_what_is_not_finite() -> None:
    band = charts_traces.band_of(np.array([[np.nan, 1.0], [np.nan, np.inf], [np.nan, 3.0]]))
    assert np.isnan(band.median[0])
    assert band.median[1] == 2
    compiled(charts_traces.traces_chart([charts_traces.Line("sample 0", np.array([np.nan, 1.0]))], band))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.linspace(1, 5, 50), "linear"),
        (np.logspace(-5, 1, 50), "log"),
        (np.concatenate([np.linspace(-1, 1, 50), [-400.0, 90.0]]), "symlog"),
        (np.concatenate([np.zeros(3), np.linspace(0, 1, 50), [500.0]]), "symlog"),
        (np.zeros(9), "linear"),
        (np.array([]), "linear"),
        (np.array([np.nan, np.inf]), "linear"),
    ],
)
def test_axis_fits_the_values(values: np.ndarray, kind: str) -> None:
    axis = axis_for(values)
    assert axis.kind == kind
    edges = axis.edges(30)
    assert (np.diff(edges) > 0).all()
    finite = values[np.isfinite(values)]
    assert histogram(values, axis, 30).total == len(finite)
    steps = np.diff(axis.forward(edges))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_last_digits_of_a_float32_are_no_difference() -> None:
    values = np.float32(2.17) + np.arange(4) * np.spacing(np.float32(2.17))
    axis = axis_for(values.astype(np.float64))
    assert axis.high - axis.low > 1
    far = axis_for(np.array([2.17, 2.1701]))
    assert far.high - far.low < 1e-3


def test_ticks_lie_on_the_axis() -> None:
    for axis in (Axis("log", 1e-4, 12), Axis("symlog", -300, 20, 0.1), Axis("symlog", 0, 1e-3, 1e-5)):
        ticks = axis.ticks()
        assert ticks is not None
        assert 2 < len(ticks) < 10
        assert all(axis.low <= tick <= axis.high for tick in ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.07412, "0.0741"),
        (1234.4, "1,234"),
        (12, "12"),
        (0, "0"),
        (-0.5, "−0.5"),
        (1.23e-6, "1.23e−06"),
        (999.7, "1000"),
        (None, "–"),
    ],
)
def test_numbers_read_as_people_write_them(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.001, "0.1%"),
        (0.1, "10%"),
        (1.0, "100%"),
        (0.0757, "7.6%"),
        (0.996, "99.6%"),
        (0.9, "90%"),
        (None, "–"),
    ],
)
def test_percentages_have_two_digits(value: float | None, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize("count", [1, 7, 8, 20, len(SERIES) * len(DASHES)])
def test_no_two_series_look_alike(count: int) -> None:
    names = [str(number) for number in range(count)]
    looks = zip(colours(names).to_dict()["range"], dashes(names).to_dict()["range"], strict=True)
    assert len({(colour, tuple(dash)) for colour, dash in looks}) == count


@pytest.mark.parametrize("count", [1, 2, 14])
def test_legend_picks_curves_where_there_are_several(count: int) -> None:
    chart = charts_roc.roc_chart([curve(f"attack {number}", 40, 30) for number in range(count)])
    params = chart.to_dict().get("params", [])
    assert [one["bind"] for one in params] == ["legend"] * (count > 1)
    compiled(chart)


@pytest.mark.parametrize("size", [0, 30, 9000])
def test_brush_and_words_of_pairs(size: int) -> None:
    given = pairs(size, 0.1)
    told = replace(given, about=tuple(f"<b>{sample}</b>" for sample in given.sample_id.tolist()))
    chart = charts_pairs.pairs_chart(told, "LT-IQR against LiRA", brush="brush_here")
    assert [one["name"] for one in chart.to_dict()["params"]] == ["brush_here"]
    assert all(row["about"] == f"<b>{row['sample']}</b>" for row in rows(chart) if "sample" in row)
    compiled(chart)


def test_tpr_by_group_draws_the_lowest_rate_of_the_first_score() -> None:
    def rate(metric: str, group: str, value: float | None, fpr: float, score: str = "lira") -> Metric:
        return Metric(
            metric, value, 0.0, 0.5, 20, {"score": score, "by": "label", "group": group, "fpr": fpr}
        )

    finding = Finding(
        (
            rate("tpr_at_fpr", "all", 0.2, 0.01),
            rate("tpr_at_fpr", "all", 0.4, 0.1),
            rate("tpr_at_fpr", "all", 0.9, 0.01, "rmia"),
            rate("tpr_at_fpr", "<b>", None, 0.01),
            rate("fpr_at_threshold", "<b>", 0.02, 0.01),
            rate("fpr_at_threshold", "<b>", 0.2, 0.1),
        )
    )
    chart = charts_groups.tpr_by_group(finding)
    found = {row["group"]: (row["tpr"], row["alarms"]) for row in rows(chart)}
    assert found == {"all": (0.2, None), "<b>": (None, 0.02)}
    assert chart.to_dict()["title"]["text"] == "Members named at FPR 1%, by group"
    compiled(chart)
    compiled(charts_groups.tpr_by_group(Finding(())))


@pytest.mark.parametrize("width", range(120, 420, 14))
def test_labels_of_an_axis_keep_apart_on_a_narrow_page(width: int) -> None:
    chart = alt.Chart({"values": [{"x": 0}, {"x": 1}]}).mark_point()
    spec = (
        chart.encode(x=alt.X("x:Q", axis=alt.Axis(format="~%", tickCount=10)))
        .properties(width=width)
        .to_dict()
    )
    spec["config"] = theme()
    (labels,) = re.findall(r'role-axis-label"(.*?)</g>', vl_convert.vegalite_to_svg(spec), re.DOTALL)
    texts = re.findall(r"(<text[^>]*translate\(([\d.]+),[^>]*>)([^<]*)<", labels)
    shown = [(float(at), label) for tag, at, label in texts if 'opacity="0"' not in tag]
    assert len(shown) >= 3
    for (at, label), (then, following) in itertools.pairwise(shown):
        # Digits of 12 pixels are less than 7.2 wide.
        assert then - at - 7.2 * (len(label) + len(following)) / 2 >= 5, shown
