"""Charts over groups of records: how large they are, how an attack does within each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from ..scores import Finding, Scores
from .axes import number, percent
from .style import BLUE, GREY, colours, finish, inline, interval, layered, line_at

if TYPE_CHECKING:
    import altair as alt

MOST_GROUPS = 30
"""Groups that are drawn; the first ones of an evaluation are its largest."""


def cluster_sizes(scores: Scores) -> alt.Chart | alt.LayerChart:
    """Samples in each subpopulation, from the largest down."""
    import altair as alt

    known = scores.frame.filter(pl.col("score").is_not_null())
    counted = (
        known.group_by("cluster").agg(
            pl.len().alias("samples"), pl.col("member").sum().alias("members"), pl.col("distance").median()
        )
        if len(known)
        else pl.DataFrame(
            schema={"cluster": pl.Int32, "samples": pl.Int64, "members": pl.Int64, "distance": pl.Float64}
        )
    ).sort("cluster")
    rows = [
        {
            "cluster": f"cluster {row['cluster']}",
            "samples": row["samples"],
            "share": row["samples"] / len(known),
            "members": row["members"],
            "distance": number(row["distance"]),
        }
        for row in counted.head(MOST_GROUPS).iter_rows(named=True)
    ]
    bars = (
        alt.Chart(inline(rows))
        .mark_bar(color=BLUE, opacity=0.85)
        .encode(
            x=alt.X("samples:Q", axis=alt.Axis(title="samples", format=",d", tickMinStep=1)),
            y=alt.Y("cluster:N", sort=[str(row["cluster"]) for row in rows], axis=alt.Axis(title=None)),
            tooltip=[
                alt.Tooltip("cluster:N"),
                alt.Tooltip("samples:Q", format=","),
                alt.Tooltip("share:Q", title="share of the samples", format=".1%"),
                alt.Tooltip("members:Q", title="members of the target", format=","),
                alt.Tooltip("distance:N", title="median distance to the centre"),
            ],
        )
    )
    smallest = (
        [f"The smallest of {len(counted)} holds {rows[-1]['samples']:,} of {len(known):,} samples."]
        if rows
        else []
    )
    spoken = ", ".join(f"{row['samples']:,}" for row in rows)
    return finish(
        bars,
        "Subpopulations by size",
        f"Bars, samples of each cluster: {spoken or 'none'}.",
        subtitle=smallest,
        height=60 + 28 * max(len(rows), 1),
    )


def auc_by_group(finding: Finding) -> alt.Chart | alt.LayerChart:
    """AUC of each score over all records and within each group, with intervals; TPR at low FPR on the points."""
    import altair as alt

    areas = [metric for metric in finding.metrics if metric.metric == "auc"]
    names = list(dict.fromkeys(str(metric.parameters["score"]) for metric in areas))
    groups = list(dict.fromkeys(str(metric.parameters["group"]) for metric in areas))
    shown = groups[: MOST_GROUPS + 1]
    told = _rates(finding)
    rows: list[dict[str, Any]] = [
        {
            "score": str(metric.parameters["score"]),
            "group": str(metric.parameters["group"]),
            "auc": metric.value,
            "low": metric.ci_low,
            "high": metric.ci_high,
            "members": metric.parameters["members"],
            "others": metric.parameters["non_members"],
            "rates": told.get((metric.parameters["score"], metric.parameters["group"]), "–"),
        }
        for metric in areas
        if metric.value is not None and metric.parameters["group"] in shown
    ]
    base = alt.Chart(inline(rows)).encode(
        y=alt.Y("group:N", sort=shown, axis=alt.Axis(title=None)), yOffset=alt.YOffset("score:N", sort=names)
    )
    x = alt.X("auc:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title="AUC within the group", tickCount=6))
    shade = alt.Color("score:N", scale=colours(names), legend=alt.Legend() if names[1:] else None)
    spread = base.mark_rule(opacity=0.6).encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"), color=shade)
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        x=x,
        color=shade,
        tooltip=[
            alt.Tooltip("score:N"),
            alt.Tooltip("group:N"),
            alt.Tooltip("auc:Q", title="AUC", format=".3f"),
            *interval(".3f"),
            alt.Tooltip("rates:N", title="TPR"),
            alt.Tooltip("members:Q", format=","),
            alt.Tooltip("others:Q", title="non-members", format=","),
        ],
    )
    subtitle = ["Dashed grey: no better than guessing."]
    if len(groups) > len(shown):
        subtitle.append(f"The first {MOST_GROUPS} of {len(groups) - 1} groups.")
    spoken = "; ".join(f"{row['score']}, {row['group']}: {number(row['auc'])}" for row in rows[:8])
    return finish(
        layered(spread, points, line_at(0.5)),
        "AUC over all records and within each group",
        f"AUC with intervals. {spoken}.",
        subtitle=subtitle,
        height=60 + max(len(shown), 1) * max(26, 16 * len(names)),
    )


def tpr_by_group(finding: Finding) -> alt.Chart | alt.LayerChart:
    """Share of each group's members that an attack names at the lowest FPR, one threshold for all, with intervals.

    A grey tick is the share of the group's non-members that it names. Of several scores the first is drawn.
    """
    import altair as alt

    rates = [metric for metric in finding.metrics if metric.metric == "tpr_at_fpr"]
    first = min(rates, key=lambda metric: float(metric.parameters["fpr"]), default=None)
    if first is not None:
        same = (first.parameters["score"], first.parameters["fpr"])
        rates = [m for m in rates if (m.parameters["score"], m.parameters["fpr"]) == same]
    alarms = {
        m.parameters["group"]: m.value
        for m in finding.metrics
        if first is not None
        and m.metric == "fpr_at_threshold"
        and (m.parameters["score"], m.parameters["fpr"]) == same
    }
    shown = rates[: MOST_GROUPS + 1]
    rows: list[dict[str, Any]] = [
        {
            "group": str(m.parameters["group"]),
            "tpr": m.value,
            "low": m.ci_low,
            "high": m.ci_high,
            "told": percent(m.value) if m.value is not None else "not resolved",
            "alarms": alarms.get(m.parameters["group"]),
            "alarms_told": percent(alarms.get(m.parameters["group"])),
            "members": m.n,
        }
        for m in shown
    ]
    names = [row["group"] for row in rows]
    base = alt.Chart(inline(rows)).encode(y=alt.Y("group:N", sort=names, axis=alt.Axis(title=None)))
    tooltip = [
        alt.Tooltip("group:N"),
        alt.Tooltip("told:N", title="of its members"),
        *interval(".2%"),
        alt.Tooltip("alarms_told:N", title="of its non-members"),
        alt.Tooltip("members:Q", format=","),
    ]
    axis = alt.Axis(title="share of the group that the attack names", format="~%", tickCount=6)
    x = alt.X("low:Q", scale=alt.Scale(domainMin=0), axis=axis)
    spread = base.mark_rule(color=BLUE, opacity=0.6, strokeWidth=2).encode(
        x=x, x2=alt.X2("high:Q"), tooltip=tooltip
    )
    dots = base.transform_filter("datum.tpr !== null").mark_point(color=BLUE, filled=True, size=70, opacity=1)
    false = base.transform_filter("datum.alarms !== null").mark_tick(color=GREY, thickness=2)
    at = f" at FPR {percent(float(first.parameters['fpr']))}" if first is not None else ""
    subtitle = ["Dot: members, with the 95% interval. Grey tick: non-members, wrongly."]
    if len(rates) > len(shown):
        subtitle.append(f"The first {MOST_GROUPS} of {len(rates) - 1} groups.")
    spoken = "; ".join(f"{row['group']}: {row['told']}" for row in rows[:8])
    return finish(
        layered(
            false.encode(x=alt.X("alarms:Q"), tooltip=tooltip),
            spread,
            dots.encode(x=alt.X("tpr:Q"), tooltip=tooltip),
        ),
        f"Members named{at}, by group",
        f"Share of each group's members that the attack names. {spoken}.",
        subtitle=subtitle,
        height=60 + 26 * max(len(shown), 1),
    )


def _rates(finding: Finding) -> dict[tuple[Any, Any], str]:
    """TPR at each FPR of a score within a group, in words."""
    told: dict[tuple[Any, Any], list[str]] = {}
    for metric in finding.metrics:
        if metric.metric == "tpr_at_fpr":
            rate = f"{metric.value:.1%}" if metric.value is not None else "not resolved"
            where = (metric.parameters["score"], metric.parameters["group"])
            told.setdefault(where, []).append(f"{rate} at {metric.parameters['fpr']:.1%}")
    return {where: ", ".join(parts) for where, parts in told.items()}
