"""How records went over training: their traces, the growth of LT-IQR over prefixes, and its quantiles beside others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..scores import Finding
from ..statistics.metric import Metric
from .axes import number, percent
from .style import BLUE, GREY, ORANGE, VERMILION, finish, inline, layered, matrix

if TYPE_CHECKING:
    import altair as alt


Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """Quantiles of many traces, one value an epoch: ``median``, and ``low`` to ``high`` (10% and 90%). NaN: no value."""

    epochs: npt.NDArray[np.int64]
    median: Floats
    low: Floats
    high: Floats
    records: int


@dataclass(frozen=True)
class Line:
    """The trace of one record, with the name to show for it."""

    name: str
    values: Floats


def band_of(traces: npt.NDArray[np.floating[Any]], among: npt.NDArray[np.bool_] | None = None) -> Band:
    """Median and the 10% and 90% quantiles an epoch of traces of shape (records, epochs), of those ``among`` (records,) them alone.

    NaN and inf are left out. Computed in double precision, an epoch at a time.
    """
    records, length = traces.shape
    chosen = slice(None) if among is None else among
    quantiles = np.full((3, length), np.nan)
    for epoch in range(length):
        column = traces[chosen, epoch].astype(np.float64)
        column = column[np.isfinite(column)]
        if len(column):
            quantiles[:, epoch] = np.quantile(column, [0.1, 0.5, 0.9])
    return Band(
        np.arange(length),
        quantiles[1],
        quantiles[0],
        quantiles[2],
        records if among is None else int(among.sum()),
    )


def traces_chart(
    lines: Sequence[Line],
    band: Band,
    *,
    signal: str = "loss",
    lines_name: str = "most exposed",
    unit: str = "cross-entropy, nats",
) -> alt.Chart | alt.LayerChart:
    """Traces of single records over the epochs, in front of the median and the 10% to 90% band of all members; ``unit`` is the loss's."""
    import altair as alt

    last = max(len(band.epochs) - 1, 1)
    # Both kinds of line name their group in the data: one legend explains them.
    typical = f"typical: median and 10–90% of {band.records:,} members"
    exposed = f"{lines_name}: {len(lines)} records"
    shade = alt.Color(
        "group:N",
        scale=alt.Scale(domain=[exposed, typical], range=[VERMILION, BLUE]),
        legend=alt.Legend(columns=1),
    )
    spread = [
        {"epoch": int(e), "low": float(low), "median": float(mid), "high": float(high), "group": typical}
        for e, low, mid, high in zip(band.epochs, band.low, band.median, band.high, strict=True)
        if np.isfinite(mid)
    ]
    rows = [
        {
            "epoch": epoch,
            "value": float(value),
            "record": line.name,
            "told": number(float(value)),
            "group": exposed,
        }
        for line in lines
        for epoch, value in enumerate(line.values)
        if np.isfinite(value)
    ]
    x = alt.X(
        "epoch:Q",
        scale=alt.Scale(domain=[0, last], nice=False),
        axis=alt.Axis(title="epoch (0 = before training)", format="d", tickMinStep=1, tickCount=8),
    )
    y_title = f"{signal} of the record" + (f" ({unit})" if signal == "loss" and unit else "")
    base = alt.Chart(inline(spread))
    area = base.mark_area(color=BLUE, opacity=0.22).encode(
        x=x, y=alt.Y("low:Q", axis=alt.Axis(title=y_title)), y2=alt.Y2("high:Q")
    )
    middle = base.mark_line(strokeWidth=2.5).encode(x=x, y=alt.Y("median:Q"), color=shade)
    single = (
        alt.Chart(inline(rows))
        .mark_line(strokeWidth=1.3, opacity=0.75)
        .encode(x=x, y=alt.Y("value:Q"), detail=alt.Detail("record:N"), color=shade)
    )
    touch = (
        alt.Chart(inline(rows))
        .mark_point(opacity=0, size=60, filled=True)
        .encode(
            x=x,
            y=alt.Y("value:Q"),
            tooltip=[alt.Tooltip("record:N"), alt.Tooltip("epoch:Q"), alt.Tooltip("told:N", title=signal)],
        )
    )
    spoken = (
        f"{signal.capitalize()} over {last} epochs. The median of {band.records:,} members ends at "
        f"{number(_last(band.median))}; the {len(lines)} {lines_name} records end at "
        f"{', '.join(number(_last(line.values)) for line in lines) or 'no value'}."
    )
    title = f"{signal[:1].upper()}{signal[1:]} of single records beside typical ones"
    return finish(layered(area, middle, single, touch), title, spoken)


