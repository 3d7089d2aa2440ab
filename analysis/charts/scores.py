"""Charts of one analysis: how its scores spread, how scores correlate, how well one finds what another does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from ..scores import Finding, Scores
from .axes import Axis, Histogram, axis_for, histogram, number
from .style import BLUE, GREY, ORANGE, SERIES, VERMILION, colours, dashes, finish, inline, layered

if TYPE_CHECKING:
    import altair as alt

Floats = npt.NDArray[np.float64]
BINS = 40
MEMORIZED = 0.8
"""From here on a label counts as memorized: hardly any model knows it without having seen the record."""


@dataclass(frozen=True)
class Group:
    """Some records and their values: one histogram of a chart."""

    name: str
    values: Floats
    colour: str


def score_by_membership(scores: Scores) -> alt.Chart | alt.LayerChart:
    """Histogram of a score for members and for non-members of the target; of all samples where there is no target."""
    values, member = scores.arrays()
    if len(values) == 0:
        return score_histogram(scores)
    groups = [Group("members", values[member], BLUE), Group("non-members", values[~member], ORANGE)]
    return grouped_histogram(groups, "Score of members and non-members", "score (higher = more exposed)")


def score_histogram(scores: Scores) -> alt.Chart | alt.LayerChart:
    """Histogram of a score over all samples."""
    values = _values(scores.frame["score"])
    return grouped_histogram(
        [Group("samples", values, BLUE)], "Distribution of the score", "score (higher = more exposed)"
    )


def memorization_histogram(scores: Scores) -> alt.Chart | alt.LayerChart:
    """Histogram of memorization. Counts on a scale that keeps single records visible beside the mass at 0."""
    import altair as alt

    values = _values(scores.frame["score"])
    values = values[np.isfinite(values)]
    low = -0.1 if len(values) == 0 else max(-1.0, float(np.floor(values.min() * 10)) / 10)
    axis = Axis("linear", min(low, -0.1), 1.0)
    counted = histogram(values, axis, round((1.0 - axis.low) / 0.05))
    rows = _bars(counted, "samples")
    memorized = int((values > MEMORIZED).sum())
    ticks = [0, *(10**p for p in range(8) if 10**p <= max(int(counted.counts.max(initial=1)), 1))]
    bars = (
        alt.Chart(inline(rows))
        .mark_rect(color=BLUE, opacity=0.85)
        .encode(
            x=alt.X(
                "from:Q", scale=axis.scale(), axis=axis.draw("memorization, a difference of probabilities")
            ),
            x2="to:Q",
            y=alt.Y(
                "count:Q",
                scale=alt.Scale(type="symlog"),
                axis=alt.Axis(title="samples, log scale", values=ticks),
            ),
            y2="zero:Q",
            tooltip=_bar_tooltip("samples"),
        )
    )
    line = (
        alt.Chart(inline([{"at": MEMORIZED}])).mark_rule(color=VERMILION, strokeDash=[4, 3]).encode(x="at:Q")
    )
    text = f"{memorized:,} of {len(values):,} samples lie above {MEMORIZED} (dashed line)."
    return finish(layered(bars, line), "Memorization", f"Histogram of memorization. {text}", subtitle=[text])


def correlation_matrix(finding: Finding) -> alt.Chart | alt.LayerChart:
    """Spearman's rho of every pair of scores, as a matrix with the numbers in it."""
    import altair as alt

    rows = []
    for metric in finding.metrics:
        if metric.metric != "spearman":
            continue
        first, second = str(metric.parameters["first"]), str(metric.parameters["second"])
        told = "–" if metric.value is None else f"{metric.value:.2f}"
        spread = (
            f"{number(metric.ci_low, 2)} to {number(metric.ci_high, 2)}" if metric.value is not None else "–"
        )
        about = {"rho": metric.value, "text": told, "interval": spread, "n": metric.n}
        rows += [{"first": first, "second": second, **about}, {"first": second, "second": first, **about}]
    names = list(dict.fromkeys(str(row["first"]) for row in rows))
    rows += [
        {"first": name, "second": name, "rho": 1.0, "text": "1", "interval": "–", "n": None} for name in names
    ]
    base = alt.Chart(inline(rows)).encode(
        x=alt.X("first:N", sort=names, axis=alt.Axis(title=None, labelAngle=-30)),
        y=alt.Y("second:N", sort=names, axis=alt.Axis(title=None)),
        tooltip=[
            alt.Tooltip("first:N", title="score"),
            alt.Tooltip("second:N", title="and"),
            alt.Tooltip("text:N", title="Spearman's rho"),
            alt.Tooltip("interval:N", title="95% interval"),
            alt.Tooltip("n:Q", title="samples", format=","),
        ],
    )
    shade = alt.Color(
        "rho:Q",
        scale=alt.Scale(domain=[-1, 0, 1], range=[ORANGE, "#f4f4f4", BLUE]),
        legend=alt.Legend(title="Spearman's rho"),
    )
    # The cells have their own ground, so their text has its own colour on light pages and on dark ones.
    drawn = layered(
        base.mark_rect().encode(color=shade), base.mark_text(color="#111111").encode(text="text:N")
    )
    spoken = "; ".join(
        f"{r['first']} and {r['second']}: {r['text']}" for r in rows[: 2 * len(finding.metrics) : 2]
    )
    return finish(
        drawn,
        "Rank correlation of the scores",
        f"Matrix of Spearman's rho. {spoken}",
        height=60 + 44 * len(names),
    )


