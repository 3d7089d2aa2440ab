"""The KDE attack drawn: the densities it is made of, and how often it is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from ..scores import Scores
from ..statistics.density import Density, densities
from ..statistics.roc import confusion
from .axes import Axis, percent
from .style import BLUE, GREY, ORANGE, colours, dashes, finish, inline, layered, matrix

if TYPE_CHECKING:
    import altair as alt

Floats = npt.NDArray[np.float64]

POINTS = 240
WIDTH = 460
NAMES = ("known members", "known non-members")


def kde_chart(scores: Scores) -> alt.VConcatChart:
    """`loss_densities` above `confusion_matrix`. Their width is fixed: charts that are put together have to say it."""
    import altair as alt

    upper, lower = loss_densities(scores), confusion_matrix(scores)
    spoken = f"{upper.description} {lower.description}"
    both = alt.vconcat(upper.properties(width=WIDTH), lower.properties(width=WIDTH), spacing=32)
    return both.resolve_scale(color="independent", strokeDash="independent").properties(
        title=alt.TitleParams(text="KDE attack"), description=spoken
    )


def loss_densities(scores: Scores) -> alt.Chart | alt.LayerChart:
    """The two densities that were fitted to known losses, and where the attack changes its mind between them."""
    import altair as alt

    known = scores.frame.filter(pl.col("known") & pl.col("loss").is_not_null())
    loss, member = known["loss"].to_numpy(), known["member"].to_numpy()
    members, others = loss[member], loss[~member]
    axis, beyond = _reach(loss)
    rows: list[dict[str, object]] = []
    turns: list[float] = []
    if len(members) and len(others):
        fits = densities(members, others)
        places = np.linspace(axis.low, axis.high, POINTS)
        rows = [row for name, fit in zip(NAMES, fits, strict=True) for row in _curve(name, fit, places)]
        turns = _turns(*fits, places)
    series = alt.Color("group:N", scale=colours(NAMES, (BLUE, ORANGE)), legend=alt.Legend())
    x = alt.X("loss:Q", scale=axis.scale(), axis=axis.draw("loss"))
    # Members' losses pile up where the others' are spread out: on a linear axis the lower curve would lie on 0.
    y = alt.Y(
        "density:Q",
        scale=alt.Scale(type="sqrt", domainMin=0),
        axis=alt.Axis(title="density, square-root scale", format=",~r", tickCount=6),
    )
    base = alt.Chart(inline(rows))
    told = [
        alt.Tooltip("group:N"),
        alt.Tooltip("loss:Q", format=".4~g"),
        alt.Tooltip("density:Q", format=".3~g"),
    ]
    area = base.mark_area(opacity=0.18).encode(x=x, y=y.stack(None), color=series)
    lines = base.mark_line(strokeWidth=2).encode(
        x=x, y=y, color=series, strokeDash=alt.StrokeDash("group:N", scale=dashes(NAMES)), tooltip=told
    )
    rules = alt.Chart(inline([{"loss": turn} for turn in turns])).mark_rule(color=GREY, strokeDash=[4, 3])
    counts = [f"{len(side):,} {name}" for name, side in zip(NAMES, (members, others), strict=True)]
    subtitle = [f"{' and '.join(counts)}."]
    about = ["dashed grey: both are as likely"] if turns else []
    about += [f"{percent(beyond)} of the losses lie further right"] if beyond else []
    if about:
        subtitle.append(f"{'; '.join(about).capitalize()}.")
    return finish(
        layered(area, lines, rules.encode(x=x)),
        "Loss of known members and known non-members",
        f"Densities of the loss. {' '.join(subtitle)}",
        subtitle=subtitle,
    )


def confusion_matrix(scores: Scores) -> alt.Chart | alt.LayerChart:
    """What the attack says of the records it is asked about, against what they are: shares of each row, and counts."""
    import altair as alt

    asked = scores.frame.filter(pl.col("score").is_not_null() & pl.col("member").is_not_null())
    counted = confusion(asked["score"].to_numpy() > 0, asked["member"].to_numpy())
    rows = []
    for truth, cells in (
        ("members", (counted.true_positives, counted.false_negatives)),
        ("non-members", (counted.false_positives, counted.true_negatives)),
    ):
        for said, count in zip(("member", "non-member"), cells, strict=True):
            share = count / sum(cells) if sum(cells) else None
            text = "–" if share is None else f"{percent(share)} ({count:,})"
            rows.append({"truth": truth, "said": said, "count": count, "share": share, "text": text})
    base = alt.Chart(inline(rows)).encode(
        x=alt.X("said:N", axis=alt.Axis(title="the attack says", orient="top", labelAngle=0, ticks=False)),
        y=alt.Y("truth:N", axis=alt.Axis(title="they are", ticks=False)),
        tooltip=[
            alt.Tooltip("truth:N", title="they are"),
            alt.Tooltip("said:N", title="the attack says"),
            alt.Tooltip("count:Q", title="records", format=","),
            alt.Tooltip("share:Q", title="share of the row", format=".2%"),
        ],
    )
    shade = alt.Color("share:Q", scale=alt.Scale(domain=[0, 1], range=["#f4f4f4", BLUE]), legend=None)
    right, records = counted.true_positives + counted.true_negatives, counted.records
    accuracy = (
        f"Right on {percent(right / records)} of {records:,} records."
        if records
        else "No record to ask about."
    )
    spoken = "; ".join(f"{row['truth']} called {row['said']}: {row['text']}" for row in rows)
    return finish(
        matrix(base, shade),
        "Confusion matrix at a likelihood ratio of 1",
        f"Confusion matrix. {spoken}. {accuracy}",
        subtitle=[accuracy],
        height=150,
    )


def _reach(losses: Floats) -> tuple[Axis, float]:
    """An axis for nearly all of the losses, and the share that lies beyond it: a few are very high."""
    if len(losses) == 0:
        return Axis("linear", 0.0, 1.0), 0.0
    low, high, most = float(losses.min()), float(np.quantile(losses, 0.99)), float(losses.max())
    high = most if most - low <= 1.5 * (high - low) else high
    if high <= low:
        margin = abs(low) / 2 or 0.5
        low, high = low - margin, high + margin
    return Axis("linear", low, high), float((losses > high).mean())


def _curve(name: str, fit: Density, places: Floats) -> list[dict[str, object]]:
    heights = np.exp(fit.log_at(places))
    return [
        {"group": name, "loss": at, "density": height}
        for at, height in zip(places.tolist(), heights.tolist(), strict=True)
    ]


def _turns(inside: Density, outside: Density, places: Floats) -> list[float]:
    """Where the two curves cross, half way between two of the places."""
    above = inside.log_at(places) > outside.log_at(places)
    at = np.flatnonzero(np.diff(above))
    return ((places[at] + places[at + 1]) / 2).tolist()
