"""Sections on the training: traces of single records, and how the risk grew from epoch to epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...charts import traces as charts_evolution
from ...charts import traces as charts_traces
from ..data import Floats, Record, Report, Traces
from ..names import labelled
from ..parts import Figure, Figures, Section

if TYPE_CHECKING:
    import altair as alt

LINES = 8
"""Traces of single records drawn in one chart; more cannot be told apart."""

RECORDED = {
    "eval": "Measured by a pass over un-augmented data after each epoch.",
    "train": "Recorded inside the training steps, on augmented data.",
}


def traces(report: Report) -> Section | None:
    """Loss and gradient norm of the most exposed records beside all members'."""
    drawn = []
    lead = ""
    if report.traces is not None:
        drawn.append(Figure("traces", _traces(report, report.traces, "loss")))
        lead = (
            "Typical records are learnt early, from what they share with others. The most exposed are learnt late, one by "
            f"one. {RECORDED.get(report.traces.source, '')}"
        )
    if report.grad_norms is not None:
        drawn.append(Figure("grad-norms", _traces(report, report.grad_norms, "gradient norm")))
        lead += " A large gradient of a record is one that pulls the model its way."
    if not drawn:
        return None
    what = " and ".join(
        filter(None, ("loss" * bool(report.traces), "gradient norm" * bool(report.grad_norms)))
    )
    title = f"{what[:1].upper()}{what[1:]} over training"
    return Section("traces", "Traces", title, lead.strip(), (Figures(tuple(drawn)),))


def evolution(report: Report) -> Section | None:
    """How LT-IQR grew over the training, and whether other quantiles would have done better."""
    grown = next(iter(report.said("evolution")), None)
    other = next(iter(report.said("quantile-ablation")), None)
    drawn = []
    if grown is not None:
        drawn.append(Figure("evolution", charts_evolution.evolution_chart(labelled(grown.finding))))
    if other is not None:
        drawn.append(Figure("quantiles", charts_evolution.ablation_map(labelled(other.finding))))
    if not drawn:
        return None
    return Section(
        "evolution",
        "Risk over training",
        "How the risk grew over training",
        "LT-IQR of the training so far, as it could have been read off at each of these epochs: where the highest "
        "quantiles still rise, more training exposes the records at risk further.",
        (Figures(tuple(drawn)),),
    )


def _traces(report: Report, found: Traces, signal: str) -> alt.Chart | alt.LayerChart:
    lines = [
        charts_traces.Line(_called(record), values)
        for record in report.exposed
        if (values := _values(record, signal)) is not None
    ][:LINES]
    return charts_traces.traces_chart(
        lines, found.band, signal=signal, lines_name=f"highest {report.ranked_by}"
    )


def _values(record: Record, signal: str) -> Floats | None:
    return record.trace if signal == "loss" else record.grad_norms


def _called(record: Record) -> str:
    return f"{record.name}, {record.class_name}" if record.class_name else record.name
