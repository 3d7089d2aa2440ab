"""How well attacks tell members from non-members: ROC curves, and TPR at low FPR."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..statistics.metric import Metric
from ..statistics.roc import RESOLVED_FROM, roc, split
from .axes import percent
from .style import FAINT, GREY, colours, dashes, finish, inline, interval, layered

if TYPE_CHECKING:
    import altair as alt

Floats = npt.NDArray[np.float64]
FEW = 6
"""More attacks than these stand closer together in a chart."""

CELLS = 150
"""Places along an axis of FPRs at which a curve keeps its first and its last step."""

_SPOKEN_AT = 0.01
"""The FPR that a chart's words are about."""


@dataclass(frozen=True)
class Curve:
    """An attack's ROC curve: the highest TPR at or under each FPR. Both rise; ``fpr`` starts at 0."""

    name: str
    fpr: Floats
    tpr: Floats
    members: int
    non_members: int

    @property
    def resolution(self) -> float:
        """The lowest FPR that the non-members resolve: one of them."""
        return 1 / max(self.non_members, 1)


def curve(name: str, score: Floats, member: npt.NDArray[np.bool_]) -> Curve | None:
    """The curve of a score (NaN where there is none); None without members or without non-members."""
    members, others = split(score, member)
    if len(members) == 0 or len(others) == 0:
        return None
    steps = roc(members, others)
    # Of the points that share an FPR the last has the highest TPR: the upper corner of the step.
    corner = np.append(np.diff(steps.fpr) > 0, True)
    return Curve(name, steps.fpr[corner], steps.tpr[corner], len(members), len(others))


def thin(found: Curve, *, log: bool = True) -> tuple[Floats, Floats]:
    """A few hundred corners of the step curve: first and last of each cell of the FPR axis, exact where few fall.

    Every point returned lies on the curve. On a log axis the first hundred non-members keep every step.
    """
    kept = _cells(found, log)
    return found.fpr[kept], found.tpr[kept]


def _cells(found: Curve, log: bool) -> npt.NDArray[np.int64]:
    """Which corners are the first and the last of a cell."""
    low = math.log(min(found.resolution, 0.5))
    place = np.log(np.maximum(found.fpr, found.resolution / 2)) / low if log else found.fpr
    cell = np.floor(place * CELLS).astype(np.int64)
    changes = np.flatnonzero(np.diff(cell) != 0)
    return np.unique(np.concatenate([[0], changes, changes + 1, [len(cell) - 1]])).astype(np.int64)


def drawn_of(found: Curve) -> Curve:
    """The corners alone that `roc_chart` shows, or says something of, whatever its axes: its charts are the same, of a hundredth."""
    asked = (_SPOKEN_AT, found.resolution, max(found.resolution, _firm_from(found)))
    kept = [_cells(found, log) for log in (True, False)]
    corners = np.unique(np.concatenate([*kept, [_place(found, fpr) for fpr in asked]]))
    return replace(found, fpr=found.fpr[corners], tpr=found.tpr[corners])


