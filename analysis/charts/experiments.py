"""Two experiments side by side: before and after the most exposed records were removed, without and with a defence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..scores import Finding
from ..statistics.metric import Metric
from .axes import number, percent
from .style import BLUE, GREY, VERMILION, colours, finish, inline, interval, layered, line_at

if TYPE_CHECKING:
    import altair as alt

_NAMES = {
    "exposed_with_removed": "before, with those removed",
    "exposed_before": "before, those that stayed",
    "exposed_after": "after, those that stayed",
}


FEW_MODELS = 9
"""Models whose names do not stand in each other's way."""


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
        x=x, xOffset=beside, y=alt.Y("low:Q", axis=axis), y2=alt.Y2("high:Q"), color=shade
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
            *interval(".2%"),
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


def attacks_with_and_without(finding: Finding) -> alt.Chart | alt.LayerChart:
    """AUC of each score in the two experiments, joined by a line, each with its interval."""
    import altair as alt

    areas = [m for m in finding.metrics if m.metric == "auc" and m.value is not None]
    names = list(dict.fromkeys(str(m.parameters["score"]) for m in areas))
    experiments = list(dict.fromkeys(str(m.parameters["experiment"]) for m in areas))
    rows: list[dict[str, Any]] = [
        {
            "score": str(m.parameters["score"]),
            "experiment": str(m.parameters["experiment"]),
            "auc": m.value,
            "low": m.ci_low,
            "high": m.ci_high,
        }
        for m in areas
    ]
    changes = {
        str(m.parameters["score"]): m
        for m in finding.metrics
        if m.metric == "difference" and m.parameters["of"] == "auc"
    }
    base = alt.Chart(inline(rows))
    y = alt.Y("score:N", sort=names, axis=alt.Axis(title=None))
    apart = alt.YOffset("experiment:N", sort=experiments)
    shade = alt.Color("experiment:N", scale=colours(experiments, (VERMILION, BLUE)), legend=alt.Legend())
    joined = base.mark_line(color=GREY, opacity=0.6).encode(
        x=alt.X("auc:Q"), y=y, yOffset=apart, detail=alt.Detail("score:N")
    )
    spread = base.mark_rule(opacity=0.6).encode(
        x=alt.X("low:Q"), x2=alt.X2("high:Q"), y=y, yOffset=apart, color=shade
    )
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=alt.X("auc:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title="AUC")),
        y=y,
        yOffset=apart,
        color=shade,
        shape=alt.Shape("experiment:N", sort=experiments, legend=None),
        tooltip=[
            alt.Tooltip("score:N"),
            alt.Tooltip("experiment:N"),
            alt.Tooltip("auc:Q", title="AUC", format=".3f"),
            *interval(".3f"),
        ],
    )
    spoken = "; ".join(f"{name} {_change(changes[name])}" for name in names if name in changes)
    return finish(
        layered(joined, spread, points, line_at(0.5)),
        "Attacks without and with the defence",
        f"AUC in {' and '.join(experiments) or 'no experiment'}, with intervals. Change: {spoken or 'none'}.",
        subtitle=[*_costs(finding, experiments), "Dashed grey: no better than guessing."],
        height=60 + 44 * max(len(names), 1),
    )


def _change(metric: Metric) -> str:
    return f"{number(metric.value)} ({number(metric.ci_low)} to {number(metric.ci_high)})"


def _costs(finding: Finding, experiments: list[str]) -> list[str]:
    """A line for each experiment: test accuracy and epsilon."""
    lines = []
    for experiment in experiments:
        own = {m.metric: m.value for m in finding.metrics if m.parameters.get("experiment") == experiment}
        told = [
            f"{words} {number(own[name])}"
            for name, words in (("test_accuracy", "test accuracy"), ("epsilon", "epsilon"))
            if own.get(name) is not None
        ]
        if told:
            lines.append(f"{experiment}: {', '.join(told)}.")
    return lines


def risk_of_models(
    models: Sequence[tuple[str, Metric | None]], fpr: float | None
) -> alt.Chart | alt.LayerChart:
    """TPR at an FPR, or without one AUC, of one model after another, with intervals; dashed grey: guessing."""
    import altair as alt

    what = f"TPR at FPR {percent(fpr)}" if fpr is not None else "AUC"
    rows = [
        {"model": name, "value": m.value, "low": m.ci_low, "high": m.ci_high}
        for name, m in models
        if m is not None and m.value is not None
    ]
    form = ".2%" if fpr is not None else ".3f"
    names = [name for name, _ in models]
    # A few names all stand there, on a narrow screen too.
    overlap = False if len(names) <= FEW_MODELS else alt.Undefined
    below = alt.Axis(title=None, labelAngle=-40, labelLimit=150, labelOverlap=overlap)
    x = alt.X("model:N", sort=names, scale=alt.Scale(domain=names), axis=below)
    axis = alt.Axis(title=f"{what}, 95% interval", format="~%" if fpr is not None else ".2f")
    y = alt.Y("value:Q", scale=alt.Scale(zero=fpr is not None), axis=axis)
    tooltip = [alt.Tooltip("model:N"), alt.Tooltip("value:Q", title=what, format=form), *interval(form)]
    base = alt.Chart(inline(rows))
    joined = base.mark_line(color=GREY, opacity=0.6).encode(x=x, y=y)
    spread = base.mark_rule(color=BLUE, strokeWidth=2).encode(
        x=x, y=alt.Y("low:Q", axis=axis), y2=alt.Y2("high:Q"), tooltip=tooltip
    )
    dots = base.mark_point(filled=True, size=80, opacity=1, color=BLUE).encode(x=x, y=y, tooltip=tooltip)
    guess = (
        alt.Chart(inline([{"at": fpr if fpr is not None else 0.5}]))
        .mark_rule(color=GREY, strokeDash=[4, 3])
        .encode(y=alt.Y("at:Q"))
    )
    told = percent if fpr is not None else number
    spoken = "; ".join(
        f"{name}: {told(m.value)}" for name, m in models if m is not None and m.value is not None
    )
    return finish(
        layered(guess, joined, spread, dots),
        f"{what} of each model",
        f"{what} of one model after another. {spoken or 'None could be measured'}.",
        subtitle=["Dashed grey: guessing."],
        height=260,
    )
