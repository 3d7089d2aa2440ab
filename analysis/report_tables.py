"""The report's tables of rates: attacks, and how well cheap scores find what the leading attack finds."""

from __future__ import annotations

from .chart_axes import percent
from .metric import Metric
from .report_data import Report, metric_of
from .report_gather import LABELS, LOSSES
from .report_parts import Table
from .report_words import fixed, interval


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
    labels = {name: LABELS[name] for name in names}
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


def _rate(metric: Metric) -> str:
    told = percent(metric.value) if metric.value is not None else "not resolved"
    return f"{told} ({interval(metric.ci_low, metric.ci_high)})"


def _share(metric: Metric | None) -> str:
    if metric is None or metric.value is None:
        return "–"
    return (
        f"{metric.value:.2f} ({metric.ci_low or 0:.2f}–{1 if metric.ci_high is None else metric.ci_high:.2f})"
    )
