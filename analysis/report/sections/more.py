"""The last sections: bounds that were asked for, further scores, notes, what else can be asked, and SQL."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import polars as pl

from ...charts import dp_audit as charts_dp_audit
from ...charts import dp_audit as charts_duci
from ...charts import onion as charts_onion
from ...charts.axes import number
from ...scoring.catalogue import find
from ...statistics.intervals import CHANCE
from ..data import Report, Scored
from ..names import labelled
from ..parts import Code, Commands, Facts, Figure, Figures, Part, Section, Table
from ..tables import bounds_table, metrics_table

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


def bounds(report: Report) -> Section | None:
    """What attacks prove of the training's epsilon, and what they tell of the share of data used."""
    audit = next(iter(report.said("dp-audit")), None)
    usage = next(iter(report.said("duci")), None)
    parts: list[Part] = []
    if audit is not None:
        parts.append(Figures((Figure("dp-audit", charts_dp_audit.epsilon_bounds(labelled(audit.finding))),)))
        parts.append(bounds_table(audit.finding))
    if usage is not None:
        parts.append(Figures((Figure("duci", charts_duci.usage_shares(labelled(usage.finding))),)))
    if not parts:
        return None
    title = "What the attack proves" if audit is not None else "Which share of the data was used"
    return Section(
        "bounds",
        "Bounds",
        title,
        "An attack that does well proves that the training cannot have been private beyond a bound; what such a bound "
        "rests on stands in the notes."
        if audit is not None
        else "",
        tuple(parts),
    )


def further(report: Report) -> Section | None:
    """Scores and evaluations that were asked for and belong to no other section, briefly."""
    parts: list[Part] = []
    drawn = []
    for name in MORE:
        scored = report.other(name)
        if scored is not None:
            drawn.append(Figure(name, _titled(find(name).chart(scored.scores), MORE[name])))
    removal = next(iter(report.said("onion")), None)
    if removal is not None:
        drawn.append(Figure("onion", charts_onion.onion_chart(labelled(removal.finding))))
    if drawn:
        parts.append(Figures(tuple(drawn)))
    influence = report.other("influence")
    if influence is not None:
        parts.append(_influence_table(influence))
    for name in MORE:
        scored = report.other(name)
        if scored is not None and scored.scores.metrics:
            parts.append(metrics_table(scored.scores.metrics, scored.label))
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
    if not report.asks:
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
    )


def queries(report: Report) -> Section:
    """SQL to go on with."""
    return Section(
        "sql",
        "SQL",
        "Going on in SQL",
        "Every number here is a row in the lake. Run these with ‘losslake sql’.",
        (Code(next_queries(report)),),
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


def next_queries(report: Report) -> tuple[tuple[str, str], ...]:
    """What each query answers, and its text; all of them run as they stand on the lake the report is of."""
    experiment = _literal(report.experiment.name)
    found = []
    if report.headline is not None and report.target is not None:
        found.append(
            _ranking(report.headline.attack.scored.name, report.headline.attack.label, experiment, report)
        )
    elif report.lt_iqr is not None and report.target is not None:
        found.append(_ranking(report.lt_iqr.name, report.lt_iqr.label, experiment, report))
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


def _ranking(score: str, label: str, experiment: str, report: Report) -> tuple[str, str]:
    assert report.target is not None
    analysis, _, rest = score.partition("[")
    return (
        f"The members with the highest {label}",
        'select sample_id, score, label, "group", "key"\n'
        "from scores join samples using (experiment, sample_id)\n"
        f"where experiment = {experiment} and analysis = {_literal(analysis)} and variant = {_literal(rest.removesuffix(']'))} "
        f"and target = {_literal(report.target.run)}\n  and member\norder by score desc\nlimit 50",
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
