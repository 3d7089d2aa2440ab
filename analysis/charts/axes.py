"""Laying numbers out on an axis: which scale shows them, its ticks, bins of even width on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import altair as alt

Floats = npt.NDArray[np.float64]

SAME = 1e-6
"""Relative difference up to which values are drawn as one."""

DECADES_FOR_LOG = 2.5
HEAVY_TAIL = 40.0
"""Range over interquartile range from which a linear axis would squeeze the bulk into a line."""


@dataclass(frozen=True)
class Axis:
    """A numeric axis from ``low`` to ``high``. ``constant`` is where a symlog axis turns from linear to logarithmic."""

    kind: Literal["linear", "log", "symlog"]
    low: float
    high: float
    constant: float = 1.0

    def forward(self, values: Floats) -> Floats:
        """Positions along the axis, in units that are even on the page."""
        if self.kind == "log":
            return np.log(np.maximum(values, self.low))
        if self.kind == "symlog":
            return np.sign(values) * np.log1p(np.abs(values) / self.constant)
        return np.asarray(values, dtype=np.float64)

    def edges(self, bins: int) -> Floats:
        """Bounds of ``bins`` bins that are equally wide on the page."""
        ends = self.forward(np.array([self.low, self.high]))
        steps = np.linspace(ends[0], ends[1], bins + 1)
        if self.kind == "log":
            steps = np.exp(steps)
        elif self.kind == "symlog":
            steps = np.sign(steps) * np.expm1(np.abs(steps)) * self.constant
        # The ends come back exactly, so that the smallest and the largest value fall inside.
        steps[0], steps[-1] = self.low, self.high
        return steps

    def ticks(self) -> list[float] | None:
        """Where to write numbers; None leaves the choice to the chart."""
        if self.kind == "linear":
            return None
        powers = [10.0**p for p in range(-9, 10)]
        if self.kind == "log":
            found = [p for p in powers if self.low <= p <= self.high]
            return found if len(found) > 2 else None
        size = max(abs(self.low), abs(self.high))
        reach = [p for p in powers if self.constant * 0.99 <= p <= size]
        reach = reach[:: math.ceil(len(reach) / 4)] if reach else [size]
        return [v for v in (*(-p for p in reversed(reach)), 0.0, *reach) if self.low <= v <= self.high]

    def scale(self) -> alt.Scale:
        """The same axis for Altair."""
        import altair as alt

        domain = [self.low, self.high]
        if self.kind == "symlog":
            return alt.Scale(type="symlog", constant=self.constant, domain=domain, nice=False)
        if self.kind == "log":
            # What lies beyond its end is drawn there, and not outside of the chart.
            return alt.Scale(type="log", domain=domain, nice=False, clamp=True)
        return alt.Scale(type="linear", domain=domain, nice=False, zero=False)

    def draw(self, title: str) -> alt.Axis:
        """Ticks, number format and title for Altair."""
        import altair as alt

        ticks = self.ticks()
        if ticks is None:
            return alt.Axis(title=title, format=",~r", tickCount=6)
        return alt.Axis(title=title, format=",~r", values=ticks)

    @property
    def note(self) -> str:
        """What to add to an axis title, empty for a linear axis."""
        return {"linear": "", "log": ", log scale", "symlog": ", logarithmic away from 0"}[self.kind]


def axis_for(values: Floats) -> Axis:
    """The axis that shows these values best; those that are not finite are left out.

    Logarithmic for positive values over several decades, symlog for both signs (or zeros) with heavy tails, else
    linear.
    """
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return Axis("linear", 0.0, 1.0)
    low, high = float(finite.min()), float(finite.max())
    # Losses are float32: what differs in its last digits only does not differ.
    if high - low <= SAME * max(abs(low), abs(high)):
        margin = abs(low) / 2 or 0.5
        return Axis("linear", low - margin, high + margin)
    if low > 0 and math.log10(high / low) > DECADES_FOR_LOG:
        # A handful of values next to 0 shall not take the width away from all the others.
        floor = float(np.quantile(finite, 0.001))
        return Axis("log", floor if math.log10(low / floor) < -1 else low, high)
    first, third = np.quantile(finite, [0.25, 0.75])
    core = float(third - first)
    if core > 0 and (high - low) / core > HEAVY_TAIL:
        return Axis("symlog", low, high, constant=10.0 ** round(math.log10(core)))
    return Axis("linear", low, high)


@dataclass(frozen=True)
class Histogram:
    """Counts of values in bins: ``edges`` has one element more than ``counts``."""

    edges: Floats
    counts: npt.NDArray[np.int64]

    @property
    def total(self) -> int:
        return int(self.counts.sum())


def histogram(values: Floats, axis: Axis, bins: int) -> Histogram:
    """Count values in bins of even width on the axis; those beyond its ends count in the outermost bins."""
    finite = values[np.isfinite(values)]
    edges = axis.edges(bins)
    counts, _ = np.histogram(np.clip(finite, edges[0], edges[-1]), edges)
    return Histogram(edges, counts.astype(np.int64))


def number(value: float | None, digits: int = 3) -> str:
    """A number as people write it: ``0.074``, ``1,234``, ``1.2e-05``; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", "−")
    size = abs(value)
    if size >= 1000:
        text = f"{value:,.0f}"
    elif size < 1e-4:
        text = f"{value:.{digits - 1}e}"
    else:
        text = f"{value:.{digits}g}"
        if "e" in text:  # rounded up to one digit more, as 99.6 is by two
            text = f"{value:.0f}"
    return text.replace("-", "−")


def percent(value: float | None, digits: int = 2) -> str:
    """A share in 0..1 as a percentage; a dash where there is none."""
    if value is None:
        return "–"
    # 99.6% is not 100%: near the top a rounded figure would say "all" where some are left.
    return f"{number(round(100 * value, 12), max(digits, 3) if 0.99 < value < 1 else digits)}%"