def precision_curve(finding: Finding) -> alt.Chart | alt.LayerChart:
    """Precision among the top k of each score, with intervals, beside what picking at random would reach."""
    import altair as alt

    rows = [
        {
            "score": str(metric.parameters["score"]),
            "k": metric.parameters["k"],
            "precision": metric.value,
            "low": metric.ci_low,
            "high": metric.ci_high,
            "records": metric.parameters["records"],
        }
        for metric in finding.metrics
        if metric.metric == "precision_at_k" and metric.value is not None
    ]
    names = list(dict.fromkeys(str(row["score"]) for row in rows))
    shares = sorted({float(row["k"]) for row in rows}) or [0.01, 1.0]
    base_rate = next((metric.value for metric in finding.metrics if metric.metric == "vulnerable"), None)
    x = alt.X(
        "k:Q",
        scale=alt.Scale(type="log", domain=[shares[0] / 1.15, min(1.0, shares[-1] * 1.15)], nice=False),
        axis=alt.Axis(title="top k, share of the members", format="~%", values=shares),
    )
    y = alt.Y(
        "precision:Q",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(title="precision among the top k", format="~%"),
    )
    series = alt.Color("score:N", scale=colours(names), legend=alt.Legend())
    told = [
        alt.Tooltip("score:N"),
        alt.Tooltip("k:Q", title="top k", format="~%"),
        alt.Tooltip("records:Q", title="records", format=","),
        alt.Tooltip("precision:Q", format=".3f"),
        alt.Tooltip("low:Q", title="95% from", format=".3f"),
        alt.Tooltip("high:Q", title="to", format=".3f"),
    ]
    base = alt.Chart(inline(rows))
    # The intervals come in no tooltip colour of their own: thin rules behind the points.
    spread = base.mark_rule(opacity=0.45).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=series)
    lines = base.mark_line().encode(
        x=x, y=y, color=series, strokeDash=alt.StrokeDash("score:N", scale=dashes(names))
    )
    points = base.mark_point(filled=True, size=55, opacity=1).encode(x=x, y=y, color=series, tooltip=told)
    layers = [spread, lines, points]
    if base_rate is not None:
        chance = alt.Chart(inline([{"rate": base_rate}])).mark_rule(color=GREY, strokeDash=[4, 3])
        layers.append(chance.encode(y="rate:Q"))
    subtitle = [] if base_rate is None else [f"Dashed grey: picking members at random finds {base_rate:.1%}."]
    first = [row for row in rows if row["k"] == shares[0]]
    spoken = "; ".join(f"{row['score']} {row['precision']:.0%} of the top {row['k']:.0%}" for row in first)
    return finish(
        layered(*layers),
        "Vulnerable records among the top k",
        f"Precision at k. {spoken}. {' '.join(subtitle)}",
        subtitle=subtitle,
    )


