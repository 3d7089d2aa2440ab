"""What sections of a report are made of, and how numbers are written in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...store.format.outgoing import drawable
from ..charts.axes import percent
from ..statistics.metric import Metric
from .data import Record

if TYPE_CHECKING:
    import altair as alt


@dataclass(frozen=True)
class Figure:
    """A chart, with a name that is unique in the report. ``tip`` says what a pointer does in it, to those who have one: not on paper.

    ``linked`` are the labels of the scores on its x and y axis where a selection in it, which is called as
    `brush_of` says, narrows the records that the page shows; empty for all other charts.
    """

    name: str
    chart: alt.Chart | alt.LayerChart
    linked: tuple[str, ...] = ()
    tip: str = ""

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The chart's specification, as a page and a picture can hold it."""
        # Tests check charts against Vega-Lite's schema; here that would take longer than drawing them.
        spec: dict[str, Any] = drawable(self.chart.to_dict(validate=False))
        return spec

    @property
    def brush(self) -> str:
        return brush_of(self.name)


def brush_of(figure: str) -> str:
    """What the selection in a linked figure is called: a name that Vega takes for one."""
    return "brush_" + figure.replace("-", "_")


@dataclass(frozen=True)
class Figures:
    """Charts that stand side by side where the page is wide."""

    kind: ClassVar[str] = "figures"
    items: tuple[Figure, ...]


@dataclass(frozen=True)
class Table:
    """Rows of text under ``columns``; ``numeric`` says which columns align right. ``caption`` tells how to read it."""

    kind: ClassVar[str] = "table"
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    caption: str = ""


@dataclass(frozen=True)
class Facts:
    """Names with their values, as a list of terms."""

    kind: ClassVar[str] = "facts"
    items: tuple[tuple[str, str], ...]
    caption: str = ""


@dataclass(frozen=True)
class Gallery:
    """Cards of records, each with its first ``scores``, the others folded; ``typical`` is the median trace behind theirs."""

    kind: ClassVar[str] = "gallery"
    records: tuple[Record, ...]
    typical: tuple[float, ...] = ()
    caption: str = ""
    scores: ClassVar[int] = 5

    @property
    def highest(self) -> float:
        """The largest loss of all traces shown: every small curve has the same scale."""
        traces = [record.trace for record in self.records if record.trace is not None]
        values = np.concatenate([np.array(self.typical), *traces])
        return float(values[np.isfinite(values)].max(initial=0.0))


@dataclass(frozen=True)
class Code:
    """Queries to run next: what each answers, and its text."""

    kind: ClassVar[str] = "code"
    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Commands:
    """Commands that would add to the report: each with what it adds."""

    kind: ClassVar[str] = "commands"
    items: tuple[tuple[str, str], ...]


Part = Figures | Table | Facts | Gallery | Code | Commands


@dataclass(frozen=True)
class Section:
    """A heading, a sentence that says what to look at, and its parts.

    ``name`` is its anchor in the page, ``short`` its entry in the list of sections; one that is ``folded`` shows its heading until it is opened.
    """

    name: str
    short: str
    title: str
    lead: str
    parts: tuple[Part, ...]
    folded: bool = False


def without_gaps(section: Section) -> Section:
    """The section without tables that say nothing: without a row, and columns that are dashes from top to bottom."""
    parts = [_filled(part) if isinstance(part, Table) else part for part in section.parts]
    return replace(section, parts=tuple(part for part in parts if part is not None))


def _filled(table: Table) -> Table | None:
    kept = [
        place
        for place in range(len(table.columns))
        if place == 0 or any(row[place] not in ("", "–") for row in table.rows)
    ]
    if not table.rows or len(kept) < 2:
        return None

    def chosen(cells: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(cells[place] for place in kept)

    rows = tuple(chosen(row) for row in table.rows)
    return replace(table, columns=chosen(table.columns), rows=rows, numeric=chosen(table.numeric))


def fixed(value: float | None) -> str:
    """A number with three decimals, so that a column of them lines up; a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"


def interval(low: float | None, high: float | None) -> str:
    """A 95% interval of a share."""
    return "–" if low is None or high is None else f"{percent(low)[:-1]}–{percent(high)}"


def plural(count: int, noun: str) -> str:
    """``1 run``, ``2 runs``; thousands separated."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), *words[-1:]] if len(words) > 1 else words)


def minus(text: str) -> str:
    """A number's hyphen as the minus sign that all others have."""
    return text.replace("-", "−")


def area(metric: Metric) -> str:
    """An AUC with its 95% interval."""
    return f"{fixed(metric.value)} ({fixed(metric.ci_low)}–{fixed(metric.ci_high)})"


def rate(metric: Metric) -> str:
    """A rate with its 95% interval, alone where the rate is not resolved."""
    told = percent(metric.value) if metric.value is not None else "not resolved"
    return f"{told} ({interval(metric.ci_low, metric.ci_high)})"
