"""Every evaluation of several scores together, and running one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...store.errors import InvalidOption, NotEnoughData
from ..charts.agreement import agreement_matrix, correlation_matrix, precision_curve
from ..charts.bounds import epsilon_bounds, usage_shares
from ..charts.experiments import attacks_with_and_without, onion_chart
from ..charts.groups import auc_by_group
from ..charts.models import auc_of_each, likeness_of_models, shadow_curve_chart
from ..charts.traces import ablation_map, evolution_chart
from ..declare import Evaluation, parse_options, variant_of
from ..scores import Finding
from ..scoring.catalogue import ANALYSES
from ..scoring.run import keep, run_analysis
from ..scoring.spark_source import check_evaluation_on_spark
from ..source import Source
from ..statistics.metric import Metric
from .agreement import agreement, spearman
from .by_group import by_group
from .compare import compare
from .defences import defences
from .dp_audit import dp_audit
from .duci import duci
from .evolution import evolution
from .likeness import likeness
from .onion import onion
from .per_model import per_model
from .quantile_ablation import quantile_ablation
from .shadow_curve import shadow_curve

EVALUATIONS: tuple[Evaluation, ...] = (
    Evaluation("spearman", spearman, ("spearman",), correlation_matrix),
    Evaluation("compare", compare, (), precision_curve),
    Evaluation("by-group", by_group, ("memorization",), auc_by_group, default_scores=("lira",)),
    Evaluation("agreement", agreement, (), agreement_matrix),
    Evaluation(
        "likeness",
        likeness,
        ("out_of_sample_loss", "phi_of_some"),
        likeness_of_models,
        default_scores=("lira",),
    ),
    Evaluation("per-model", per_model, (), auc_of_each, default_scores=("lira",)),
    Evaluation("shadow-curve", shadow_curve, ("memorization",), shadow_curve_chart, default_scores=("lira",)),
    Evaluation("onion", onion, ("memorization",), onion_chart, default_scores=("memorization",)),
    Evaluation("evolution", evolution, (), evolution_chart, default_scores=("lt-iqr",)),
    Evaluation("quantile-ablation", quantile_ablation, (), ablation_map, default_scores=("lt-iqr",)),
    Evaluation("defences", defences, ("lira",), attacks_with_and_without, default_scores=("lira",)),
    Evaluation("dp-audit", dp_audit, (), epsilon_bounds, default_scores=("lira",)),
    Evaluation("duci", duci, ("lira",), usage_shares, default_scores=("lira",)),
)


def find_evaluation(name: str) -> Evaluation:
    """The evaluation of that name. Raises InvalidOption with the names there are."""
    for evaluation in EVALUATIONS:
        if evaluation.name == name:
            return evaluation
    names = ", ".join(evaluation.name for evaluation in EVALUATIONS)
    raise InvalidOption(f"there is no evaluation {name!r} (evaluations: {names})")


def evaluation_variant(evaluation: Evaluation, scores: tuple[str, ...], chosen: Mapping[str, Any]) -> str:
    """What a kept evaluation goes by: its scores, and the options that differ from their defaults."""
    return ";".join(filter(None, [",".join(scores), variant_of(evaluation.options, chosen)]))


def run_evaluation(
    source: Source, evaluation: Evaluation, scores: tuple[str, ...], options: Mapping[str, Any] | None = None
) -> Finding:
    """Evaluate scores together, its default ones where none is named, and keep the metrics in the lake as `run_analysis` does."""
    if source.engine == "spark":
        check_evaluation_on_spark(evaluation.name)
    scores = scores or evaluation.default_scores
    chosen = parse_options(evaluation.options, options or {}, evaluation.name)
    finding = evaluation.compute(source, scores, **chosen)
    variant = evaluation_variant(evaluation, scores, chosen)
    told = {**chosen, "scores": list(scores)}
    notes = keep(source, evaluation.name, variant, told, finding.notes, finding.metrics, None)
    return replace(finding, notes=notes)


TRUTH = "lira"
"""The attack whose findings the other scores are compared with."""


@dataclass(frozen=True)
class Told:
    """What one analysis or evaluation said; ``missing`` says why it could not say anything."""

    title: str
    metrics: tuple[Metric, ...] = ()
    notes: tuple[str, ...] = ()
    missing: str = ""


def run_all(source: Source, fprs: tuple[float, ...]) -> Iterator[Told]:
    """Run every analysis with its default options, compare the scores, then every evaluation of its default scores.

    What is computed is kept in the lake. Raises NotEnoughData where nothing could be analysed.
    """
    scored = []
    for analysis in ANALYSES:
        try:
            outcome = run_analysis(source, analysis, fprs=fprs)
        except NotEnoughData as error:
            yield Told(analysis.name, missing=str(error))
            continue
        scored.append(analysis.name)
        yield Told(outcome.label, outcome.metrics, outcome.notes)
    if not scored:
        raise NotEnoughData(f"nothing in experiment {source.experiment!r} can be analysed yet")
    others = tuple(name for name in scored if name != TRUTH)
    if TRUTH in scored and others:
        yield _evaluated(source, "compare", others)
    for evaluation in EVALUATIONS:
        if evaluation.default_scores:
            yield _evaluated(source, evaluation.name, ())


def _evaluated(source: Source, name: str, scores: tuple[str, ...]) -> Told:
    try:
        finding = run_evaluation(source, find_evaluation(name), scores)
    except NotEnoughData as error:
        return Told(name, missing=str(error))
    return Told(name, finding.metrics, finding.notes)
