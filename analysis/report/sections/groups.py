"""The section on groups of records: which classes and groups are exposed more than others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...charts import groups as charts_groups
from ...scores import Finding
from ..data import Report, Said, metric_of
from ..names import label_of, labelled
from ..parts import Figure, Figures, Part, Section
from ..records import named_class
from ..tables import groups_table

KINDS = {"label": "class", "singletons": "kind of record", "subpopulation": "subpopulation"}
"""What the groups of a grouping are called; those of a column are called after it."""


def groups(report: Report) -> Section | None:
    """The leading attack within each class and group, and within the parts that were asked for."""
    found = report.said("by-group")
    if not found:
        return None
    parts: list[Part] = []
    for place, said in enumerate(found):
        by = next((str(m.parameters["by"]) for m in said.finding.metrics), "group")
        finding = labelled(_named(report, said.finding, by))
        kind = KINDS.get(by, by)
        drawn = [_titled(f"groups-auc-{place}", charts_groups.auc_by_group(finding), f"AUC, by {kind}")]
        if metric_of(said.finding, "fpr_at_threshold") is not None:
            # With a threshold for each group the shares would be of as many different questions.
            named = charts_groups.tpr_by_group(finding)
            title = str(named.title.text).replace("by group", f"by {kind}")
            drawn.insert(0, _titled(f"groups-tpr-{place}", named, title))
        parts += [Figures(tuple(drawn)), groups_table(finding, kind)]
    return Section(
        "groups",
        "Classes and groups",
        "Which classes and groups are at risk",
        f"An average over all records hides a group that is exposed more than the others. {_scores(found)}",
        tuple(parts),
    )


def _titled(name: str, chart: Any, title: str) -> Figure:
    """A figure of the chart under another title: several of one kind stand on the page."""
    import altair as alt

    return Figure(name, chart.properties(title=alt.TitleParams(text=title, subtitle=chart.title.subtitle)))


def _scores(found: tuple[Said, ...]) -> str:
    names = dict.fromkeys(
        label_of(str(m.parameters["score"])) for said in found for m in said.finding.metrics
    )
    return f"By {', '.join(names)}."


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
