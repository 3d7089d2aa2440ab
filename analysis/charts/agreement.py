"""Charts of how far scores agree: a matrix of shares, and two scores of the same records against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..scores import Finding, Scores
from .axes import number, percent
from .pairs import Pairs, pairs_chart
from .style import BLUE, finish, inline, layered

if TYPE_CHECKING:
    import altair as alt


def agreement_matrix(finding: Finding) -> alt.Chart | alt.LayerChart:
    """Agreement of every pair of scores: members above the diagonal, non-members below it."""
    import altair as alt

    rows = []
    found = [m for m in finding.metrics if m.metric == "agreement"]
    names = list(dict.fromkeys(str(m.parameters[end]) for m in found for end in ("first", "second")))
    for m in found:
        first, second, among = (str(m.parameters[key]) for key in ("first", "second", "among"))
        row, column = (first, second) if among == "members" else (second, first)
        rows.append(
            {
                "row": row,
                "column": column,
                "among": among,
                "value": m.value,
                "text": "–" if m.value is None else f"{m.value:.2f}",
                "interval": f"{number(m.ci_low, 2)} to {number(m.ci_high, 2)}",
                "chance": number(m.parameters.get("by_chance"), 2),
                "n": m.n,
            }
        )
    base = alt.Chart(inline(rows)).encode(
        x=alt.X(
            "column:N",
            sort=names,
            scale=alt.Scale(domain=names),
            axis=alt.Axis(title=None, labelAngle=-30, labelOverlap=False),
        ),
        y=alt.Y("row:N", sort=names, scale=alt.Scale(domain=names), axis=alt.Axis(title=None)),
        tooltip=[
            alt.Tooltip("row:N", title="score"),
            alt.Tooltip("column:N", title="and"),
            alt.Tooltip("among:N"),
            alt.Tooltip("text:N", title="agreement"),
            alt.Tooltip("interval:N", title="95% interval"),
            alt.Tooltip("chance:N", title="by chance"),
            alt.Tooltip("n:Q", title="records", format=","),
        ],
    )
    shade = alt.Color(
        "value:Q",
        scale=alt.Scale(domain=[0, 1], range=["#f4f4f4", BLUE]),
        legend=alt.Legend(title="share answered alike"),
    )
    # The cells have their own ground, so their text has its own colour on light pages and on dark ones.
    small = alt.ExprRef(f"width < {36 * max(len(names), 1)} ? 9 : 12")
    drawn = layered(
        base.mark_rect().encode(color=shade),
        base.mark_text(color="#111111", fontSize=small).encode(text="text:N"),
    )
    at = next((f" at FPR {percent(float(m.parameters['fpr']))}" for m in found), "")
    spoken = "; ".join(f"{r['row']} and {r['column']} among {r['among']}: {r['text']}" for r in rows)
    return finish(
        drawn,
        f"Agreement of the scores{at}",
        f"Matrix of agreement. {spoken}",
        subtitle=["Share of records answered alike: members above the diagonal, non-members below."],
        height=60 + 44 * len(names),
    )


def score_pairs(first: Scores, second: Scores, names: tuple[str, str]) -> alt.Chart | alt.LayerChart:
    """Two scores of the target's members against each other, the first one across."""
    joined = (
        first.frame.select("sample_id", "member", x="score")
        .join(second.frame.select("sample_id", y="score"), on="sample_id")
        .drop_nulls()
    )
    inside = joined.filter(joined["member"])
    pairs = Pairs(
        sample_id=inside["sample_id"].to_numpy().astype(np.int64),
        x=inside["x"].to_numpy(),
        y=inside["y"].to_numpy(),
        marked=np.zeros(len(inside), dtype=bool),
        x_name=names[0],
        y_name=names[1],
        what="members",
    )
    return pairs_chart(pairs, f"{names[1]} against {names[0]}")
