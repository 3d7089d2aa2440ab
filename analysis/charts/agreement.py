"""How far scores say the same: rank correlation, shared answers, and the attacked records among the top of a cheap score."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..scores import Finding
from .axes import number, percent
from .style import BLUE, GREY, ORANGE, colours, dashes, finish, inline, interval, layered, matrix

if TYPE_CHECKING:
    import altair as alt


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
    spoken = "; ".join(
        f"{r['first']} and {r['second']}: {r['text']}" for r in rows[: 2 * len(finding.metrics) : 2]
    )
    return finish(
        matrix(base, shade),
        "Rank correlation of the scores",
        f"Matrix of Spearman's rho. {spoken}",
        height=60 + 44 * len(names),
    )


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
    small = alt.ExprRef(f"width < {36 * max(len(names), 1)} ? 9 : 12")
    at = next((f" at FPR {percent(float(m.parameters['fpr']))}" for m in found), "")
    spoken = "; ".join(f"{r['row']} and {r['column']} among {r['among']}: {r['text']}" for r in rows)
    return finish(
        matrix(base, shade, small),
        f"Agreement of the scores{at}",
        f"Matrix of agreement. {spoken}",
        subtitle=["Share of records answered alike: members above the diagonal, non-members below."],
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
        *interval(".3f"),
    ]
    base = alt.Chart(inline(rows))
    # The intervals come in no tooltip colour of their own: thin rules behind the points.
    spread = base.mark_rule(opacity=0.45).encode(x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=series)
    lines = base.mark_line().encode(
        x=x, y=y, color=series, strokeDash=alt.StrokeDash("score:N", scale=dashes(names))
    )
    points = base.mark_point(filled=True, size=55, opacity=1).encode(x=x, y=y, color=series, tooltip=told)
    layers = [spread, lines, points]
    if base_rate is not None:
        chance = alt.Chart(inline([{"rate": base_rate}])).mark_rule(color=GREY, strokeDash=[4, 3])
        layers.append(chance.encode(y=alt.Y("rate:Q")))
    subtitle = [] if base_rate is None else [f"Dashed grey: picking members at random finds {base_rate:.1%}."]
    first = [row for row in rows if row["k"] == shares[0]]
    spoken = "; ".join(f"{row['score']} {row['precision']:.0%} of the top {row['k']:.0%}" for row in first)
    return finish(
        layered(*layers),
        "Vulnerable records among the top k",
        f"Precision at k. {spoken}. {' '.join(subtitle)}",
        subtitle=subtitle,
    )
