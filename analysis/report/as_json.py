"""The report's numbers as JSON, for other programs."""

from __future__ import annotations

import json
import math
from typing import Any

from .data import Record, Report
from .words import Verdict


def to_json(report: Report, verdict: Verdict) -> str:
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
        "verdict": {"title": verdict.title, "text": verdict.text},
        "cautions": [f"{trust.name}: {trust.text}" for trust in verdict.trust if trust.caution],
        "headline": None
        if head is None
        else {
            "attack": head.attack.scored.name,
            "fpr": head.fpr,
            "members": head.members,
            "non_members": head.non_members,
            "resolvable_fpr": head.attack.curve.resolution,
            "singled_out": len(head.found) if head.fpr is not None else None,
            "tpr": head.tpr.to_json() if head.tpr else None,
            "auc": head.attack.auc.to_json(),
        },
        "attacks": [
            {"score": attack.scored.name, "metrics": [metric.to_json() for metric in attack.metrics]}
            for attack in report.attacks
        ],
        "comparison": [metric.to_json() for metric in report.comparison.metrics] if report.comparison else [],
        "memorization": [metric.to_json() for metric in report.memorization.scores.metrics]
        if report.memorization
        else [],
        "correlations": [metric.to_json() for metric in report.pairing.metrics] if report.pairing else [],
        "findings": [
            {
                "evaluation": said.evaluation,
                "variant": said.variant,
                "metrics": [metric.to_json() for metric in said.finding.metrics],
            }
            for said in report.findings
        ],
        "other_scores": [
            {"score": one.name, "metrics": [metric.to_json() for metric in one.scores.metrics]}
            for one in report.others
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


def _record(record: Record) -> dict[str, Any]:
    return {
        "sample_id": record.sample_id,
        "key": record.key,
        "label": record.label,
        "class": record.class_name,
        "group": record.group,
        "singled_out": record.found,
        "scores": {name: {"score": score, "rank": rank} for name, score, rank in record.scores},
        "loss_trace": record.trace.tolist() if record.trace is not None else None,
        "gradient_norm_trace": record.grad_norms.tolist() if record.grad_norms is not None else None,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