def grouped_histogram(
    groups: Sequence[Group],
    title: str,
    x_title: str,
    *,
    subtitle: Sequence[str] = (),
    axis: Axis | None = None,
) -> alt.Chart | alt.LayerChart:
    """Overlaid histograms, each as shares of its own group, so that a small group shows beside a large one."""
    import altair as alt

    axis = axis or axis_for(np.concatenate([group.values for group in groups]) if groups else np.zeros(0))
    counted = {group.name: histogram(group.values, axis, BINS) for group in groups}
    names = list(counted)
    several = len(names) > 1
    shade = alt.Color(
        "group:N",
        scale=colours(names, [group.colour for group in groups] or SERIES),
        legend=alt.Legend() if several else None,
    )
    x = alt.X("from:Q", scale=axis.scale(), axis=axis.draw(x_title + axis.note))
    y = alt.Y("share:Q", axis=alt.Axis(title="share of the group", format="~%", tickCount=6))
    bars = alt.Chart(inline([row for name, one in counted.items() for row in _bars(one, name)]))
    drawn = bars.mark_rect(opacity=0.25 if several else 0.8).encode(
        x=x, x2="to:Q", y=y, y2="zero:Q", color=shade, tooltip=_bar_tooltip("records")
    )
    layers = [drawn]
    if several:
        # Overlaid bars mix their colours; an outline keeps each group's shape to itself.
        outline = alt.Chart(inline([row for name, one in counted.items() for row in _outline(one, name)]))
        steps = outline.mark_line(interpolate="step-after", strokeWidth=2)
        layers.append(steps.encode(x=x, y=y, color=shade, order="from:Q"))
    medians = [
        f"{group.name}: {_count(group.values):,}, median {number(_median(group.values))}" for group in groups
    ]
    return finish(
        layered(*layers),
        title,
        f"Histogram. {'; '.join(medians)}. {' '.join(subtitle)}",
        subtitle=subtitle,
    )


def _bars(counted: Histogram, group: str) -> list[dict[str, object]]:
    """One row a bin that is not empty."""
    total = max(counted.total, 1)
    bounds = zip(
        counted.edges[:-1].tolist(), counted.edges[1:].tolist(), counted.counts.tolist(), strict=True
    )
    return [
        {
            "group": group,
            "from": low,
            "to": high,
            "range": f"{number(low)} to {number(high)}",
            "count": count,
            "share": count / total,
            "zero": 0,
        }
        for low, high, count in bounds
        if count
    ]


def _outline(counted: Histogram, group: str) -> list[dict[str, object]]:
    """The upper edge of the bars: one point a bin bound."""
    shares = [*(counted.counts / max(counted.total, 1)).tolist(), 0.0]
    return [
        {"group": group, "from": at, "share": share}
        for at, share in zip(counted.edges.tolist(), shares, strict=True)
    ]


def _bar_tooltip(what: str) -> list[alt.Tooltip]:
    import altair as alt

    return [
        alt.Tooltip("group:N", title="group"),
        alt.Tooltip("range:N", title="from"),
        alt.Tooltip("count:Q", title=what, format=","),
        alt.Tooltip("share:Q", title="share of the group", format=".2%"),
    ]


def _values(column: pl.Series) -> Floats:
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _count(values: Floats) -> int:
    return int(np.isfinite(values).sum())


def _median(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None
