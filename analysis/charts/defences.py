"""A chart of two experiments side by side: how well attacks do without and with a defence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..scores import Finding
from ..statistics.metric import Metric
from .axes import number
from .style import BLUE, GREY, VERMILION, colours, finish, inline, layered

if TYPE_CHECKING:
    import altair as alt


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
        x=alt.X("auc:Q"), y=y, yOffset=apart, detail="score:N"
    )
    spread = base.mark_rule(opacity=0.6).encode(
        x=alt.X("low:Q"), x2="high:Q", y=y, yOffset=apart, color=shade
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
            alt.Tooltip("low:Q", title="95% from", format=".3f"),
            alt.Tooltip("high:Q", title="to", format=".3f"),
        ],
    )
    chance = alt.Chart(inline([{"at": 0.5}])).mark_rule(color=GREY, strokeDash=[4, 3]).encode(x="at:Q")
    spoken = "; ".join(f"{name} {_change(changes[name])}" for name in names if name in changes)
    return finish(
        layered(joined, spread, points, chance),
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
