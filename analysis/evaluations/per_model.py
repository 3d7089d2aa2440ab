"""How well an attack does on each model in turn, and how much that differs between models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np

from ..attacks.each_run import attack_each
from ..scores import Finding
from ..scoring.run import FPRS
from ..source import Source
from ..statistics.intervals import CONFIDENCE
from ..statistics.metric import Metric
from ..statistics.roc import evaluate
from ..statistics.special import stdtrit
from .compare import check_fprs


def per_model(
    source: Source,
    scores: tuple[str, ...],
    *,
    fpr: Annotated[tuple[float, ...], "false-positive rates of the TPR"] = FPRS,
    targets: Annotated[
        int | None, "how many runs to attack in turn; default: all for lira, 16 for other attacks"
    ] = None,
) -> Finding:
    """AUC and TPR at low FPR with each run in turn as the target, and their mean and spread over runs.

    Every target and every shadow run is attacked, the other shadow runs being its shadow models. auc and tpr_at_fpr of
    each run have intervals over its records. mean_over_runs has Student's t interval over runs, as if these were
    independent: they share shadow models, so it is narrower than it should be; sd, min and max are over runs.

    Needs: what the attacks need, in shadow runs enough to take each in the target's place.
    """
    check_fprs(*fpr)
    means: list[Metric] = []
    singles: list[Metric] = []
    notes: list[str] = []
    for name in dict.fromkeys(scores):
        analysis, options = source.analysis(name)
        each = attack_each(source, analysis, options, targets)
        notes += [f"{name}: {note}" for note in each.notes]
        of_score: list[Metric] = []
        for run, score, member in zip(each.runs, each.score, each.member, strict=True):
            about = {"score": name, "run": run.run, "role": run.info.role}
            of_score += [
                replace(m, parameters={**about, **m.parameters}) for m in evaluate(score, member, fpr)
            ]
        if not of_score:
            notes.append(f"{name}: no run has both members and non-members with a score")
        means += _over_runs(name, "auc", {}, of_score)
        for rate in fpr:
            means += _over_runs(name, "tpr_at_fpr", {"fpr": rate}, of_score)
        singles += of_score
    return Finding((*means, *singles), tuple(notes))


def _over_runs(name: str, metric: str, which: dict[str, float], single: Sequence[Metric]) -> list[Metric]:
    """The mean over runs of one metric; none where no run has it, no value where some run's cannot be resolved."""
    matching = [
        m for m in single if m.metric == metric and all(m.parameters[key] == at for key, at in which.items())
    ]
    if not matching:
        return []
    about = {"score": name, "of": metric, **which}
    values = np.array([m.value for m in matching if m.value is not None])
    if len(values) < len(matching):
        return [Metric("mean_over_runs", None, n=len(values), parameters={**about, "resolved": False})]
    spread = float(values.std(ddof=1)) if len(values) > 1 else None
    low, high = _student(values)
    extent = {"sd": spread, "min": float(values.min()), "max": float(values.max())}
    return [Metric("mean_over_runs", float(values.mean()), low, high, len(values), {**about, **extent})]


def _student(values: np.ndarray) -> tuple[float, float]:
    """Student's t interval of a mean of shares, inside 0..1; one value says nothing of the others."""
    n = len(values)
    if n < 2:
        return 0.0, 1.0
    reach = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2) * values.std(ddof=1) / np.sqrt(n))
    return max(0.0, float(values.mean()) - reach), min(1.0, float(values.mean()) + reach)
