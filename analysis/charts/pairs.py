"""Two scores of the same records against each other: points where they can be told apart, cells where not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .axes import Axis, axis_for, number
from .style import BLUE, VERMILION, finish, inline, layered

if TYPE_CHECKING:
    import altair as alt


Floats = npt.NDArray[np.float64]
MOST_POINTS = 4_000
MOST_MARKED = 1_000
CELLS = (64, 44)


@dataclass(frozen=True)
class Pairs:
    """Two values a record: ``x`` and ``y`` (N,), ``sample_id`` (N,), and which records to set off, ``marked`` (N,).

    ``about`` says in a few words what each record is; empty for nothing.
    """

    sample_id: npt.NDArray[np.int64]
    x: Floats
    y: Floats
    marked: npt.NDArray[np.bool_]
    x_name: str
    y_name: str
    marked_name: str = "singled out"
    what: str = "records"
    about: tuple[str, ...] = ()


def pairs_chart(
    pairs: Pairs, title: str, correlation: str = "", *, brush: str = ""
) -> alt.Chart | alt.LayerChart:
    """Scatter of two scores. More than 4,000 records are counted in cells, those set off stay points; it says so.

    ``correlation`` is a sentence under the title. ``brush`` names a selection: a rectangle drawn over the chart, whose
    ranges of x and y a page can ask for by that name.
    """
    import altair as alt

    known = np.isfinite(pairs.x) & np.isfinite(pairs.y)
    ids, x, y, marked = pairs.sample_id[known], pairs.x[known], pairs.y[known], pairs.marked[known]
    x_axis, y_axis = axis_for(x), axis_for(y)
    subtitle = [correlation] if correlation else []
    binned = len(x) > MOST_POINTS
    single = np.ones(len(x), dtype=bool)
    if binned:
        single = marked.copy()
        if marked.sum() > MOST_MARKED:
            edge = np.partition(y[marked], -MOST_MARKED)[-MOST_MARKED]
            single &= y >= edge
        subtitle.append(
            f"{int((~single).sum()):,} of {len(x):,} {pairs.what} are counted in cells (stronger colour = more)"
            + (f"; {int(single.sum()):,} are drawn singly." if single.any() else ".")
        )
    beyond = int(((x < x_axis.low) | (y < y_axis.low)).sum())
    if beyond:
        subtitle.append(f"{beyond:,} so near to 0 that the axis leaves them out: drawn at its end.")
    across = alt.X("x:Q", scale=x_axis.scale(), axis=x_axis.draw(pairs.x_name + x_axis.note))
    up = alt.Y("y:Q", scale=y_axis.scale(), axis=y_axis.draw(pairs.y_name + y_axis.note))
    layers: list[Any] = []
    if binned:
        layers.append(_cells(x[~single], y[~single], x_axis, y_axis, pairs))
    names = [f"other {pairs.what}", pairs.marked_name]
    columns = [values[single].tolist() for values in (x, y, ids, marked)]
    rows = [
        {"x": a, "y": b, "sample": i, "group": names[m], "marked": m, "a": number(a), "b": number(b)}
        for a, b, i, m in zip(*columns, strict=True)
    ]
    if pairs.about:
        told = np.array(pairs.about, dtype=object)[known][single].tolist()
        rows = [{**row, "about": words} for row, words in zip(rows, told, strict=True)]
    rows.sort(key=lambda row: row["marked"])  # those set off are drawn last, on top
    shade = alt.Color("group:N", scale=alt.Scale(domain=names, range=[BLUE, VERMILION]), legend=alt.Legend())
    shape = alt.Shape(
        "group:N", scale=alt.Scale(domain=names, range=["circle", "diamond"]), legend=alt.Legend()
    )
    points = alt.Chart(inline(rows)).mark_point(filled=True, opacity=0.6)
    points = points.encode(
        x=across,
        y=up,
        tooltip=[
            alt.Tooltip("sample:Q", title="sample", format="d"),
            *([alt.Tooltip("about:N", title="which is")] if pairs.about else []),
            alt.Tooltip("a:N", title=pairs.x_name),
            alt.Tooltip("b:N", title=pairs.y_name),
            alt.Tooltip("group:N"),
        ],
        size=alt.condition("datum.marked", alt.value(48), alt.value(24)),
        **({"color": shade, "shape": shape} if marked.any() else {"color": alt.value(BLUE)}),
    )
    if brush:
        points = points.add_params(alt.selection_interval(name=brush, encodings=["x", "y"]))
    layers.append(points)
    description = f"{pairs.y_name} against {pairs.x_name} of {len(x):,} {pairs.what}. {' '.join(subtitle)}"
    return finish(layered(*layers), title, description, subtitle=subtitle)


def _cells(x: Floats, y: Floats, x_axis: Axis, y_axis: Axis, pairs: Pairs) -> alt.Chart:
    """A heat map of counts whose cells are equally large on the page."""
    import altair as alt

    x_edges, y_edges = x_axis.edges(CELLS[0]), y_axis.edges(CELLS[1])
    counts, _, _ = np.histogram2d(
        np.clip(x, x_edges[0], x_edges[-1]), np.clip(y, y_edges[0], y_edges[-1]), bins=(x_edges, y_edges)
    )
    rows = [
        {
            "x": float(x_edges[i]),
            "x2": float(x_edges[i + 1]),
            "y": float(y_edges[j]),
            "y2": float(y_edges[j + 1]),
            "count": int(counts[i, j]),
            "a": f"{number(float(x_edges[i]))} to {number(float(x_edges[i + 1]))}",
            "b": f"{number(float(y_edges[j]))} to {number(float(y_edges[j + 1]))}",
        }
        for i, j in zip(*np.nonzero(counts), strict=True)
    ]
    # One hue whose opacity is the count: few records fade into the page, be it light or dark.
    strength = alt.Opacity(
        "count:Q",
        scale=alt.Scale(type="log", domain=[1, max(float(counts.max(initial=1)), 2.0)], range=[0.12, 1]),
        legend=None,
    )
    return (
        alt.Chart(inline(rows))
        .mark_rect(color=BLUE)
        .encode(
            x=alt.X("x:Q", scale=x_axis.scale(), axis=x_axis.draw(pairs.x_name + x_axis.note)),
            x2=alt.X2("x2:Q"),
            y=alt.Y("y:Q", scale=y_axis.scale(), axis=y_axis.draw(pairs.y_name + y_axis.note)),
            y2=alt.Y2("y2:Q"),
            opacity=strength,
            tooltip=[
                alt.Tooltip("count:Q", title=pairs.what, format=","),
                alt.Tooltip("a:N", title=pairs.x_name),
                alt.Tooltip("b:N", title=pairs.y_name),
            ],
        )
    )
