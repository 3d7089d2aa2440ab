"""The last sections: further scores, notes, what else can be asked, and SQL to go on with."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import polars as pl

from ...charts.axes import number
from ...charts.experiments import onion_chart
from ...scoring.catalogue import find
from ...statistics.intervals import CHANCE
from ...statistics.metric import Metric
from ..data import Report, Scored
from ..parts import Code, Commands, Facts, Figure, Figures, Part, Section, Table

if TYPE_CHECKING:
    import altair as alt

MORE = {
    "influence": "Influence: how much more often models get a test record right if they trained on the record.",
    "hellinger": "Hellinger distance: how far apart models with and without the record lie; the closer, the more shadow "
    "models it takes to tell.",
    "subpopulation": "Subpopulations: clusters of what the target's last layer sees; records of rare ones are often at risk.",
    "ood": "Out-of-distribution score: how unlike the rest the model finds a record.",
}
"""Kept scores that are shown briefly, and what each says; `fleets` shows the others."""

TOP = 8


def further(report: Report) -> Section | None:
    """Scores and evaluations that were asked for and belong to no other section, briefly."""
    parts: list[Part] = []
    drawn = []
    for name in MORE:
        scored = report.other(name)
        if scored is not None:
            drawn.append(Figure(name, _titled(find(name).chart(scored.scores), MORE[name])))
    removal = report.finding("onion")
    if removal is not None:
        drawn.append(Figure("onion", onion_chart(removal)))
    if drawn:
        parts.append(Figures(tuple(drawn)))
    influence = report.other("influence")
    if influence is not None:
        parts.append(_influence_table(influence))
    for name in MORE:
        scored = report.other(name)
        if scored is not None and scored.scores.metrics:
            parts.append(_metrics_table(scored.scores.metrics, scored.label))
    if not parts:
        return None
    return Section(
        "further",
        "Further scores",
        "Further scores of the records",
        "Asked for with ‘losslake analyze’, and kept in the lake.",
        tuple(parts),
    )


def notes(report: Report) -> Section | None:
    """What the analyses themselves warn of, and what could not be computed."""
    told = [*report.notes, *((f"{name}: not there", why) for name, why in report.absent)]
    if not told:
        return None
    return Section(
        "notes",
        "Notes",
        "Notes and warnings",
        "What the analyses themselves have to say.",
        (Facts(tuple(told)),),
    )


def questions(report: Report) -> Section | None:
    """Analyses that would add to the report."""
    if not report.asks or not report.kept:
        return None
    experiment = shlex.quote(report.experiment.name)
    target = f" --target {shlex.quote(report.target.run)}" if report.target else ""
    commands = tuple(
        (
            f"losslake analyze {ask.name} --experiment {experiment}{target}",
            f"{ask.adds[:1].upper()}{ask.adds[1:]}",
        )
        for ask in report.asks
    )
    return Section(
        "questions",
        "What else can be asked",
        "What else can be asked",
        "The lake holds the data for these; some take minutes. Once one was run (with --lake, or LOSSLAKE_LAKE set), the next "
        "report shows it.",
        (Commands(commands),),
        folded=True,
    )


def queries(report: Report) -> Section | None:
    """SQL to go on with."""
    if not report.kept:
        return None
    return Section(
        "sql",
        "SQL",
        "Going on in SQL",
        "Every number here is a row in the lake. Run these with ‘losslake sql’.",
        (Code(next_queries(report)),),
        folded=True,
    )


def _titled(chart: Any, title: str) -> alt.Chart | alt.LayerChart:
    """The chart with another title; what its own said stays under it, and in its description."""
    import altair as alt

    own = [] if chart.title.subtitle is alt.Undefined else list(chart.title.subtitle)
    heading, _, reading = title.partition(": ")
    titled: alt.Chart | alt.LayerChart = chart.properties(
        title=alt.TitleParams(text=heading, subtitle=[f"{reading[:1].upper()}{reading[1:]}", *own]),
        description=f"{heading}. {chart.description}",
    )
    return titled


def _influence_table(scored: Scored) -> Table:
    """Records with the largest influence that chance does not explain, and the test records they decide."""
    frame = scored.scores.frame
    known = frame.filter(pl.col("score").is_not_null() & (pl.col("p_value") <= CHANCE))
    rows = [
        (
            f"sample {row['sample_id']}",
            number(row["score"], 2),
            number(row["p_value"], 2),
            ", ".join(
                f"{test} ({number(value, 2)})"
                for test, value in zip(row["affected"] or [], row["influences"] or [], strict=True)
            ),
        )
        for row in known.sort("score", descending=True).head(TOP).iter_rows(named=True)
    ]
    return Table(
        ("record", "largest influence", "p-value", "test samples it helps most"),
        tuple(rows),
        (False, True, True, False),
        f"The {len(rows)} records with the largest influence of those with a p-value of {CHANCE:g} or less.",
    )


def _metrics_table(metrics: Iterable[Metric], of: str) -> Table:
    """The first of any metrics: name and parameters, value, interval, and over how many. ``of`` heads the names."""
    rows = []
    for metric in metrics:
        told = ", ".join(
            f"{name.replace('_', ' ')} {number(value) if isinstance(value, float) else value}"
            for name, value in metric.parameters.items()
        )
        spread = f"{number(metric.ci_low)} to {number(metric.ci_high)}" if metric.ci_low is not None else "–"
        name = metric.metric.replace("_", " ")
        value = number(metric.value) if metric.value is not None else "not resolved"
        rows.append((f"{name} ({told})" if told else name, value, spread, f"{metric.n or 0:,}"))
    return Table((of, "value", "95% interval", "over"), tuple(rows[:TOP]), (False, True, True, True))


def next_queries(report: Report) -> tuple[tuple[str, str], ...]:
    """What each query answers, and its text; all of them run as they stand on the lake the report is of."""
    experiment = _literal(report.experiment.name)
    found = []
    ranking = report.headline.attack.scored if report.headline is not None else report.lt_iqr
    if ranking is not None and report.target is not None:
        analysis, _, rest = ranking.name.partition("[")
        found.append(
            (
                f"The members with the highest {ranking.label}",
                'select sample_id, score, label, "group", "key"\n'
                "from scores join samples using (experiment, sample_id)\n"
                f"where experiment = {experiment} and analysis = {_literal(analysis)} "
                f"and variant = {_literal(rest.removesuffix(']'))} "
                f"and target = {_literal(report.target.run)}\n  and member\norder by score desc\nlimit 50",
            )
        )
    if report.traces is not None and report.target is not None and report.exposed:
        first = report.exposed[0]
        found.append(
            (
                f"The loss of {first.name}, epoch by epoch",
                "select epoch, loss\nfrom trace_points\n"
                f"where experiment = {experiment} and run = {_literal(report.target.run)} "
                f"and source = {_literal(report.traces.source)} and sample_id = {first.sample_id}\norder by epoch",
            )
        )
    if report.memorization is not None:
        target = _literal(report.target.run if report.target else "all")
        found.append(
            (
                "Memorization by class",
                "select label, count(*) as samples, avg(score) as mean, max(score) as highest\n"
                "from scores join samples using (experiment, sample_id)\n"
                f"where experiment = {experiment} and analysis = 'memorization' and variant = '' and target = {target}\n"
                "group by label\norder by mean desc",
            )
        )
    if report.shadows and report.exposed:
        first = report.exposed[0]
        found.append(
            (
                f"What the shadow models say of {first.name}, with and without it",
                "select signals.member, count(*) as runs, avg(phi) as mean_phi, stddev_pop(phi) as sd_phi\n"
                "from signals join runs using (experiment, run)\n"
                f"where experiment = {experiment} and role = 'shadow' and query = 0 and sample_id = {first.sample_id}\n"
                "group by signals.member",
            )
        )
    found.append(
        (
            "Every number that was measured",
            "select analysis, target, variant, metric, parameters, value, ci_low, ci_high, n\nfrom metrics\n"
            f"where experiment = {experiment}\norder by analysis, variant, metric",
        )
    )
    return tuple(found)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
