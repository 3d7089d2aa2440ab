"""Running analyses and keeping what they find: one way from a name and options to scores and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...store.errors import InvalidOption
from ..attacks.masking import masked_source, parse_mask
from ..declare import DUALS, MASK, SHARED, Analysis, parse_options, variant_of
from ..scores import Scores
from ..source import Source
from ..statistics.metric import Metric
from ..statistics.roc import evaluate
from .duals import mean_over_duals
from .keep import keep
from .spark_source import check_on_spark

FPRS = (0.001, 0.01, 0.1)
"""False-positive rates that attacks are judged at unless told otherwise."""


@dataclass(frozen=True)
class Outcome:
    """An analysis's scores with every metric of them.

    ``label`` is name and variant as a person writes them; ``notes`` are sentences a reader must know.
    """

    analysis: Analysis
    variant: str
    scores: Scores
    metrics: tuple[Metric, ...]

    @property
    def label(self) -> str:
        return f"{self.analysis.name}[{self.variant}]" if self.variant else self.analysis.name

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self.scores.notes, *_unresolved(self.metrics))


def run_analysis(
    source: Source,
    analysis: Analysis,
    options: Mapping[str, Any] | None = None,
    *,
    fprs: tuple[float, ...] = FPRS,
) -> Outcome:
    """Compute an analysis, evaluate its scores against the target's membership, and keep both in the lake.

    A lake of an older format keeps neither; a note says so.
    """
    chosen = parse_options(analysis.options, options or {}, analysis.name)
    for fpr in fprs:
        if not 0 < fpr < 1:
            raise InvalidOption(f"a false-positive rate lies between 0 and 1, not {fpr}")
    mask = chosen.get(MASK.keyword)
    if source.engine == "spark":
        check_on_spark(analysis.name)
        if mask is not None:
            raise InvalidOption(
                "a mask reads logits into memory, which Spark is there to avoid; leave --mask out"
            )
    if mask is None:
        scores = _compute(source, analysis, chosen)
    else:
        with masked_source(source, parse_mask(mask)) as (hidden, notes):
            found = _compute(hidden, analysis, chosen)
        scores = replace(found, notes=(*notes, *found.notes))
    variant = variant_of(analysis.options, chosen)
    score, member = scores.arrays()
    metrics = (*evaluate(score, member, fprs), *scores.metrics)
    notes = keep(source, analysis.name, variant, chosen, scores.notes, metrics, scores.frame.to_arrow())
    return Outcome(analysis, variant, replace(scores, notes=notes), metrics)


def _compute(source: Source, analysis: Analysis, chosen: Mapping[str, Any]) -> Scores:
    shared = [option.keyword for option in SHARED]
    own = {keyword: value for keyword, value in chosen.items() if keyword not in shared}
    if chosen.get(DUALS.keyword):
        return mean_over_duals(source, analysis.compute, own)
    found: Scores = analysis.compute(source, **own)
    return found


def _unresolved(metrics: tuple[Metric, ...]) -> tuple[str, ...]:
    coarse = [metric for metric in metrics if metric.parameters.get("resolved") is False]
    if not coarse:
        return ()
    lowest = ", ".join(f"{metric.parameters['fpr']:g}" for metric in coarse)
    seen = coarse[0].parameters["non_members"]
    return (f"{seen} non-members cannot resolve an FPR of {lowest}: only the interval of its TPR is given",)
