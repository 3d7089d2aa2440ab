"""Charts over models: how an attack does on each of them, and in how many of its models a record is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..scores import Finding, Scores
from .axes import number
from .scores import Group, grouped_histogram
from .style import BLUE, GREY, VERMILION, colours, dashes, finish, inline, interval, layered

if TYPE_CHECKING:
    import altair as alt


MOST_RUNS = 60
"""More runs than this are drawn as the quantiles of their AUC."""


def found_histogram(scores: Scores) -> alt.Chart | alt.LayerChart:
    """In which share of their models records are found, beside the share of others that accuse them falsely."""
    known = scores.frame.filter(scores.frame["score"].is_not_null())
    found = known["score"].to_numpy()
    groups = [Group("found in models trained on it", found, BLUE)]
    if "false_alarms" in known.columns:
        alarms = known["false_alarms"].drop_nulls().to_numpy()
        groups.append(Group("accused in models without it", alarms, VERMILION))
    most = int((found > 0.5).sum())
    return grouped_histogram(
        groups,
        "How often a record is found, over models",
        "share of models that accuse the record",
        subtitle=[f"{most:,} of {len(found):,} records are found in most of the models trained on them."],
    )


def auc_of_each(finding: Finding) -> alt.Chart | alt.LayerChart:
    """AUC of every run in turn with its interval, from the lowest up, and the mean over runs; a panel row a score.

    More than 60 runs of a score are thinned to 60 that lie evenly in the order of their AUC.
    """
    import altair as alt

    single = [m for m in finding.metrics if m.metric == "auc" and m.value is not None]
    rows: list[dict[str, Any]] = []
    names = list(dict.fromkeys(str(m.parameters["score"]) for m in single))
    thinned = False
    for name in names:
        of_score = sorted(
            (m for m in single if m.parameters["score"] == name), key=lambda m: (m.value, m.parameters["run"])
        )
        kept = np.unique(np.linspace(0, len(of_score) - 1, min(len(of_score), MOST_RUNS)).round().astype(int))
        thinned |= len(kept) < len(of_score)
        rows += [
            {
                "score": name,
                "run": str(of_score[at].parameters["run"]),
                "place": (rank + 0.5) / len(kept),
                "role": str(of_score[at].parameters["role"]),
                "auc": of_score[at].value,
                "low": of_score[at].ci_low,
                "high": of_score[at].ci_high,
            }
            for rank, at in enumerate(kept.tolist())
        ]
    means = [
        {"score": str(m.parameters["score"]), "mean": m.value}
        for m in finding.metrics
        if m.metric == "mean_over_runs" and m.parameters["of"] == "auc" and m.value is not None
    ]
    roles = sorted({row["role"] for row in rows}, key=lambda role: role != "target")
    base = alt.Chart(inline(rows))
    x = alt.X(
        "place:Q",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(title="runs, from the lowest AUC up", labels=False, ticks=False),
    )
    y = alt.Y("auc:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title="AUC with the run as the target"))
    palette = {"target": VERMILION, "shadow": BLUE}
    shade = alt.Color(
        "role:N",
        scale=alt.Scale(domain=roles, range=[palette.get(role, BLUE) for role in roles]),
        legend=alt.Legend(),
    )
    shape = alt.Shape("score:N", scale=alt.Scale(domain=names), legend=alt.Legend() if names[1:] else None)
    spread = base.mark_rule(opacity=0.45).encode(x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=shade)
    points = base.mark_point(filled=True, size=55, opacity=1).encode(
        x=x,
        y=y,
        color=shade,
        shape=shape,
        tooltip=[
            alt.Tooltip("score:N"),
            alt.Tooltip("run:N"),
            alt.Tooltip("role:N"),
            alt.Tooltip("auc:Q", format=".3f"),
            *interval(".3f"),
        ],
    )
    layers = [spread, points]
    if means:
        layers.append(
            alt.Chart(inline(means)).mark_rule(color=GREY, strokeDash=[4, 3]).encode(y=alt.Y("mean:Q"))
        )
    told = []
    if means:
        each = ", ".join(f"{row['score']} {row['mean']:.3f}" for row in means)
        told.append(f"Dashed: mean over runs, {each}.")
    if thinned:
        told.append(f"{MOST_RUNS} runs of each score are drawn, evenly in the order of their AUC.")
    spoken = "; ".join(
        f"{name} from {number(min(values))} to {number(max(values))} over {len(values)} runs"
        for name in names
        if (values := [float(m.value or 0) for m in single if m.parameters["score"] == name])
    )
    return finish(
        layered(*layers),
        "AUC on each model in turn",
        f"AUC of each run. {spoken}. {' '.join(told)}",
        subtitle=told,
    )


def likeness_of_models(finding: Finding) -> alt.Chart | alt.LayerChart:
    """Each model's z-scores on records that it was not trained on: mean across, standard deviation up; the target marked."""
    import altair as alt

    means, spreads = (
        {str(m.parameters["run"]): m for m in finding.metrics if m.metric == name}
        for name in ("z_mean", "z_sd")
    )
    rows: list[dict[str, Any]] = [
        {"run": run, "role": str(m.parameters["role"]), "mean": m.value, "sd": spreads[run].value}
        for run, m in means.items()
    ]
    roles = sorted({row["role"] for row in rows}, key=lambda role: role == "target")
    shade = alt.Color(
        "role:N",
        scale=alt.Scale(domain=roles, range=[VERMILION if role == "target" else BLUE for role in roles]),
        legend=alt.Legend(),
    )
    x = alt.X(
        "mean:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title="mean of z on records not trained on")
    )
    y = alt.Y("sd:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title="standard deviation of z"))
    told = [alt.Tooltip("run:N"), alt.Tooltip("mean:Q", format="+.3f"), alt.Tooltip("sd:Q", format=".3f")]
    points = alt.Chart(inline(rows)).mark_point(filled=True, size=55, opacity=0.8)
    points = points.encode(
        x=x, y=y, color=shade, shape=alt.Shape("role:N", scale=alt.Scale(domain=roles)), tooltip=told
    )
    shift = next((m for m in finding.metrics if m.metric == "auc_untrained" and m.value is not None), None)
    beside = ["A target like its shadow models lies among them."]
    if shift is not None:
        beside.append(
            f"Members against others by models trained on neither: AUC {number(shift.value)} "
            f"({number(shift.ci_low)} to {number(shift.ci_high)}), 0.5 by chance."
        )
    mine = next((row for row in rows if row["role"] == "target"), None)
    spoken = f"The target: {number(mine['mean'])} and {number(mine['sd'])}." if mine else ""
    return finish(
        layered(points),
        "Is the target like its shadow models?",
        f"Mean and standard deviation of z-scores of {len(rows)} models. {spoken} {' '.join(beside)}",
        subtitle=beside,
    )


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
    band = band.encode(x=x, y=low, y2=alt.Y2("high:Q"), color=shade)
    alone = base.transform_filter("datum.over == 'records'").mark_rule(opacity=0.5, strokeWidth=2)
    alone = alone.encode(x=x, y=low, y2=alt.Y2("high:Q"), color=shade)
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
            *interval(".3f"),
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
