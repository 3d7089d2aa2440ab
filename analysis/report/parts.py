"""What sections of a report are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .data import Record

if TYPE_CHECKING:
    import altair as alt


@dataclass(frozen=True)
class Figure:
    """A chart, with a name that is unique in the report.

    ``linked`` are the labels of the scores on its x and y axis where a selection in it, which is called as
    `brush_of` says, narrows the records that the page shows; empty for all other charts.
    """

    name: str
    chart: alt.Chart | alt.LayerChart
    linked: tuple[str, ...] = ()


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

    ``name`` is its anchor in the page, ``short`` its entry in the list of sections.
    """

    name: str
    short: str
    title: str
    lead: str
    parts: tuple[Part, ...]
