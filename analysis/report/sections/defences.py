"""The section on a defence: what it takes from the attacks, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable

from ...charts.axes import number, percent
from ...charts.defences import attacks_with_and_without
from ...scores import Finding
from ...statistics.metric import Metric
from ..data import Report
from ..names import labelled
from ..parts import Figure, Figures, Section, Table
from ..words import fixed


def defended(report: Report) -> Section | None:
    """Attacks and costs of the experiment beside those of another one, which was trained with a defence."""
    said = next(iter(report.said("defences")), None)
    if said is None:
        return None
    finding = labelled(said.finding)
    experiments = _experiments(finding)
    return Section(
        "defences",
        "Defence",
        "What the defence is worth",
        f"The same records in two experiments: {experiments[0]}, and {experiments[-1]} with the defence. A change whose interval "
        "holds 0 may be chance.",
        (
            Figures((Figure("defences", attacks_with_and_without(finding)),)),
            _attacks(finding, experiments),
            _costs(finding, experiments),
        ),
    )


def _experiments(finding: Finding) -> list[str]:
    return list(dict.fromkeys(str(m.parameters["experiment"]) for m in finding.metrics if m.metric == "auc"))


def _attacks(finding: Finding, experiments: list[str]) -> Table:
    """AUC and TPR at each FPR of every score in both experiments, and the change."""
    changes = {_key(m, str(m.parameters["of"])): m for m in finding.metrics if m.metric == "difference"}
    sides = [
        {_key(m): m for m in finding.metrics if m.parameters.get("experiment") == name and m.metric in _RATES}
        for name in experiments
    ]
    rows = [
        (f"{key[0]}, {_named(key)}", *(_told(side.get(key)) for side in sides), _told(changes.get(key)))
        for key in sides[0]
    ]
    return Table(
        ("attack", *experiments, "change"),
        tuple(rows),
        (False, *(True for _ in range(len(experiments) + 1))),
        "95% intervals in brackets, over records: another training of the same two recipes may differ by more.",
    )


_RATES = {"auc": "AUC", "tpr_at_fpr": "TPR"}


def _key(metric: Metric, of: str | None = None) -> tuple[str, str, float | None]:
    return str(metric.parameters["score"]), of or metric.metric, metric.parameters.get("fpr")


def _named(key: tuple[str, str, float | None]) -> str:
    at = f" at FPR {percent(key[2])}" if key[2] is not None else ""
    return f"{_RATES[key[1]]}{at}"


def _told(metric: Metric | None) -> str:
    if metric is None:
        return "–"
    value = "not resolved" if metric.value is None else fixed(metric.value)
    return f"{value} ({fixed(metric.ci_low)} to {fixed(metric.ci_high)})"


def _costs(finding: Finding, experiments: Iterable[str]) -> Table:
    """Accuracies and epsilon of the two targets."""
    rows = []
    for name in experiments:
        own = {m.metric: m for m in finding.metrics if m.parameters.get("experiment") == name}
        accuracies = [own.get("test_accuracy"), own.get("train_accuracy")]
        epsilon = own.get("epsilon")
        rows.append(
            (
                name,
                *(percent(m.value, 3) if m and m.value is not None else "–" for m in accuracies),
                "none promised"
                if epsilon is None
                else f"{number(epsilon.value)} at delta {float(epsilon.parameters['delta']):g}",
            )
        )
    return Table(
        ("experiment", "test accuracy", "train accuracy", "epsilon"),
        tuple(rows),
        (False, True, True, True),
        "What the defence costs. Epsilon is what a training with DP-SGD promises.",
    )
