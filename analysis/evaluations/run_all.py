"""Every analysis and evaluation that an experiment has the data for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...store.errors import NotEnoughData
from ..scoring.catalogue import ANALYSES
from ..scoring.run import run_analysis
from ..source import Source
from ..statistics.metric import Metric
from .catalogue import EVALUATIONS, find_evaluation, run_evaluation

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
