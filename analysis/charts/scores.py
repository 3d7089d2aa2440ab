"""How the scores of one analysis spread: histograms of members and non-members, of memorization, of influence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from ..scores import Scores
from ..statistics.intervals import CHANCE
from .axes import Axis, Histogram, axis_for, histogram, number
from .style import BLUE, ORANGE, PURPLE, SERIES, VERMILION, colours, finish, inline, layered, line_at

if TYPE_CHECKING:
    import altair as alt

Floats = npt.NDArray[np.float64]
BINS = 40
MEMORIZED = 0.8
"""From here on a label counts as memorized: hardly any model knows it without having seen the record."""


KIND_COLOURS = {"may be mislabelled": VERMILION, "rare": PURPLE, "hard": ORANGE, "typical": BLUE}
"""Colours of what `suspects` parts records into."""


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


def suspects_by_kind(scores: Scores) -> alt.Chart | alt.LayerChart:
    """Histogram of how wrong labels look, of each kind of record that there is."""
    known = scores.frame.filter(pl.col("score").is_not_null())
    groups = [
        Group(kind, _values(known.filter(pl.col("kind") == kind)["score"]), colour)
        for kind, colour in KIND_COLOURS.items()
        if (known["kind"] == kind).any()
    ]
    return grouped_histogram(
        groups, "How wrong labels look, by kind of record", "score (higher = looks the more wrong)"
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
            x2=alt.X2("to:Q"),
            y=alt.Y(
                "count:Q",
                scale=alt.Scale(type="symlog"),
                axis=alt.Axis(title="samples, log scale", values=ticks),
            ),
            y2=alt.Y2("zero:Q"),
            tooltip=_bar_tooltip("samples"),
        )
    )
    text = f"{memorized:,} of {len(values):,} samples lie above {MEMORIZED} (dashed line)."
    drawn = layered(bars, line_at(MEMORIZED, VERMILION))
    return finish(drawn, "Memorization", f"Histogram of memorization. {text}", subtitle=[text])


def influence_histogram(scores: Scores) -> alt.Chart | alt.LayerChart:
    """Histogram of the largest influence, with a line where chance alone stops being an explanation."""
    known = scores.frame.filter(pl.col("score").is_not_null())
    values = known["score"].to_numpy().astype(np.float64)
    beyond = (
        known.filter(pl.col("p_value") <= CHANCE)["score"] if len(known) else pl.Series([], dtype=pl.Float64)
    )
    text = f"{len(beyond):,} of {len(known):,} samples have p ≤ {CHANCE:g}; {CHANCE * len(known):,.0f} would by chance"
    level = beyond.min()
    if isinstance(level, float):
        text += f" (dashed line: from {number(level)} on)"
    return grouped_histogram(
        [Group("samples", values, BLUE)],
        "Largest influence on a test record",
        "largest influence, a difference of probabilities",
        subtitle=[f"{text}."],
        line=level if isinstance(level, float) else None,
    )


def grouped_histogram(
    groups: Sequence[Group],
    title: str,
    x_title: str,
    *,
    subtitle: Sequence[str] = (),
    axis: Axis | None = None,
    line: float | None = None,
) -> alt.Chart | alt.LayerChart:
    """Overlaid histograms, each as shares of its own group, so that a small group shows beside a large one.

    ``line`` is where a dashed line stands.
    """
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
        x=x, x2=alt.X2("to:Q"), y=y, y2=alt.Y2("zero:Q"), color=shade, tooltip=_bar_tooltip("records")
    )
    layers = [drawn]
    if several:
        # Overlaid bars mix their colours; an outline keeps each group's shape to itself.
        outline = alt.Chart(inline([row for name, one in counted.items() for row in _outline(one, name)]))
        steps = outline.mark_line(interpolate="step-after", strokeWidth=2)
        layers.append(steps.encode(x=x, y=y, color=shade, order=alt.Order("from:Q")))
    if line is not None:
        layers.append(line_at(line, VERMILION))
    medians = [
        f"{name}: {one.total:,}, median {number(_median(group.values))}"
        for (name, one), group in zip(counted.items(), groups)
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


def _median(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None