def roc_chart(
    curves: Sequence[Curve],
    *,
    log: bool = True,
    leading: Sequence[str] | None = None,
    firm: bool = False,
) -> alt.Chart | alt.LayerChart:
    """ROC curves, one line an attack. On log axes the FPRs that no non-member resolves are shaded and left empty.

    Those ``leading``, or else all, are in colour; the others are grey until their name in the legend is clicked, which takes the other curves
    back; with shift held, several can be picked. Of ``firm`` curves log axes show
    each from the FPR on that its own non-members resolve well, with about `RESOLVED_FROM` of them above the threshold.
    """
    import altair as alt

    names = [found.name for found in curves]
    front = [name for name in names if leading is None or name in leading]
    names = [*front, *(name for name in names if name not in front)]
    finest = min((found.resolution for found in curves), default=0.01)
    begins = min(map(_firm_from, curves), default=0.5) if firm else None
    left = (begins or finest / 2) if log else 0.0
    points = _points(curves, log, firm)
    if begins is not None and log:
        bottom = min([left, *(row["tpr"] for row in points)])
    else:
        bottom = min([left, *(0.5 / found.members for found in curves)]) if log else 0.0
    x_scale = alt.Scale(type="log" if log else "linear", domain=[left, 1], nice=False)
    y_scale = alt.Scale(type="log" if log else "linear", domain=[bottom, 1], nice=False, clamp=log)
    scale_note = ", log scale" if log else ""
    x = alt.X("fpr:Q", scale=x_scale, axis=_percent_axis("false-positive rate (FPR)" + scale_note, left, log))
    y = alt.Y(
        "tpr:Q", scale=y_scale, axis=_percent_axis("true-positive rate (TPR)" + scale_note, bottom, log)
    )
    own = colours(names).to_dict()["range"]
    for row in points:
        row["colour"] = own[names.index(row["attack"])]
    base = alt.Chart(inline(points))
    shown = [colour if name in front else FAINT for name, colour in zip(names, own, strict=True)]
    lines = base.mark_line(interpolate="step-after", strokeWidth=2.2).encode(
        x=x,
        y=y,
        color=alt.Color("attack:N", scale=alt.Scale(domain=names, range=shown), legend=_legend(names)),
        strokeDash=alt.StrokeDash("attack:N", scale=dashes(names), legend=_legend(names)),
        order=alt.Order("fpr:Q"),
    )
    asked: list[Any] = []
    if len(names) > 1:
        picked = alt.selection_point(
            name="picked_log" if log else "picked_linear", fields=["attack"], bind="legend"
        )
        lines = lines.add_params(picked).encode(
            opacity=alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.12))
        )
        if len(front) < len(names):
            # In its own colour, over the grey line that is always there.
            behind = base.transform_filter(alt.FieldOneOfPredicate("attack", names[len(front) :]))
            asked.append(
                behind.mark_line(interpolate="step-after", strokeWidth=2.4).encode(
                    x=x,
                    y=y,
                    detail=alt.Detail("attack:N"),
                    stroke=alt.Stroke("colour:N", scale=None),
                    order=alt.Order("fpr:Q"),
                    opacity=alt.when(picked, empty=False).then(alt.value(1)).otherwise(alt.value(0)),
                )
            )
    touch = base.mark_point(opacity=0, size=90, filled=True).encode(
        x=x,
        y=y,
        tooltip=[
            alt.Tooltip("attack:N"),
            alt.Tooltip("fpr:Q", title="FPR", format=".3~%"),
            alt.Tooltip("tpr:Q", title="TPR", format=".3~%"),
        ],
    )
    start = max(left, bottom) if log else 0.0
    chance = (
        alt.Chart(inline([{"fpr": start, "tpr": start}, {"fpr": 1, "tpr": 1}]))
        .mark_line(color=GREY, strokeDash=[4, 3], strokeWidth=1.2)
        .encode(x=x, y=y)
    )
    layers: list[Any] = [chance, lines, *asked, touch]
    subtitle = ["Dashed grey: guessing."]
    if asked:
        subtitle.append("Grey: the other attacks.")
    if log and curves and begins is not None:
        count = max(found.non_members for found in curves)
        fewer = any(found.non_members < count for found in curves)
        later = "; attacks that score fewer begin further right" if fewer else ""
        subtitle.append(f"From FPR {percent(begins)} on, which {count:,} non-members resolve{later}.")
    elif log and curves:
        shade = alt.Chart(inline([{"fpr": left, "to": finest}])).mark_rect(color=GREY, opacity=0.22)
        layers.insert(0, shade.encode(x=x, x2=alt.X2("to:Q")))
        count = max(found.non_members for found in curves)
        subtitle.append(f"Shaded: FPRs under {percent(finest)}, which {count:,} non-members cannot resolve.")
    spoken = "; ".join(_say(found) for found in curves)
    kind = "log-log axes" if log else "linear axes"
    return finish(
        layered(*layers),
        f"ROC curves, {kind}",
        f"ROC curves on {kind}. {spoken or 'No attack could be evaluated'}.",
        subtitle=[" ".join(subtitle)],
    )


