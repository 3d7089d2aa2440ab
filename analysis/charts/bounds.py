"""What attacks tell of a whole training: lower bounds on its epsilon, the share of the data that it used, what LiRA would find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..scores import Finding
from .axes import number, percent
from .style import GREY, colours, finish, inline, interval, layered

if TYPE_CHECKING:
    import altair as alt


METHODS = ("one-run", "clopper-pearson", "gaussian")


def epsilon_bounds(finding: Finding) -> alt.Chart | alt.LayerChart:
    """A bar from 0 to each lower bound on epsilon, by method and score; a tick at the estimate where there is one."""
    import altair as alt

    rows: list[dict[str, Any]] = []
    estimates = {
        (metric.parameters["method"], metric.parameters["score"]): metric.value
        for metric in finding.metrics
        if metric.metric == "epsilon_estimate"
    }
    for metric in finding.metrics:
        if metric.metric != "epsilon_lower" or metric.value is None:
            continue
        estimate = estimates.get((metric.parameters["method"], metric.parameters["score"]))
        rows.append(
            {
                "method": metric.parameters["method"],
                "score": metric.parameters["score"],
                "bound": metric.value,
                "estimate": estimate,
                "bound_told": number(metric.value),
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
        .encode(x=alt.X("estimate:Q"), y=y, yOffset=offset, tooltip=tooltip)
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
            f"Bar: epsilon is at least that, at a one-sided confidence of {confidence:.4g}. Grey tick: the plain estimate.",
            "one-run rests on how members were drawn, gaussian on the training being a Gaussian mechanism.",
        ],
        height=max(90, len(methods) * (30 + 20 * len(scores))),
    )


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
                "value": metric.value,
                "low": metric.ci_low,
                "high": metric.ci_high,
                "mark": metric.parameters["true_share"],
                "told": percent(metric.value),
                "n": metric.n,
            }
        )
    axis = alt.Axis(title="share used for training, 95% interval", format="~%", tickCount=6)
    tooltip = [
        alt.Tooltip("of:N"),
        alt.Tooltip("score:N"),
        alt.Tooltip("told:N", title="estimate"),
        *interval(".1%"),
        alt.Tooltip("mark:Q", title="true share", format=".1%"),
        alt.Tooltip("n:Q", title="records", format=",d"),
    ]
    x = alt.X("low:Q", scale=alt.Scale(domain=[0, 1]), axis=axis)
    drawn, height = _estimates(rows, x, None, tooltip, "true share")
    spoken = "; ".join(f"{row['of']} by {row['score']}: {row['told']}" for row in rows[:8])
    return finish(
        drawn,
        "Share of the data set used",
        f"Estimated share of the data set used for training. {spoken or 'None could be estimated'}.",
        subtitle=["Grey tick: the true share. Without a dot: the score tells no members from non-members."],
        height=height,
    )


def tail_estimates(finding: Finding) -> alt.Chart | alt.LayerChart:
    """The TNR at each FNR with its interval; a tick at the FNR itself, which is what no leak gives."""
    import altair as alt

    rows: list[dict[str, Any]] = [
        {
            "of": percent(metric.parameters["fnr"]),
            "score": metric.parameters["score"],
            "value": metric.value,
            "low": metric.ci_low,
            "high": metric.ci_high,
            "mark": metric.parameters["fnr"],
            "told": percent(metric.value),
            "n": metric.n,
        }
        for metric in finding.metrics
        if metric.metric == "tnr_at_fnr"
    ]
    axis = alt.Axis(title="TNR, 95% interval", format="~%", tickCount=6)
    tooltip = [
        alt.Tooltip("of:N", title="FNR"),
        alt.Tooltip("score:N"),
        alt.Tooltip("told:N", title="TNR"),
        *interval(".1%"),
        alt.Tooltip("n:Q", title="non-members", format=",d"),
    ]
    x = alt.X("low:Q", scale=alt.Scale(domainMin=0), axis=axis)
    drawn, height = _estimates(rows, x, "FNR", tooltip, "without a leak")
    spoken = "; ".join(f"{row['told']} at an FNR of {row['of']} by {row['score']}" for row in rows[:8])
    return finish(
        drawn,
        "What the tail of the losses tells",
        f"Share of non-members beyond nearly all members: {spoken or 'none could be measured'}.",
        subtitle=[
            "TNR: the share of non-members with a higher loss than all members but the share FNR of them. LiRA with shadow models would "
            "name about as large a share of the members, at an FPR of the same size. "
            "Grey tick: without a leak, where members are drawn like the others.",
        ],
        height=height,
    )


def _estimates(
    rows: Sequence[Mapping[str, Any]], x: alt.X, title: str | None, tooltip: list[alt.Tooltip], mark: str
) -> tuple[alt.LayerChart, int]:
    """Each ``value`` of something by some score with its interval, low to high, and a grey tick at its ``mark``; and the height that they take."""
    import altair as alt

    scores = list(dict.fromkeys(row["score"] for row in rows))
    parts = list(dict.fromkeys(row["of"] for row in rows))
    y = alt.Y("of:N", sort=parts, axis=alt.Axis(title=title, grid=False, ticks=False, domain=False))
    offset = alt.YOffset("score:N", sort=scores)
    colour = alt.Color("score:N", scale=colours(scores), legend=alt.Legend() if len(scores) > 1 else None)
    base = alt.Chart(inline(rows))
    spread = (
        base.transform_filter("datum.low !== null")
        .mark_rule(strokeWidth=2)
        .encode(x=x, x2=alt.X2("high:Q"), y=y, yOffset=offset, color=colour, tooltip=tooltip)
    )
    dots = (
        base.transform_filter("datum.value !== null")
        .mark_point(filled=True, size=80, opacity=1)
        .encode(x=alt.X("value:Q"), y=y, yOffset=offset, color=colour, tooltip=tooltip)
    )
    tick = base.mark_tick(color=GREY, thickness=2, size=18).encode(
        x=alt.X("mark:Q"), y=y, yOffset=offset, tooltip=[alt.Tooltip("mark:Q", title=mark, format=".1%")]
    )
    return layered(spread, tick, dots), max(90, len(parts) * (16 + 18 * max(len(scores), 1)))
