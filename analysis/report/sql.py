"""Queries that a reader of the report may want to run next, on this experiment and target."""

from __future__ import annotations

from .data import Report


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
