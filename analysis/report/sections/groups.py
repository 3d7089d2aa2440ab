"""The section on groups of records: which classes and groups are exposed more than others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...charts.axes import percent
from ...charts.groups import auc_by_group, tpr_by_group
from ...scores import Finding
from ..data import Report, Said, label_of, labelled, metric_of
from ..parts import Figure, Figures, Part, Section, Table, area, rate
from ..records import named_class
from ..trust import with_article

KINDS = {"label": "class", "singletons": "kind of record", "subpopulation": "subpopulation"}
"""What the groups of a grouping are called; those of a column are called after it."""

MOST_ROWS = 30


def groups(report: Report) -> Section | None:
    """The leading attack within each class and group, and within the parts that were asked for."""
    found = report.said("by-group")
    if not found:
        return None
    measured = report.judgement.fpr is not None
    parts: list[Part] = []
    for place, said in enumerate(found):
        by = next((str(m.parameters["by"]) for m in said.finding.metrics), "group")
        finding = labelled(_named(report, said.finding, by))
        kind = KINDS.get(by, by)
        drawn = [_titled(f"groups-auc-{place}", auc_by_group(finding), f"AUC, by {kind}")]
        if metric_of(said.finding, "fpr_at_threshold") is not None and measured:
            # With a threshold for each group the shares would be of as many different questions.
            named = tpr_by_group(finding)
            title = str(named.title.text).replace("by group", f"by {kind}")
            drawn.insert(0, _titled(f"groups-tpr-{place}", named, title))
        parts += [Figures(tuple(drawn)), _table(finding, kind, measured)]
    return Section(
        "groups",
        "Classes and groups",
        "Which classes and groups are at risk",
        f"An average over all records hides a group that is exposed more than the others. {_scores(found)}",
        tuple(parts),
    )


def _table(finding: Finding, kind: str, measured: bool) -> Table:
    """AUC, and the shares of members and of non-members that the attack names, of each group of a by-group evaluation; without
    these shares where the records resolve no rate (``measured``).

    Of several scores the first counts.
    """
    score = next((str(metric.parameters["score"]) for metric in finding.metrics), "")
    areas = [m for m in finding.metrics if m.metric == "auc" and m.parameters["score"] == score]
    fpr = _finest(finding, score)
    common = metric_of(finding, "fpr_at_threshold") is not None
    rows = []
    for metric in areas:
        group = metric.parameters["group"]
        named = metric_of(finding, "tpr_at_fpr", score=score, group=group, fpr=fpr)
        alarms = metric_of(finding, "fpr_at_threshold", score=score, group=group, fpr=fpr)
        rows.append(
            (
                str(group),
                f"{metric.parameters['members']:,}",
                rate(named) if named and measured else "–",
                f"{metric.parameters['non_members']:,}",
                percent(alarms.value) if alarms and measured else "–",
                area(metric),
            )
        )
    left = f" The first {MOST_ROWS} of {len(rows) - 1} groups." if len(rows) > MOST_ROWS + 1 else ""
    return Table(
        (kind, "members", "of them named", "non-members", "of them named", "AUC"),
        tuple(rows[: MOST_ROWS + 1]),
        (False, True, True, True, True, True),
        (
            f"Named by {with_article(score)} at FPR {percent(fpr)}, "
            + ("one threshold for all groups. " if common else "each group with a threshold of its own. ")
            if measured
            else ""
        )
        + f"95% intervals in brackets; with many groups, some stand out by chance.{left}",
    )


def _finest(finding: Finding, score: str) -> float:
    """The lowest FPR that all records together resolve; the highest where they resolve none."""
    rates = [m for m in finding.metrics if m.metric == "tpr_at_fpr" and m.parameters["score"] == score]
    of_all = [m for m in rates if m.parameters["group"] == rates[0].parameters["group"]]
    resolved = [float(m.parameters["fpr"]) for m in of_all if m.value is not None]
    return min(resolved) if resolved else max((float(m.parameters["fpr"]) for m in of_all), default=0.0)


def _titled(name: str, chart: Any, title: str) -> Figure:
    """A figure of the chart under another title: several of one kind stand on the page."""
    import altair as alt

    return Figure(name, chart.properties(title=alt.TitleParams(text=title, subtitle=chart.title.subtitle)))


def _scores(found: tuple[Said, ...]) -> str:
    names = dict.fromkeys(
        label_of(str(m.parameters["score"])) for said in found for m in said.finding.metrics
    )
    return f"By {', '.join(map(with_article, names))}."


def _named(report: Report, finding: Finding, by: str) -> Finding:
    """The same metrics with classes called by their names."""
    if by != "label":
        return finding
    names = report.experiment.dataset.get("classes")
    called = {}
    for metric in finding.metrics:
        label = str(metric.parameters["group"])
        called[label] = named_class(names, int(label)) if label.lstrip("-").isdecimal() else label
    if len(set(called.values())) < len(called):  # two classes of one name
        called = {label: f"{label}: {name}" for label, name in called.items()}
    return Finding(
        tuple(
            replace(
                metric, parameters={**metric.parameters, "group": called[str(metric.parameters["group"])]}
            )
            for metric in finding.metrics
        )
    )
