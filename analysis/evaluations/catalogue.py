"""Every evaluation of several scores together, and running one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...store.errors import InvalidOption, NotEnoughData
from ..declare import Evaluation, parse_options, variant_of
from ..scores import Finding
from ..scoring.catalogue import ANALYSES
from ..scoring.on_spark import check_evaluation_on_spark
from ..scoring.run import keep, run_analysis
from ..source import Source
from ..statistics.metric import Metric

EVALUATIONS: tuple[Evaluation, ...] = (
    Evaluation(
        "spearman", "evaluations.agreement:spearman", ("spearman",), "charts.agreement:correlation_matrix"
    ),
    Evaluation("compare", "evaluations.compare:compare", (), "charts.agreement:precision_curve"),
    Evaluation(
        "by-group",
        "evaluations.by_group:by_group",
        ("memorization",),
        "charts.groups:auc_by_group",
        default_scores=("lira",),
    ),
    Evaluation("agreement", "evaluations.agreement:agreement", (), "charts.agreement:agreement_matrix"),
    Evaluation(
        "likeness",
        "evaluations.likeness:likeness",
        ("some_answers",),
        "charts.models:likeness_of_models",
        default_scores=("lira",),
    ),
    Evaluation(
        "per-model",
        "evaluations.per_model:per_model",
        (),
        "charts.models:auc_of_each",
        default_scores=("lira",),
    ),
    Evaluation(
        "shadow-curve",
        "evaluations.shadow_curve:shadow_curve",
        ("memorization",),
        "charts.models:shadow_curve_chart",
        default_scores=("lira",),
    ),
    Evaluation(
        "onion",
        "evaluations.onion:onion",
        ("memorization",),
        "charts.experiments:onion_chart",
        default_scores=("memorization",),
    ),
    Evaluation(
        "evolution",
        "evaluations.evolution:evolution",
        (),
        "charts.traces:evolution_chart",
        default_scores=("lt-iqr",),
    ),
    Evaluation(
        "quantile-ablation",
        "evaluations.quantile_ablation:quantile_ablation",
        (),
        "charts.traces:ablation_map",
        default_scores=("lt-iqr",),
    ),
    Evaluation(
        "defences",
        "evaluations.defences:defences",
        ("lira",),
        "charts.experiments:attacks_with_and_without",
        default_scores=("lira",),
    ),
    Evaluation(
        "dp-audit",
        "evaluations.dp_audit:dp_audit",
        (),
        "charts.bounds:epsilon_bounds",
        default_scores=("lira",),
    ),
    Evaluation(
        "tail",
        "evaluations.tail:tail",
        (),
        "charts.bounds:tail_estimates",
        default_scores=("loss",),
    ),
    Evaluation(
        "duci", "evaluations.duci:duci", ("lira",), "charts.bounds:usage_shares", default_scores=("lira",)
    ),
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
    title = f"{evaluation.name} of {', '.join(scores)}"
    return replace(finding, notes=notes, title=title, drawn=evaluation.chart)


COMPARED_FROM = 0.75
"""The share of the records with a score of `TRUTH` that another score must have to be compared with it by `run_all`."""

TRUTH = "lira"
"""The attack whose findings the other scores are compared with."""


@dataclass(frozen=True)
class Part:
    """One analysis, or one evaluation of ``scores`` (its default ones where none is named), as a part of all."""

    name: str
    scores: tuple[str, ...] = ()


@dataclass(frozen=True)
class Told:
    """What one analysis or evaluation said; ``missing`` says why it could not say anything.

    ``records`` is how many of them an analysis has a score of.
    """

    title: str
    metrics: tuple[Metric, ...] = ()
    notes: tuple[str, ...] = ()
    missing: str = ""
    records: int = 0


def run_all(source: Source, fprs: tuple[float, ...]) -> Generator[Told]:
    """Run every analysis with its default options, compare the scores, then every evaluation of its default scores.

    What is computed is kept in the lake. Raises NotEnoughData where nothing could be analysed.
    """
    source.keep_more()
    return all_told(lambda part: run_part(source, part, fprs), source.experiment)


def all_told(ask: Callable[[Part], Told], experiment: str) -> Generator[Told]:
    """What the parts of all say, in their order; ``ask`` has one done."""
    scored: dict[str, int] = {}
    for analysis in ANALYSES:
        told = ask(Part(analysis.name))
        if not told.missing:
            scored[analysis.name] = told.records
        yield told
    if not scored:
        raise NotEnoughData(f"nothing in experiment {experiment!r} can be analysed yet")
    # Compared are the records that all of them score: those that score few would leave few.
    enough = COMPARED_FROM * scored.get(TRUTH, 0)
    others = tuple(name for name, records in scored.items() if name != TRUTH and records >= enough)
    if TRUTH in scored and others:
        told = ask(Part("compare", others))
        few = [name for name, records in scored.items() if records < enough]
        left = (f"without {', '.join(few)}, which score too few of the records",) if few else ()
        yield replace(told, notes=(*told.notes, *left))
    for evaluation in EVALUATIONS:
        if evaluation.default_scores:
            yield ask(Part(evaluation.name))


def run_part(source: Source, part: Part, fprs: tuple[float, ...]) -> Told:
    """Do one part of all, and keep in the lake what it finds."""
    analysis = next((analysis for analysis in ANALYSES if analysis.name == part.name), None)
    try:
        if analysis is None:
            finding = run_evaluation(source, find_evaluation(part.name), part.scores)
            return Told(part.name, finding.metrics, finding.notes)
        outcome = run_analysis(source, analysis, fprs=fprs)
    except NotEnoughData as error:
        return Told(part.name, missing=str(error))
    records = len(outcome.scores.frame) - outcome.scores.frame["score"].null_count()
    return Told(outcome.label, outcome.metrics, outcome.notes, records=records)
