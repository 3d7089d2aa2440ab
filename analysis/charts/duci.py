"""Which share of the records was used: estimates with their intervals, and what is true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..scores import Finding
from .axes import percent
from .style import GREY, colours, finish, inline, layered

if TYPE_CHECKING:
    import altair as alt

KINDS = ("group", "label")


def usage_shares(finding: Finding) -> alt.Chart | alt.LayerChart:
    """The estimated share of all records and of each group with its interval; a tick at the true share."""
    import altair as alt

    rows: list[dict[str, Any]] = []
    for metric in finding.metrics:
        if metric.metric != "share" or "true_share" not in metric.parameters:
            continue
        kind = next((kind for kind in KINDS if kind in metric.parameters), None)
        rows.append(
            {
                "of": f"{kind} {metric.parameters[kind]}" if kind else "all records",
                "score": metric.parameters["score"],
                "share": metric.value,
                "low": metric.ci_low,
                "high": metric.ci_high,
                "true": metric.parameters["true_share"],
                "told": percent(metric.value),
                "n": metric.n,
            }
        )
    scores = list(dict.fromkeys(row["score"] for row in rows))
    parts = list(dict.fromkeys(row["of"] for row in rows))
    y = alt.Y("of:N", sort=parts, axis=alt.Axis(title=None, grid=False, ticks=False, domain=False))
    offset = alt.YOffset("score:N", sort=scores)
    colour = alt.Color("score:N", scale=colours(scores), legend=alt.Legend() if len(scores) > 1 else None)
    axis = alt.Axis(title="share used for training, 95% interval", format="~%", tickCount=6)
    x = alt.X("low:Q", scale=alt.Scale(domain=[0, 1]), axis=axis)
    tooltip = [
        alt.Tooltip("of:N"),
        alt.Tooltip("score:N"),
        alt.Tooltip("told:N", title="estimate"),
        alt.Tooltip("low:Q", title="95% from", format=".1%"),
        alt.Tooltip("high:Q", title="to", format=".1%"),
        alt.Tooltip("true:Q", title="true share", format=".1%"),
        alt.Tooltip("n:Q", title="records", format=",d"),
    ]
    base = alt.Chart(inline(rows))
    spread = (
        base.transform_filter("datum.low !== null")
        .mark_rule(strokeWidth=2)
        .encode(x=x, x2="high:Q", y=y, yOffset=offset, color=colour, tooltip=tooltip)
    )
    dots = (
        base.transform_filter("datum.share !== null")
        .mark_point(filled=True, size=80, opacity=1)
        .encode(x=alt.X("share:Q"), y=y, yOffset=offset, color=colour, tooltip=tooltip)
    )
    truth = base.mark_tick(color=GREY, thickness=2, size=18).encode(
        x="true:Q", y=y, yOffset=offset, tooltip=[alt.Tooltip("true:Q", title="true share", format=".1%")]
    )
    spoken = "; ".join(f"{row['of']} by {row['score']}: {row['told']}" for row in rows[:8])
    return finish(
        layered(spread, truth, dots),
        "Share of the data set used",
        f"Estimated share of the data set used for training. {spoken or 'None could be estimated'}.",
        subtitle=["Grey tick: the true share. Without a dot: the score tells no members from non-members."],
        height=max(90, len(parts) * (16 + 18 * max(len(scores), 1))),
    )
