"""A report's numbers as JSON, for dashboards and for `losslake report --check`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from ...store.format.outgoing import whole_text
from ..statistics.metric import Metric
from ..statistics.roc import RESOLVED_FROM
from .audit import audit_json
from .compared import compared_json
from .data import Record, Report
from .verdict import judged_json
from .words import Verdict

SCHEMA = 1
"""The version of what `as_json` writes, described in report.schema.json: counted up where a name goes or means something else, not where one is added."""


def as_json(report: Report, verdict: Verdict) -> str:
    """Verdict, audit, headline, metrics, runs, most exposed records and notes. What is not finite becomes null."""
    return json.dumps(content(report, verdict), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def content(report: Report, verdict: Verdict, *, traces: bool = True) -> dict[str, Any]:
    """What `as_json` writes; without ``traces`` of single records."""
    head = report.headline
    told = {
        "schema": SCHEMA,
        "losslake": report.version,
        "made": report.made,
        "audit": audit_json(report.audit),
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
        "over_time": compared_json(report.compared) if report.compared else None,
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
        "most_exposed": [_record(record, traces) for record in report.exposed],
        "can_be_asked": [ask.name for ask in report.asks],
        "notes": [{"analysis": name, "note": note} for name, note in report.notes],
        "absent": [{"analysis": name, "why": why} for name, why in report.absent],
    }
    finite: dict[str, Any] = _finite(told)
    return finite


def _metrics(metrics: Iterable[Metric]) -> list[dict[str, Any]]:
    return [metric.to_json() for metric in metrics]


def _record(record: Record, traces: bool) -> dict[str, Any]:
    told = {
        "sample_id": record.sample_id,
        "key": record.key,
        "label": record.label,
        "class": record.class_name,
        "group": record.group,
        "named": record.found,
        "suspicion": record.suspicion or None,
        "found_in_models": None if record.again is None else asdict(record.again),
        "scores": {name: {"score": score, "rank": rank} for name, score, rank in record.scores},
    }
    if traces:
        told["loss_trace"] = record.trace.tolist() if record.trace is not None else None
        told["gradient_norm_trace"] = record.grad_norms.tolist() if record.grad_norms is not None else None
    return told


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