def tpr_chart(attacks: Sequence[tuple[str, Sequence[Metric]]]) -> alt.Chart | alt.LayerChart:
    """TPR at low FPRs with its 95% interval, a dot an attack. Where the FPR is not resolved: the interval, no dot."""
    import altair as alt

    rows: list[dict[str, Any]] = []
    for name, metrics in attacks:
        for metric in metrics:
            if metric.metric != "tpr_at_fpr":
                continue
            fpr = float(metric.parameters["fpr"])
            resolved = metric.value is not None
            rows.append(
                {
                    "attack": name,
                    "fpr": fpr,
                    "at": f"FPR {percent(fpr)}",
                    "tpr": metric.value,
                    "low": metric.ci_low,
                    "high": metric.ci_high,
                    "told": percent(metric.value) if resolved else "not resolved",
                    "resolved": resolved,
                }
            )
    names = list(dict.fromkeys(str(row["attack"]) for row in rows))
    rates = sorted({row["fpr"] for row in rows})
    order = [f"FPR {percent(rate)}" for rate in rates]
    y = alt.Y(
        "at:N", sort=order, axis=alt.Axis(title=None, grid=False, ticks=False, domain=False, labelPadding=8)
    )
    offset = alt.YOffset("attack:N", sort=names)
    series = alt.Color("attack:N", scale=colours(names), legend=_legend(names))
    x = alt.X(
        "low:Q",
        scale=alt.Scale(domainMin=0),
        axis=alt.Axis(title="true-positive rate (TPR), 95% interval", format="~%", tickCount=6),
    )
    tooltip = [
        alt.Tooltip("attack:N"),
        alt.Tooltip("at:N", title="at"),
        alt.Tooltip("told:N", title="TPR"),
        *interval(".2%"),
    ]
    base = alt.Chart(inline(rows))
    spread = base.mark_rule(strokeWidth=2).encode(
        x=x,
        x2=alt.X2("high:Q"),
        y=y,
        yOffset=offset,
        color=series,
        strokeDash=alt.condition("datum.resolved", alt.value([1, 0]), alt.value([3, 3])),
        tooltip=tooltip,
    )
    dots = base.transform_filter("datum.resolved").mark_point(filled=True, size=80, opacity=1)
    dots = dots.encode(x=alt.X("tpr:Q"), y=y, yOffset=offset, color=series, tooltip=tooltip)
    chance = alt.Chart(inline([{"at": f"FPR {percent(rate)}", "chance": rate} for rate in rates]))
    guess = chance.mark_tick(color=GREY, thickness=2, size=26).encode(
        x=alt.X("chance:Q"), y=y, tooltip=[alt.Tooltip("chance:Q", title="guessing", format=".2~%")]
    )
    unresolved = [row for row in rows if not row["resolved"]]
    subtitle = "Grey tick: guessing."
    if unresolved:
        subtitle += (
            " Dashed, without a dot: too few non-members to resolve that FPR; only the interval is known."
        )
    spoken = "; ".join(f"{row['attack']} at {row['at']}: {row['told']}" for row in rows)
    return finish(
        layered(guess, spread, dots),
        "TPR at low FPR",
        f"TPR at low FPR. {spoken}.",
        subtitle=[subtitle],
        height=max(90, len(order) * (34 + (22 if len(names) <= FEW else 13) * len(names))),
    )


def _firm_from(found: Curve) -> float:
    """The lowest FPR at which about `RESOLVED_FROM` of the curve's non-members lie above the threshold, and no more than a half."""
    return min(RESOLVED_FROM * found.resolution, 0.5)


def _points(curves: Sequence[Curve], log: bool, firm: bool = False) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for found in curves:
        fpr, tpr = thin(found, log=log)
        start = max(found.resolution, _firm_from(found) if firm else 0.0)
        shown = (fpr >= start * (1 - 1e-9)) & (tpr > 0) if log else np.ones(len(fpr), dtype=bool)
        fpr, tpr = fpr[shown], tpr[shown]
        if log and len(fpr) and fpr[0] > start * (1 + 1e-9):
            first = _at(found, start)
            if first > 0:  # no step is there, or a tie among the others skips it: the step reaches back to it
                fpr, tpr = np.insert(fpr, 0, start), np.insert(tpr, 0, first)
        rows += [
            {"attack": found.name, "fpr": x, "tpr": y}
            for x, y in zip(fpr.tolist(), tpr.tolist(), strict=True)
        ]
    return rows


def _say(found: Curve) -> str:
    if found.resolution > _SPOKEN_AT:
        return f"{found.name}: an FPR of 1% is not resolved"
    return f"{found.name}: TPR {percent(_at(found, _SPOKEN_AT))} at FPR 1%"


def _at(found: Curve, fpr: float) -> float:
    """The highest TPR at or under an FPR."""
    return float(found.tpr[_place(found, fpr)])


def _place(found: Curve, fpr: float) -> int:
    return int(np.searchsorted(found.fpr, fpr * (1 + 1e-9), "right")) - 1


def _percent_axis(title: str, low: float, log: bool) -> alt.Axis:
    import altair as alt

    if not log:
        return alt.Axis(title=title, format="~%", tickCount=6)
    decades = [10.0**power for power in range(math.ceil(math.log10(low)), 1)]
    return alt.Axis(title=title, format="~%", values=decades)


def _legend(names: Sequence[str]) -> alt.Legend | None:
    """Names in rows that fit half a page; a legend of one row would be cut off."""
    import altair as alt

    # Twelve letters and a symbol are about 105 pixels wide, half a page 440.
    columns = 4 if max(map(len, names), default=0) <= 12 else 3
    return alt.Legend(columns=min(len(names), columns), labelLimit=130) if names else None
