"""Scores by name: the kept ones where they are fresh, else computed and kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import dropwhile

import polars as pl

from ...store.format.paths import NO_TARGET
from ...store.format.records import Result
from ...store.read.catalogue import fingerprint, read_result, result_of, results
from ..declare import variant_of
from ..scores import Scores
from ..source import Source
from ..statistics.metric import Metric
from .run import run_analysis

SCORE = ("sample_id", "member", "score")
"""The columns that every score has, all that most evaluations look at."""


@dataclass(frozen=True)
class Kept:
    """Scores that are in the lake, under this analysis and variant."""

    analysis: str
    variant: str
    scores: Scores


def fresh_results(source: Source) -> Mapping[tuple[str, str], Result]:
    """What the lake keeps of the source's target and is up to date, by analysis and variant.

    A result is fresh while the samples and runs of the source are the ones it was computed from.
    """
    where = source.target_name or NO_TARGET
    now = fingerprint(source.lake, source.experiment, source.runs, source.forgotten)
    return {
        (result.analysis, result.variant): result
        for result in results(source.lake, source.experiment)
        if result.target == where and result.fingerprint == now
    }


def read_scores(source: Source, result: Result, columns: Sequence[str] | None = None) -> Scores:
    """The scores of a kept result, with the metrics the analysis itself measured. It must have scores.

    Of ``columns``, sample_id among them, those that it has; all where none are given.
    """
    now, rows = read_result(source.lake, result, columns)
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    # The common evaluation comes first; it is made anew, at the rates that are asked for then.
    own = dropwhile(lambda told: told["metric"] in ("auc", "tpr_at_fpr"), now.metrics)
    return Scores(
        frame.drop("variant", strict=False).sort("sample_id"),
        now.notes,
        tuple(Metric.from_json(told) for told in own),
    )


def keep_scores(
    source: Source, names: Iterable[str], columns: Sequence[str] | None = None
) -> dict[str, Kept]:
    """The scores of each name, computed and kept unless the lake holds fresh ones.

    Of ``columns``, sample_id among them, those that a score has: a score's own columns are many times as much. All where none are given.
    """
    asked = {name: source.analysis(name) for name in names}
    where = source.target_name or NO_TARGET
    now = fingerprint(source.lake, source.experiment, source.runs, source.forgotten)
    kept = {}
    for name, (analysis, options) in asked.items():
        variant = variant_of(analysis.options, options)
        found = result_of(source.lake, source.experiment, analysis.name, where, variant)
        if found is not None and found.file is not None and found.fingerprint == now:
            scores = read_scores(source, found, columns)
        else:
            scores = run_analysis(source, analysis, options).scores
            if columns is not None:
                shown = [name for name in columns if name in scores.frame.columns]
                scores = replace(scores, frame=scores.frame.select(shown))
        kept[name] = Kept(analysis.name, variant, scores)
    return kept
