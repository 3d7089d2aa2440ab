"""The report's sections, each built from the gathered numbers when its data is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from . import charts, charts_pairs, charts_roc, charts_traces
from .chart_axes import axis_for, number, percent
from .chart_style import BLUE, VERMILION
from .metric import Metric
from .report_data import Record, Report, Scored, correlation
from .report_parts import Code, Facts, Figure, Figures, Gallery, Part, Section, Table
from .report_runs import recipe_facts, run_rows
from .report_sql import next_queries
from .report_tables import attacks_table, precision_table

if TYPE_CHECKING:
    import altair as alt

LINES = 8
"""Traces of single records drawn in one chart; more cannot be told apart."""


def build(report: Report) -> tuple[Section, ...]:
    """The sections whose data is there, in order."""
    return tuple(found for found in (builder(report) for builder in SECTIONS) if found is not None)


def _attacks(report: Report) -> Section | None:
    if not report.attacks:
        return None
    return Section(
        "attacks",
        "How well attacks tell members from non-members",
        "The left end of the curve matters: an attack that is right about a few records without accusing others is a "
        "leak, however poor it is on average.",
        (
            Figures(
                (
                    Figure("roc", charts_roc.roc_chart([attack.curve for attack in report.attacks])),
                    Figure(
                        "tpr",
                        charts_roc.tpr_chart([(attack.label, attack.metrics) for attack in report.attacks]),
                    ),
                )
            ),
            attacks_table(report),
        ),
    )


def _exposed(report: Report) -> Section | None:
    if not report.exposed:
        return None
    what = "training records" if report.exposed[0].found is not None or report.target else "samples"
    typical = tuple(report.traces.band.median.tolist()) if report.traces else ()
    spark = (
        " The small curve is the record's loss over training; grey, the median member's." if typical else ""
    )
    return Section(
        "exposed",
        "The most exposed records",
        f"The {len(report.exposed)} {what} with the highest {report.ranked_by}, the highest first; ranks (#) are among all of them.{spark}",
        (Gallery(report.exposed, typical),),
    )


def _lt_iqr(report: Report) -> Section | None:
    if report.lt_iqr is None:
        return None
    drawn: list[Figure] = []
    frame = report.lt_iqr.scores.frame
    values = frame["score"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    member = frame["member"].fill_null(value=False).to_numpy()
    ids = frame["sample_id"].to_numpy()
    head = report.headline
    if head is not None and head.fpr is not None and head.found:
        found = np.isin(ids, list(head.found))
        groups = [
            charts.Group(f"other members ({int((member & ~found).sum()):,})", values[member & ~found], BLUE),
            charts.Group(f"{head.found_name} ({len(head.found):,})", values[found], VERMILION),
        ]
        subtitle = [f"{_sentence(head.found_name)}: {head.attack.label} at FPR {percent(head.fpr)}."]
    else:
        groups, subtitle = [charts.Group("members", values[member], BLUE)], []
    drawn.append(
        Figure(
            "lt-iqr",
            charts.grouped_histogram(
                groups,
                f"LT-IQR of records {head.found_name}, and of the others"
                if head is not None and len(groups) > 1
                else "LT-IQR of the members",
                "LT-IQR, nats",
                subtitle=subtitle,
                axis=axis_for(np.concatenate([group.values for group in groups])),
            ),
        )
    )
    if head is not None:
        drawn.append(Figure("lt-iqr-attack", _against_attack(report, report.lt_iqr)))
    parts: list[Part] = [Figures(tuple(drawn))]
    table = precision_table(report)
    if table is not None:
        parts.append(table)
    return Section(
        "lt-iqr",
        "LT-IQR: exposure without shadow models",
        "LT-IQR, the interquartile range of a record's loss over training, comes free with training the model. "
        + (
            "The more of the records that the attack finds have a high LT-IQR, the better it stands in for the attack."
            if head is not None
            else "Higher means learnt later and on its own account: more exposed."
        ),
        tuple(parts),
    )


def _against_attack(report: Report, lt_iqr: Scored) -> alt.Chart | alt.LayerChart:
    assert report.headline is not None
    attack = report.headline.attack
    rho = correlation(report.comparison, lt_iqr.name, attack.scored.name)
    pairs = _pair(report, lt_iqr, attack.scored, members_only=True)
    return charts_pairs.pairs_chart(pairs, f"LT-IQR against {attack.label}", _say_correlation(rho, "members"))


def _traces(report: Report) -> Section | None:
    if report.traces is None:
        return None
    lines = [
        charts_traces.Line(_called(record), record.trace)
        for record in report.exposed
        if record.trace is not None
    ][:LINES]
    chart = charts_traces.traces_chart(lines, report.traces.band, lines_name=f"highest {report.ranked_by}")
    how = {
        "eval": "Measured by a pass over un-augmented data after each epoch.",
        "train": "Recorded inside the training steps, on augmented data.",
    }
    return Section(
        "traces",
        "Loss over training",
        "Typical records are learnt early, from what they share with others. The most exposed are learnt late, one by "
        f"one. {how.get(report.traces.source, '')}",
        (Figures((Figure("traces", chart),)),),
    )


def _memorization(report: Report) -> Section | None:
    if report.memorization is None:
        return None
    drawn = [Figure("memorization", charts.memorization_histogram(report.memorization.scores))]
    if report.privacy_score is not None:
        rho = correlation(report.pairing, "memorization", "privacy-score")
        pairs = _pair(report, report.memorization, report.privacy_score, members_only=False)
        title = "Memorization against privacy score"
        drawn.append(
            Figure("privacy", charts_pairs.pairs_chart(pairs, title, _say_correlation(rho, "samples")))
        )
    return Section(
        "memorization",
        "Memorization and privacy score",
        "Both come from the shadow models alone, whatever the target trained on: memorization is how much the label "
        "depends on having seen the record (how often models get it right with it, less how often without); the privacy "
        "score is how far apart models with and without it lie.",
        (Figures(tuple(drawn)),),
    )


def _trained(report: Report) -> Section:
    columns, rows, numeric = run_rows(report)
    parts: list[Part] = [
        Table(columns, rows, numeric, "Accuracies of several runs: mean, and lowest to highest.")
    ]
    facts = recipe_facts(report)
    if facts:
        parts.append(Facts(facts, "Recipe of the target" if report.target else "Recipe of the runs"))
    return Section("runs", "What was trained", "", tuple(parts))


def _caveats(report: Report) -> Section | None:
    notes = [*report.notes, *((f"{name}: not there", why) for name, why in report.absent)]
    if not notes:
        return None
    return Section(
        "notes", "Notes and warnings", "What the analyses themselves have to say.", (Facts(tuple(notes)),)
    )


def _queries(report: Report) -> Section:
    return Section(
        "sql",
        "Going on in SQL",
        "Every number here is a row in the lake. Run these with ‘losslake sql’.",
        (Code(next_queries(report)),),
    )


SECTIONS: tuple[Callable[[Report], Section | None], ...] = (
    _attacks,
    _exposed,
    _lt_iqr,
    _traces,
    _memorization,
    _trained,
    _caveats,
    _queries,
)
"""In the order of the page. A new section is one more function here."""


def _pair(report: Report, first: Scored, second: Scored, *, members_only: bool) -> charts_pairs.Pairs:
    head = report.headline
    found = head.found if head else frozenset()
    one = first.scores.frame.select("sample_id", "member", pl.col("score").alias("x"))
    both = one.join(second.scores.frame.select("sample_id", pl.col("score").alias("y")), on="sample_id")
    if members_only:
        both = both.filter(pl.col("member"))
    both = both.drop_nulls(["x", "y"]).sort("sample_id")
    ids = both["sample_id"].to_numpy().astype(np.int64)
    return charts_pairs.Pairs(
        ids,
        both["x"].cast(pl.Float64).to_numpy(),
        both["y"].cast(pl.Float64).to_numpy(),
        np.isin(ids, list(found)) if found else np.zeros(len(ids), dtype=bool),
        first.label,
        second.label,
        head.found_name if head else "",
        "members" if members_only else "samples",
    )


def _say_correlation(rho: Metric | None, what: str) -> str:
    if rho is None or rho.value is None:
        return ""
    spread = f"{number(rho.ci_low, 2)} to {number(rho.ci_high, 2)}"
    return f"Spearman's ρ {number(rho.value, 2)} (95%: {spread}) over {rho.n:,} {what}: {rho.parameters['strength']}."


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _called(record: Record) -> str:
    return f"{record.name}, {record.class_name}" if record.class_name else record.name
