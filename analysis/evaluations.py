"""Every evaluation of several scores together, and running one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..store.errors import InvalidOption
from ..store.results import fingerprint, save_result
from . import charts
from .compare import compare
from .declare import Evaluation, parse_options, variant_of
from .scores import Finding
from .source import Source
from .spearman import spearman

EVALUATIONS: tuple[Evaluation, ...] = (
    Evaluation("spearman", spearman, ("spearman",), charts.correlation_matrix),
    Evaluation("compare", compare, ("spearman",), charts.precision_curve),
)


def find_evaluation(name: str) -> Evaluation:
    """The evaluation of that name. Raises InvalidOption with the names there are."""
    for evaluation in EVALUATIONS:
        if evaluation.name == name:
            return evaluation
    names = ", ".join(evaluation.name for evaluation in EVALUATIONS)
    raise InvalidOption(f"there is no evaluation {name!r} (evaluations: {names})")


def run_evaluation(
    source: Source, evaluation: Evaluation, scores: tuple[str, ...], options: Mapping[str, Any] | None = None
) -> Finding:
    """Evaluate scores together, its default ones where none is named, and keep the metrics in the lake."""
    scores = scores or evaluation.default_scores
    chosen = parse_options(evaluation.options, options or {}, evaluation.name)
    finding = evaluation.compute(source, scores, **chosen)
    variant = ";".join(filter(None, [",".join(scores), variant_of(evaluation.options, chosen)]))
    save_result(
        source.lake,
        source.experiment,
        evaluation.name,
        source.target.run if source.target else None,
        variant,
        options={**chosen, "scores": list(scores)},
        notes=finding.notes,
        metrics=[metric.to_json() for metric in finding.metrics],
        scores=None,
        seen=fingerprint(source.lake, source.experiment, source.runs),
    )
    return finding
