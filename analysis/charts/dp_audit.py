"""Bounds on epsilon: how much each method proves, and the plain estimate beside it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..scores import Finding
from .axes import number
from .style import GREY, colours, finish, inline, layered

if TYPE_CHECKING:
    import altair as alt

METHODS = ("one-run", "clopper-pearson", "gaussian")


def epsilon_bounds(finding: Finding) -> alt.Chart | alt.LayerChart:
    """A bar from 0 to each lower bound on epsilon, by method and score; a tick at the estimate where there is one."""
    import altair as alt

    rows: list[dict[str, Any]] = []
    for metric in finding.metrics:
        if metric.metric != "epsilon_lower" or metric.ci_low is None:
            continue
        estimate = metric.value if metric.value is not None and math.isfinite(metric.value) else None
        rows.append(
            {
                "method": metric.parameters["method"],
                "score": metric.parameters["score"],
                "bound": metric.ci_low,
                "estimate": estimate,
                "bound_told": number(metric.ci_low),
                "told": number(estimate),
                "n": metric.n,
            }
        )
    scores = list(dict.fromkeys(row["score"] for row in rows))
    methods = [name for name in METHODS if any(row["method"] == name for row in rows)]
    y = alt.Y("method:N", sort=methods, axis=alt.Axis(title=None, grid=False, ticks=False, domain=False))
    offset = alt.YOffset("score:N", sort=scores)
    tooltip = [
        alt.Tooltip("method:N"),
        alt.Tooltip("score:N"),
        alt.Tooltip("bound_told:N", title="epsilon at least"),
        alt.Tooltip("told:N", title="estimate"),
        alt.Tooltip("n:Q", title="records", format=",d"),
    ]
    base = alt.Chart(inline(rows))
    bars = base.mark_bar().encode(
        x=alt.X("bound:Q", scale=alt.Scale(domainMin=0), axis=alt.Axis(title="epsilon", tickCount=6)),
        y=y,
        yOffset=offset,
        color=alt.Color("score:N", scale=colours(scores), legend=alt.Legend() if len(scores) > 1 else None),
        tooltip=tooltip,
    )
    ticks = (
        base.transform_filter("datum.estimate !== null")
        .mark_tick(color=GREY, thickness=2)
        .encode(x="estimate:Q", y=y, yOffset=offset, tooltip=tooltip)
    )
    confidence = next(
        (float(m.parameters["confidence"]) for m in finding.metrics if "confidence" in m.parameters), 0
    )
    spoken = "; ".join(f"{row['method']} with {row['score']}: at least {row['bound_told']}" for row in rows)
    return finish(
        layered(bars, ticks),
        "Lower bounds on epsilon",
        f"Lower bounds on epsilon. {spoken or 'None could be computed'}.",
        subtitle=[
            f"Bar: epsilon is at least that, at a confidence of {confidence:.4g}. Grey tick: the plain estimate.",
            "one-run rests on membership by fair coins, gaussian on the training being a Gaussian mechanism.",
        ],
        height=max(90, len(methods) * (30 + 20 * len(scores))),
    )
