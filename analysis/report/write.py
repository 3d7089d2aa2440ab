"""Writing the report of an experiment: an HTML page, a PDF, a sheet of its charts, or its numbers as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...store.errors import InvalidOption
from ...store.format.out_file import out_file
from ...store.format.outgoing import whole_text
from ...store.lake import Lake
from ..scoring.run import FPRS
from ..statistics.metric import Metric
from ..statistics.roc import RESOLVED_FROM
from .data import Record, Report
from .document import Paper, document, need_weasyprint
from .gather import gather
from .page import build, page, picture
from .verdict import judged_json
from .words import Verdict, verdict

FORMATS = (".html", ".pdf", ".png", ".svg", ".json")


def write_report(
    lake: Lake,
    experiment: str,
    out: Path,
    *,
    target: str | None = None,
    pictures: bool = True,
    fprs: tuple[float, ...] = FPRS,
    defended: str | None = None,
    paper: Paper = "A4",
) -> Report:
    """Write the report of an experiment to ``out`` and return what it tells.

    The suffix chooses: .html is the whole report in one file that needs no network, .pdf the same on ``paper`` with contents and
    page numbers, .png and .svg are a sheet of its charts, .json its numbers. Scores that are missing or stale are computed and kept in the lake.
    Without ``pictures`` the report shows no record itself: neither its picture nor the columns of its own. The
    leading figures are at the lowest of ``fprs`` that the target's non-members resolve. ``defended`` is another
    experiment of the same records, trained with a defence, to set beside this one.

    Raises InvalidOption for another suffix, NotFound for an unknown experiment or run, NotEnoughData when the
    experiment has nothing to report on. The file is written as by `out_file`.
    """
    kind = out.suffix.lower()
    if kind not in FORMATS:
        raise InvalidOption(
            f"a report cannot be written as {out.name!r}; end the name in one of {', '.join(FORMATS)}"
        )
    if kind == ".pdf":
        need_weasyprint()
    report = gather(lake, experiment, target=target, pictures=pictures, fprs=fprs, defended=defended)
    said = verdict(report)
    if kind == ".json":
        content = _json(report, said).encode()
    elif kind == ".html":
        content = page(report, said, build(report)).encode()
    elif kind == ".pdf":
        content = document(report, said, build(report), paper)
    else:
        content = picture(report, said, build(report), kind.removeprefix("."))
    with out_file(out) as file:
        file.write(content)
    return report


def _json(report: Report, verdict: Verdict) -> str:
    """Verdict, headline, metrics, runs, most exposed records and notes. What is not finite becomes null."""
    head = report.headline
    content = {
        "losslake": report.version,
        "made": report.made,
        "experiment": report.experiment.name,
        "samples": report.experiment.samples,
        "dataset": report.dataset,
        "target": report.target.run if report.target else None,
        "shadow_runs": len(report.shadows),
        "verdict": {
            "title": verdict.title,
            "text": verdict.text,
            **judged_json(report.judgement),
            "what_to_do": [
                {"what": step.what, "command": step.command or None} for step in verdict.next_steps
            ],
        },
        "cautions": [f"{trust.name}: {trust.text}" for trust in verdict.trust if trust.caution],
        "headline": None
        if head is None
        else {
            "attack": head.attack.scored.name,
            "fpr": head.fpr,
            "members": head.members,
            "non_members": head.non_members,
            "resolvable_fpr": RESOLVED_FROM / head.non_members,
            "named": len(head.found) if head.fpr is not None else None,
            "tpr": head.tpr.to_json() if head.tpr else None,
            "auc": head.attack.auc.to_json(),
        },
        "attacks": [
            {"score": attack.scored.name, "metrics": _metrics(attack.metrics)} for attack in report.attacks
        ],
        "comparison": _metrics(report.comparison.metrics) if report.comparison else [],
        "memorization": _metrics(report.memorization.scores.metrics) if report.memorization else [],
        "correlations": _metrics(report.pairing.metrics) if report.pairing else [],
        "findings": [
            {
                "evaluation": said.evaluation,
                "variant": said.variant,
                "metrics": _metrics(said.finding.metrics),
            }
            for said in report.findings
        ],
        "other_scores": [
            {"score": one.name, "metrics": _metrics(one.scores.metrics)} for one in report.others
        ],
        "runs": [
            {
                "run": run.run,
                "role": run.info.role,
                "model": run.info.model,
                "epochs": run.info.epochs,
                "members": run.members,
                "train_accuracy": run.info.train_accuracy,
                "test_accuracy": run.info.test_accuracy,
            }
            for run in report.runs
        ],
        "ranked_by": report.ranked_by,
        "most_exposed": [_record(record) for record in report.exposed],
        "can_be_asked": [ask.name for ask in report.asks],
        "notes": [{"analysis": name, "note": note} for name, note in report.notes],
        "absent": [{"analysis": name, "why": why} for name, why in report.absent],
    }
    return json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _metrics(metrics: Iterable[Metric]) -> list[dict[str, Any]]:
    return [metric.to_json() for metric in metrics]


def _record(record: Record) -> dict[str, Any]:
    return {
        "sample_id": record.sample_id,
        "key": record.key,
        "label": record.label,
        "class": record.class_name,
        "group": record.group,
        "named": record.found,
        "scores": {name: {"score": score, "rank": rank} for name, score, rank in record.scores},
        "loss_trace": record.trace.tolist() if record.trace is not None else None,
        "gradient_norm_trace": record.grad_norms.tolist() if record.grad_norms is not None else None,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, dict):
        return {whole_text(str(key)): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
