"""What attacks tell of a whole training: lower bounds on its epsilon, the share of the data that it used, what LiRA would find."""

from __future__ import annotations

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
        *interval(".1%"),
        alt.Tooltip("true:Q", title="true share", format=".1%"),
        alt.Tooltip("n:Q", title="records", format=",d"),
    ]
    base = alt.Chart(inline(rows))
    spread = (
        base.transform_filter("datum.low !== null")
        .mark_rule(strokeWidth=2)
        .encode(x=x, x2=alt.X2("high:Q"), y=y, yOffset=offset, color=colour, tooltip=tooltip)
    )
    dots = (
        base.transform_filter("datum.share !== null")
        .mark_point(filled=True, size=80, opacity=1)
        .encode(x=alt.X("share:Q"), y=y, yOffset=offset, color=colour, tooltip=tooltip)
    )
    truth = base.mark_tick(color=GREY, thickness=2, size=18).encode(
        x=alt.X("true:Q"),
        y=y,
        yOffset=offset,
        tooltip=[alt.Tooltip("true:Q", title="true share", format=".1%")],
    )
    spoken = "; ".join(f"{row['of']} by {row['score']}: {row['told']}" for row in rows[:8])
    return finish(
        layered(spread, truth, dots),
        "Share of the data set used",
        f"Estimated share of the data set used for training. {spoken or 'None could be estimated'}.",
        subtitle=["Grey tick: the true share. Without a dot: the score tells no members from non-members."],
        height=max(90, len(parts) * (16 + 18 * max(len(scores), 1))),
    )


def tail_estimates(finding: Finding) -> alt.Chart | alt.LayerChart:
    """The TNR at each FNR with its interval; a tick at the FNR itself, which is what no leak gives."""
    import altair as alt

    rows: list[dict[str, Any]] = [
        {
            "of": percent(metric.parameters["fnr"]),
            "score": metric.parameters["score"],
            "tnr": metric.value,
            "low": metric.ci_low,
            "high": metric.ci_high,
            "guess": metric.parameters["fnr"],
            "told": percent(metric.value),
            "n": metric.n,
        }
        for metric in finding.metrics
        if metric.metric == "tnr_at_fnr"
    ]
    scores = list(dict.fromkeys(row["score"] for row in rows))
    parts = list(dict.fromkeys(row["of"] for row in rows))
    y = alt.Y("of:N", sort=parts, axis=alt.Axis(title="FNR", grid=False, ticks=False, domain=False))
    offset = alt.YOffset("score:N", sort=scores)
    colour = alt.Color("score:N", scale=colours(scores), legend=alt.Legend() if len(scores) > 1 else None)
    axis = alt.Axis(title="TNR, 95% interval", format="~%", tickCount=6)
    tooltip = [
        alt.Tooltip("of:N", title="FNR"),
        alt.Tooltip("score:N"),
        alt.Tooltip("told:N", title="TNR"),
        *interval(".1%"),
        alt.Tooltip("n:Q", title="non-members", format=",d"),
    ]
    base = alt.Chart(inline(rows))
    spread = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", scale=alt.Scale(domainMin=0), axis=axis),
        x2="high:Q",
        y=y,
        yOffset=offset,
        color=colour,
        tooltip=tooltip,
    )
    dots = (
        base.transform_filter("datum.tnr !== null")
        .mark_point(filled=True, size=80, opacity=1)
        .encode(x=alt.X("tnr:Q"), y=y, yOffset=offset, color=colour, tooltip=tooltip)
    )
    guess = base.mark_tick(color=GREY, thickness=2, size=18).encode(
        x="guess:Q",
        y=y,
        yOffset=offset,
        tooltip=[alt.Tooltip("guess:Q", title="without a leak", format=".1%")],
    )
    spoken = "; ".join(f"{row['told']} at an FNR of {row['of']} by {row['score']}" for row in rows[:8])
    return finish(
        layered(spread, guess, dots),
        "What the tail of the losses tells",
        f"Share of non-members beyond nearly all members: {spoken or 'none could be measured'}.",
        subtitle=[
            "By the loss, about as many members would LiRA name at that FPR, with shadow models. "
            "Grey tick: without a leak, where members are drawn like the others.",
        ],
        height=max(90, len(parts) * (16 + 18 * max(len(scores), 1))),
    )
