"""Scores: what an analysis says about each sample. A higher score always means more exposed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from ..store.errors import InvalidOption
from ..store.format.outgoing import drawable, printable, spelled
from .statistics.metric import Metric

if TYPE_CHECKING:
    import altair as alt


@dataclass(frozen=True)
class Scores:
    """One row a sample: sample_id, member (of the target; NULL without one), score, the analysis's own columns.

    A sample without a score has NULL there. ``notes`` are sentences a reader must know, ``metrics`` what the
    analysis itself measures beyond the common evaluation.
    """

    frame: pl.DataFrame
    notes: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()

    def arrays(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Score (NaN where there is none) and membership of the samples whose membership is known."""
        # The columns one by one: a frame's may all be copied where one is in other pieces than the others.
        member, score = self.frame["member"], self.frame["score"]
        if member.null_count():
            known = member.is_not_null()
            member, score = member.filter(known), score.filter(known)
        return score.cast(pl.Float64).fill_null(float("nan")).to_numpy(), member.to_numpy()


@dataclass(frozen=True, repr=False)
class Finding:
    """What an evaluation of several scores says: metrics, and sentences a reader must know.

    ``title`` and ``drawn``, how its chart is drawn, are known of one that an evaluation was asked for by name.
    """

    metrics: tuple[Metric, ...]
    notes: tuple[str, ...] = ()
    title: str = field(default="finding", compare=False)
    drawn: Callable[[Finding], alt.TopLevelMixin] | None = field(default=None, compare=False)

    def chart(self) -> alt.TopLevelMixin:
        """The chart of its evaluation. Raises InvalidOption for one that no evaluation was asked for."""
        if self.drawn is None:
            raise InvalidOption(
                "this finding was put together by hand, and no evaluation says how to draw it"
            )
        return self.drawn(self)

    def __repr__(self) -> str:
        return as_text(self.title, self.metrics, self.notes)

    def _repr_html_(self) -> str:
        return as_html(self.title, self.metrics, self.notes, None if self.drawn is None else self.chart)


def count_unscored(frame: pl.DataFrame, why: str) -> tuple[str, ...]:
    """A note with the number of samples without a score, none where all have one."""
    missing = frame["score"].null_count()
    return (f"{missing} of {len(frame)} samples have no score: {why}",) if missing else ()


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows in the order of their sample ids: as they are where they lie so, as those that losslake writes do."""
    return rows if rows["sample_id"].is_sorted() else rows.sort("sample_id")


def by_exposure(scores: Scores) -> pl.DataFrame:
    """The scored samples from the most exposed down, ties in the order of sample ids.

    Members of the target where membership is known, else all samples.
    """
    frame = scores.frame.filter(pl.col("score").is_not_null())
    if frame["member"].any():
        frame = frame.filter(pl.col("member"))
    return frame.sort("score", "sample_id", descending=[True, False])


# --- as people see them -------------------------------------------------------------------------------------


def as_text(title: str, metrics: Sequence[Metric], notes: Sequence[str]) -> str:
    """A title, a line a metric with its interval, and the notes; what drives a terminal is a dot."""
    cells = [(metric.title, *_numbers(metric)) for metric in metrics]
    width = max((len(name) for name, *_ in cells), default=0)
    lines = [f"  {name:<{width}}  {value}  {interval}".rstrip() for name, value, interval, _ in cells]
    return "\n".join(printable(line) for line in (title, *lines, *(f"note: {note}" for note in notes)))


def as_html(
    title: str,
    metrics: Sequence[Metric],
    notes: Sequence[str],
    chart: Callable[[], alt.TopLevelMixin] | None,
) -> str:
    """The same as a table, and the chart as a picture: nothing in it is run or fetched."""
    head = "".join(f"<th>{name}</th>" for name in ("metric", "value", "95% interval", "n"))
    rows = [
        "".join(f"<td>{escape(spelled(cell))}</td>" for cell in (metric.title, *_numbers(metric)))
        for metric in metrics
    ]
    parts = [
        f"<p><strong>{escape(spelled(title))}</strong></p>",
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table>",
        *(f"<p>note: {escape(spelled(note))}</p>" for note in notes),
        "" if chart is None else _picture(chart),
    ]
    return f"<div>{''.join(parts)}</div>"


def _numbers(metric: Metric) -> tuple[str, str, str]:
    value = "not resolved" if metric.value is None else f"{metric.value:.4g}"
    interval = ""
    if metric.ci_low is not None:
        one_sided = metric.ci_high is None or math.isinf(metric.ci_high)
        interval = (
            f"{metric.ci_low:.4g} or more" if one_sided else f"{metric.ci_low:.4g} to {metric.ci_high:.4g}"
        )
    return value, interval, "" if metric.n is None else str(metric.n)


def _picture(chart: Callable[[], alt.TopLevelMixin]) -> str:
    import vl_convert

    spec = drawable(chart().to_dict())
    # On white, whatever the notebook's ground is: the words are dark.
    spec["config"] = {**spec.get("config", {}), "background": "white"}
    return str(vl_convert.vegalite_to_svg(spec))
