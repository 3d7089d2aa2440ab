"""The report's tables of rates: attacks, groups, bounds, and how well cheap scores find what the leading attack finds."""

from __future__ import annotations

from collections.abc import Iterable

from ..charts.axes import number, percent
from ..scores import Finding
from ..statistics.metric import Metric
from .data import Report, metric_of
from .gather import LOSSES
from .names import label_of
from .parts import Table
from .words import fixed, interval

MOST_ROWS = 30
TOP = 8


def attacks_table(report: Report) -> Table:
    """AUC and TPR at each FPR of every attack, with intervals; an FPR that is not resolved gets no rate."""
    fprs = [float(metric.parameters["fpr"]) for metric in report.attacks[0].tprs]
    rows = []
    for attack in report.attacks:
        area = attack.auc
        cells = [attack.label, f"{fixed(area.value)} ({fixed(area.ci_low)}–{fixed(area.ci_high)})"]
        cells += [_rate(metric) for metric in attack.tprs]
        rows.append((*cells, f"{attack.curve.members:,}", f"{attack.curve.non_members:,}"))
    return Table(
        ("attack", "AUC", *(f"TPR at FPR {percent(fpr)}" for fpr in fprs), "members", "non-members"),
        tuple(rows),
        (False, *(True for _ in range(len(fprs) + 3))),
        "95% intervals in brackets: of the AUC by DeLong; of the TPR exact, with the choice of the threshold. "
        "“Not resolved”: fewer than one non-member is expected above the threshold.",
    )


def precision_table(report: Report) -> Table | None:
    """Precision and recall among the top k of LT-IQR and of plain losses; None where nothing was compared."""
    head = report.headline
    vulnerable = metric_of(report.comparison, "vulnerable")
    if (
        head is None
        or head.fpr is None
        or vulnerable is None
        or report.lt_iqr is None
        or report.comparison is None
    ):
        return None
    names = (report.lt_iqr.name, *LOSSES)
    labels = {name: label_of(name) for name in names}
    wanted = [m for m in report.comparison.metrics if m.metric == "precision_at_k"]
    shares = list(dict.fromkeys(float(m.parameters["k"]) for m in wanted))
    rows = []
    for share in shares:
        at = [metric_of(report.comparison, "precision_at_k", score=name, k=share) for name in labels]
        back = [metric_of(report.comparison, "recall_at_k", score=name, k=share) for name in labels]
        records = next((int(m.parameters["records"]) for m in at if m), 0)
        rows.append((f"{percent(share)} ({records:,})", *map(_share, at), *map(_share, back)))
    return Table(
        (
            "top k of the members",
            *(f"precision, {name}" for name in labels.values()),
            *(f"recall, {name}" for name in labels.values()),
        ),
        tuple(rows),
        (False, *(True for _ in range(2 * len(labels)))),
        f"Of the k members with the highest score, the share that {head.attack.label} finds at FPR {percent(head.fpr)} "
        f"(precision), and the share of those it finds that are among them (recall). Picking at random: precision "
        f"{percent(vulnerable.value)}. 95% intervals in brackets.",
    )


def groups_table(finding: Finding, kind: str) -> Table:
    """AUC, and the shares of members and of non-members that the attack names, of each group of a by-group evaluation.

    Of several scores the first counts.
    """
    score = next((str(metric.parameters["score"]) for metric in finding.metrics), "")
    areas = [m for m in finding.metrics if m.metric == "auc" and m.parameters["score"] == score]
    fpr = _finest(finding, score)
    common = metric_of(finding, "fpr_at_threshold") is not None
    rows = []
    for area in areas:
        group = area.parameters["group"]
        rate = metric_of(finding, "tpr_at_fpr", score=score, group=group, fpr=fpr)
        alarms = metric_of(finding, "fpr_at_threshold", score=score, group=group, fpr=fpr)
        rows.append(
            (
                str(group),
                f"{area.parameters['members']:,}",
                _rate(rate) if rate else "–",
                f"{area.parameters['non_members']:,}",
                percent(alarms.value) if alarms else "–",
                f"{fixed(area.value)} ({fixed(area.ci_low)}–{fixed(area.ci_high)})",
            )
        )
    left = f" The first {MOST_ROWS} of {len(rows) - 1} groups." if len(rows) > MOST_ROWS + 1 else ""
    return Table(
        (kind, "members", "of them named", "non-members", "of them named", "AUC"),
        tuple(rows[: MOST_ROWS + 1]),
        (False, True, True, True, True, True),
        f"Named by {score} at FPR {percent(fpr)}, "
        + ("one threshold for all groups" if common else "each group with a threshold of its own")
        + f". 95% intervals in brackets; with many groups, some stand out by chance.{left}",
    )


def _finest(finding: Finding, score: str) -> float:
    """The lowest FPR that all records together resolve; the highest where they resolve none."""
    rates = [m for m in finding.metrics if m.metric == "tpr_at_fpr" and m.parameters["score"] == score]
    of_all = [m for m in rates if m.parameters["group"] == rates[0].parameters["group"]]
    resolved = [float(m.parameters["fpr"]) for m in of_all if m.value is not None]
    return min(resolved) if resolved else max((float(m.parameters["fpr"]) for m in of_all), default=0.0)


def bounds_table(finding: Finding) -> Table:
    """Lower bounds on epsilon: the method, the score it rests on, bound and estimate."""
    found = [metric for metric in finding.metrics if metric.metric == "epsilon_lower"]
    rows = tuple(
        (
            str(metric.parameters["method"]),
            label_of(str(metric.parameters["score"])),
            number(metric.ci_low),
            number(metric.value),
            f"{metric.n or 0:,}",
        )
        for metric in found
    )
    at = next((metric.parameters for metric in found), {"confidence": 0.0, "delta": 0.0})
    return Table(
        ("method", "score", "epsilon at least", "estimate", "records"),
        rows,
        (False, False, True, True, True),
        f"At a confidence of {percent(float(at['confidence']))} and a delta of {float(at['delta']):g}. A lower bound near "
        "0 shows no leak and proves no privacy: no audit bounds epsilon from above.",
    )


def metrics_table(metrics: Iterable[Metric], of: str) -> Table:
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


def _rate(metric: Metric) -> str:
    told = percent(metric.value) if metric.value is not None else "not resolved"
    return f"{told} ({interval(metric.ci_low, metric.ci_high)})"


def _share(metric: Metric | None) -> str:
    if metric is None or metric.value is None:
        return "–"
    return (
        f"{metric.value:.2f} ({metric.ci_low or 0:.2f}–{1 if metric.ci_high is None else metric.ci_high:.2f})"
    )
