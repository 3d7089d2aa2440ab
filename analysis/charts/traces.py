"""How records went over training: traces of single records beside the spread of all members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .axes import number
from .style import BLUE, VERMILION, finish, inline, layered

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


def band_of(traces: Floats) -> Band:
    """Median and the 10% and 90% quantiles an epoch of traces of shape (records, epochs); NaN and inf are left out."""
    records, length = traces.shape
    quantiles = np.full((3, length), np.nan)
    for epoch in range(length):
        column = traces[:, epoch]
        column = column[np.isfinite(column)]
        if len(column):
            quantiles[:, epoch] = np.quantile(column, [0.1, 0.5, 0.9])
    return Band(np.arange(length), quantiles[1], quantiles[0], quantiles[2], records)


def traces_chart(
    lines: Sequence[Line],
    band: Band,
    *,
    signal: str = "loss",
    lines_name: str = "most exposed",
    band_name: str = "members",
) -> alt.Chart | alt.LayerChart:
    """Traces of single records over the epochs, in front of the median and the 10% to 90% band of all ``band_name``."""
    import altair as alt

    last = max(len(band.epochs) - 1, 1)
    # Both kinds of line name their group in the data: one legend explains them.
    typical, exposed = (
        f"typical: median and 10–90% of {band.records:,} {band_name}",
        f"{lines_name}: {len(lines)} records",
    )
    shade = alt.Color(
        "group:N", scale=alt.Scale(domain=[exposed, typical], range=[VERMILION, BLUE]), legend=alt.Legend()
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
    y_title = f"{signal} of the record" + (" (cross-entropy, nats)" if signal == "loss" else "")
    base = alt.Chart(inline(spread))
    area = base.mark_area(color=BLUE, opacity=0.22).encode(
        x=x, y=alt.Y("low:Q", axis=alt.Axis(title=y_title)), y2="high:Q"
    )
    middle = base.mark_line(strokeWidth=2.5).encode(x=x, y="median:Q", color=shade)
    single = (
        alt.Chart(inline(rows))
        .mark_line(strokeWidth=1.3, opacity=0.75)
        .encode(x=x, y="value:Q", detail="record:N", color=shade)
    )
    touch = (
        alt.Chart(inline(rows))
        .mark_point(opacity=0, size=60, filled=True)
        .encode(
            x=x,
            y="value:Q",
            tooltip=[alt.Tooltip("record:N"), alt.Tooltip("epoch:Q"), alt.Tooltip("told:N", title=signal)],
        )
    )
    layers: list[Any] = [area, middle, single, touch]
    spoken = (
        f"{signal.capitalize()} over {last} epochs. The median of {band.records:,} {band_name} ends at "
        f"{number(_last(band.median))}; the {len(lines)} {lines_name} records end at "
        f"{', '.join(number(_last(line.values)) for line in lines) or 'no value'}."
    )
    title = f"{signal[:1].upper()}{signal[1:]} of single records beside typical ones"
    return finish(layered(*layers), title, spoken)


def _last(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if len(finite) else None
