"""Chart of an attack's success against the number of shadow models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..scores import Finding
from .axes import number
from .style import colours, dashes, finish, inline, layered

if TYPE_CHECKING:
    import altair as alt


def shadow_curve_chart(finding: Finding) -> alt.Chart | alt.LayerChart:
    """AUC against the number of shadow runs with its band over draws, a line for all and one for memorized records."""
    import altair as alt

    curve = [m for m in finding.metrics if m.metric == "auc" and m.value is not None]
    several = len({str(m.parameters["score"]) for m in curve}) > 1
    rows: list[dict[str, Any]] = [
        {
            "series": f"{m.parameters['score']}, " * several + f"{m.parameters['records']} records",
            "shadows": m.parameters["shadows"],
            "auc": m.value,
            "low": m.ci_low,
            "high": m.ci_high,
            "records": m.n,
            "over": m.parameters["interval"],
            "coverage": m.parameters["coverage"],
        }
        for m in curve
    ]
    names = list(dict.fromkeys(str(row["series"]) for row in rows))
    numbers = sorted({int(row["shadows"]) for row in rows}) or [1, 2]
    x = alt.X(
        "shadows:Q",
        scale=alt.Scale(
            type="log", base=2, domain=[numbers[0], max(numbers[-1], numbers[0] + 1)], nice=False
        ),
        axis=alt.Axis(title="shadow models, log scale", values=numbers, format="d"),
    )
    y_axis = alt.Axis(title="AUC")
    scale = alt.Scale(zero=False)
    shade = alt.Color("series:N", scale=colours(names), legend=alt.Legend())
    base = alt.Chart(inline(rows))
    low = alt.Y("low:Q", scale=scale, axis=y_axis)
    band = base.transform_filter("datum.over == 'draws'").mark_area(opacity=0.22)
    band = band.encode(x=x, y=low, y2="high:Q", color=shade)
    alone = base.transform_filter("datum.over == 'records'").mark_rule(opacity=0.5, strokeWidth=2)
    alone = alone.encode(x=x, y=low, y2="high:Q", color=shade)
    y = alt.Y("auc:Q", scale=scale, axis=y_axis)
    lines = base.mark_line().encode(
        x=x, y=y, color=shade, strokeDash=alt.StrokeDash("series:N", scale=dashes(names))
    )
    points = base.mark_point(filled=True, size=55, opacity=1).encode(
        x=x,
        y=y,
        color=shade,
        tooltip=[
            alt.Tooltip("series:N"),
            alt.Tooltip("shadows:Q", title="shadow models"),
            alt.Tooltip("auc:Q", title="AUC", format=".3f"),
            alt.Tooltip("low:Q", title="95% from", format=".3f"),
            alt.Tooltip("high:Q", title="to", format=".3f"),
            alt.Tooltip("over:N", title="interval over"),
            alt.Tooltip("records:Q", title="records with a score", format=","),
            alt.Tooltip("coverage:Q", title="share of them", format=".0%"),
        ],
    )
    told = [
        "Bands: 95% of the draws of so many shadow models. Upright line, where all are taken: 95% interval over records."
    ]
    spoken = "; ".join(
        f"{name}: {number(ends[0]['auc'])} with {ends[0]['shadows']}, {number(ends[-1]['auc'])} with {ends[-1]['shadows']}"
        for name in names
        if (ends := [row for row in rows if row["series"] == name])
    )
    return finish(
        layered(band, alone, lines, points),
        "How many shadow models the attack needs",
        f"AUC against the number of shadow models. {spoken}.",
        subtitle=told,
    )
