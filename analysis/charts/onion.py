"""Chart of who is exposed before and after the most exposed records were removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..scores import Finding
from .axes import percent
from .style import BLUE, GREY, VERMILION, finish, inline, layered

if TYPE_CHECKING:
    import altair as alt

_NAMES = {
    "exposed_with_removed": "before, with those removed",
    "exposed_before": "before, those that stayed",
    "exposed_after": "after, those that stayed",
}


def onion_chart(finding: Finding) -> alt.Chart | alt.LayerChart:
    """Share of records exposed at each threshold or FPR, before and after the removal; the first score is drawn."""
    import altair as alt

    found = [m for m in finding.metrics if m.metric in _NAMES and m.value is not None]
    score = next((m.parameters["score"] for m in found), "memorization")
    found = [m for m in found if m.parameters["score"] == score]
    by_rate = any("fpr" in m.parameters for m in found)
    level = "fpr" if by_rate else "threshold"
    rows: list[dict[str, Any]] = [
        {
            "group": _NAMES[m.metric],
            "level": f"{m.parameters[level]:.4g}",
            "share": m.value,
            "low": m.ci_low,
            "high": m.ci_high,
            "records": m.n,
        }
        for m in found
    ]
    levels = [f"{at:.4g}" for at in sorted({float(m.parameters[level]) for m in found})]
    groups = list(_NAMES.values())
    x = alt.X(
        "level:N",
        sort=levels,
        axis=alt.Axis(title="false-positive rate" if by_rate else f"{score} above", labelAngle=0),
    )
    # A place in a band of its own for each group, so that intervals do not hide each other.
    beside = alt.XOffset("group:N", sort=groups, scale=alt.Scale(domain=groups, paddingOuter=0.5))
    shade = alt.Color(
        "group:N", scale=alt.Scale(domain=groups, range=[GREY, BLUE, VERMILION]), legend=alt.Legend()
    )
    shape = alt.Shape(
        "group:N", scale=alt.Scale(domain=groups, range=["square", "circle", "diamond"]), legend=alt.Legend()
    )
    axis = alt.Axis(title="share of the records that are exposed", format="~%", tickCount=6)
    base = alt.Chart(inline(rows))
    spread = base.mark_rule(opacity=0.6, strokeWidth=2).encode(
        x=x, xOffset=beside, y=alt.Y("low:Q", axis=axis), y2="high:Q", color=shade
    )
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=x,
        xOffset=beside,
        y=alt.Y("share:Q", axis=axis),
        color=shade,
        shape=shape,
        tooltip=[
            alt.Tooltip("group:N"),
            alt.Tooltip("level:N", title="false-positive rate" if by_rate else "threshold"),
            alt.Tooltip("share:Q", format=".2%"),
            alt.Tooltip("low:Q", title="95% from", format=".2%"),
            alt.Tooltip("high:Q", title="to", format=".2%"),
            alt.Tooltip("records:Q", format=","),
        ],
    )
    newly = [
        f"{percent(m.value)} above {m.parameters[level]:.4g}"
        if not by_rate
        else f"{percent(m.value)} at FPR {m.parameters[level]:.4g}"
        for m in finding.metrics
        if m.metric == "newly_exposed" and m.value is not None and m.parameters["score"] == score
    ]
    told = [f"Newly exposed among those that were not: {', '.join(newly)}."] if newly else []
    spoken = "; ".join(f"{row['group']} at {row['level']}: {percent(row['share'])}" for row in rows)
    return finish(
        layered(spread, points),
        "Exposed records before and after the removal",
        f"Share exposed. {spoken}. {' '.join(told)}",
        subtitle=told,
    )