def _last(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if len(finite) else None


def evolution_chart(finding: Finding) -> alt.Chart | alt.LayerChart:
    """Median of LT-IQR and its band up to the highest quantile, for members and non-members, over prefixes.

    Of several scores the first is drawn.
    """
    import altair as alt

    found = [m for m in finding.metrics if m.metric == "quantile"]
    score = next((m.parameters["score"] for m in found), "lt-iqr")
    found = [m for m in found if m.parameters["score"] == score]
    levels = sorted({float(m.parameters["quantile"]) for m in found})
    rows = [
        {
            "epoch": m.parameters["epoch"],
            "among": str(m.parameters["among"]),
            "line": f"{m.parameters['among']}, {m.parameters['quantile']:.4g} quantile",
            "quantile": f"{m.parameters['quantile']:.4g}",
            "value": m.value,
            "low": m.ci_low,
            "high": m.ci_high,
            "told": number(m.value),
            "interval": f"{number(m.ci_low)} to {number(m.ci_high)}",
            "records": m.n,
        }
        for m in found
    ]
    epochs = sorted({int(row["epoch"]) for row in rows}) or [0, 1]
    x = alt.X(
        "epoch:Q",
        scale=alt.Scale(domain=[epochs[0], max(epochs[-1], epochs[0] + 1)], nice=False),
        axis=alt.Axis(title="training up to this epoch", values=epochs, format="d"),
    )
    y_axis = alt.Axis(title=f"{score} of the records")
    sides = ["members", "non-members"]
    shade = alt.Color("among:N", scale=alt.Scale(domain=sides, range=[BLUE, ORANGE]), legend=alt.Legend())
    base = alt.Chart(inline(rows))
    band = base.transform_filter("datum.low != null && datum.high != null").mark_area(opacity=0.2)
    band = band.encode(
        x=x, y=alt.Y("low:Q", axis=y_axis), y2=alt.Y2("high:Q"), color=shade, detail=alt.Detail("line:N")
    )
    y = alt.Y("value:Q", axis=y_axis)
    pattern = alt.StrokeDash(
        "quantile:N",
        scale=alt.Scale(
            domain=[f"{level:.4g}" for level in levels],
            range=[[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [10, 3]][: max(len(levels), 1)],
        ),
        legend=alt.Legend(title="quantile over records"),
    )
    lines = base.mark_line().encode(x=x, y=y, color=shade, strokeDash=pattern)
    points = base.mark_point(filled=True, size=40, opacity=1).encode(
        x=x,
        y=y,
        color=shade,
        tooltip=[
            alt.Tooltip("epoch:Q"),
            alt.Tooltip("among:N"),
            alt.Tooltip("quantile:N"),
            alt.Tooltip("told:N", title="value"),
            alt.Tooltip("interval:N", title="95% interval"),
            alt.Tooltip("records:Q", format=","),
        ],
    )
    spoken = "; ".join(
        f"{line} from {ends[0]['told']} to {ends[-1]['told']}"
        for line in dict.fromkeys(str(row["line"]) for row in rows)
        if (ends := [row for row in rows if row["line"] == line])
    )
    told = ["Bands: 95% intervals of the quantiles."]
    told += _precision_line([m for m in finding.metrics if m.parameters.get("score") == score])
    return finish(
        layered(band, lines, points),
        "How the risk of the records grew over training",
        f"Quantiles of {score} over prefixes of the training. {spoken}. {' '.join(told)}",
        subtitle=told,
    )


def _precision_line(metrics: list[Metric]) -> list[str]:
    """A sentence on how well the prefixes find what the attack finds."""
    found = [m for m in metrics if m.metric == "precision_at_k" and m.value is not None]
    if not found:
        return []
    share = found[0].parameters["k"]
    steps = ", ".join(
        f"{m.value:.0%} by epoch {m.parameters['epoch']}" for m in found[:: max(1, len(found) // 4)]
    )
    return [f"Precision among the top {percent(share)} of the members against {_truth(found)}: {steps}."]


def _truth(metrics: list[Metric]) -> str:
    """The attack whose findings are the truth, and the false-positive rate it finds them at."""
    about = metrics[0].parameters
    return f"{about['against']} at FPR {percent(about['fpr'])}"


def ablation_map(finding: Finding) -> alt.Chart | alt.LayerChart:
    """Heat map of precision at k over lower and upper quantiles, the quartiles framed; the first score is drawn."""
    import altair as alt

    found = [m for m in finding.metrics if m.metric == "precision_at_k"]
    score = next((m.parameters["score"] for m in found), "lt-iqr")
    found = [m for m in found if m.parameters["score"] == score]
    rho = {
        (m.parameters["low"], m.parameters["high"]): m.value
        for m in finding.metrics
        if m.metric == "spearman" and m.parameters["score"] == score
    }
    rows: list[dict[str, Any]] = [
        {
            "low": f"{m.parameters['low']:.4g}",
            "high": f"{m.parameters['high']:.4g}",
            "value": m.value,
            "text": number(m.value, 2),
            "interval": f"{number(m.ci_low, 2)} to {number(m.ci_high, 2)}",
            "rho": number(rho.get((m.parameters["low"], m.parameters["high"])), 2),
            "usual": (m.parameters["low"], m.parameters["high"]) == (0.25, 0.75),
        }
        for m in found
    ]
    lows = [f"{level:.4g}" for level in sorted({float(m.parameters["low"]) for m in found})]
    highs = [f"{level:.4g}" for level in sorted({float(m.parameters["high"]) for m in found}, reverse=True)]
    base = alt.Chart(inline(rows)).encode(
        x=alt.X("low:N", sort=lows, axis=alt.Axis(title="lower quantile", labelAngle=0)),
        y=alt.Y("high:N", sort=highs, axis=alt.Axis(title="upper quantile")),
        tooltip=[
            alt.Tooltip("low:N", title="lower quantile"),
            alt.Tooltip("high:N", title="upper quantile"),
            alt.Tooltip("text:N", title="precision"),
            alt.Tooltip("interval:N", title="95% interval"),
            alt.Tooltip("rho:N", title="Spearman's rho"),
        ],
    )
    shade = alt.Color(
        "value:Q",
        scale=alt.Scale(domain=[0, 1], range=["#f4f4f4", BLUE]),
        legend=alt.Legend(title="precision at k"),
    )
    cells = matrix(
        base,
        shade,
        11,
        stroke=alt.condition("datum.usual", alt.value(VERMILION), alt.value(GREY)),
        strokeWidth=alt.condition("datum.usual", alt.value(3), alt.value(0)),
    )
    at = next((f" the top {percent(m.parameters['k'])} of the members" for m in found), " the top k")
    values = [float(m.value) for m in found if m.value is not None]
    spoken = (
        f"from {number(min(values))} to {number(max(values))} over {len(values)} ranges" if values else "none"
    )
    return finish(
        cells,
        f"Precision among{at}, by quantile range of {score}",
        f"Heat map of precision over quantile ranges: {spoken}.",
        subtitle=[
            *([f"Against {_truth(found)}."] if found else []),
            "Framed: 0.25 to 0.75, which lt-iqr takes whatever this shows.",
        ],
        height=60 + 26 * max(len(highs), 1),
    )
