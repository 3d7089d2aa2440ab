"""Running analyses and keeping what they find: one way from a name and options to scores and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from ...store.errors import InvalidOption, NotEnoughData, OlderFormat
from ...store.format.records import Run
from ...store.read.catalogue import fingerprint
from ...store.write.results import save_result
from ..attacks.masking import masked_source, parse_mask
from ..declare import DUALS, MASK, SHARED, WITHOUT, Analysis, parse_options, variant_of
from ..scores import Scores, as_html, as_text, count_unscored
from ..source import Source
from ..statistics.metric import Metric
from ..statistics.roc import RESOLVED_FROM, evaluate, firm
from .on_spark import check_on_spark

if TYPE_CHECKING:
    import altair as alt

FPRS = (0.001, 0.01, 0.1)
"""False-positive rates that attacks are judged at unless told otherwise."""


@dataclass(frozen=True, repr=False)
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

    def chart(self) -> alt.TopLevelMixin:
        """The chart of the analysis."""
        return self.analysis.chart(self.scores)

    def __repr__(self) -> str:
        return as_text(self._title, self.metrics, self.notes)

    def _repr_html_(self) -> str:
        return as_html(self._title, self.metrics, self.notes, self.chart)

    @property
    def _title(self) -> str:
        return f"{self.label}: scores of {len(self.scores.frame)} samples"


def run_analysis(
    source: Source,
    analysis: Analysis,
    options: Mapping[str, Any] | None = None,
    *,
    fprs: Sequence[float] = FPRS,
) -> Outcome:
    """Compute an analysis, evaluate its scores against the target's membership, and keep both in the lake.

    A lake of an older format keeps neither; a note says so.
    """
    chosen = parse_options(analysis.options, options or {}, analysis.name)
    fprs = _rates(fprs)
    mask = chosen.get(MASK.keyword)
    if source.engine == "spark":
        check_on_spark(analysis.name)
        if mask is not None:
            raise InvalidOption(
                "a mask reads logits into memory, which Spark is there to avoid; leave --mask out"
            )
    if chosen.get(WITHOUT.keyword):
        with source.without(chosen[WITHOUT.keyword]) as fewer:
            scores = _behind_mask(fewer, analysis, chosen)
    else:
        scores = _behind_mask(source, analysis, chosen)
    variant = variant_of(analysis.options, chosen)
    score, member = scores.arrays()
    metrics = (*evaluate(score, member, fprs), *scores.metrics)
    notes = keep(source, analysis.name, variant, chosen, scores.notes, metrics, scores.frame.to_arrow())
    return Outcome(analysis, variant, replace(scores, notes=notes), metrics)


def keep(
    source: Source,
    name: str,
    variant: str,
    options: Mapping[str, Any],
    notes: Sequence[str],
    metrics: Sequence[Metric],
    scores: pa.Table | None,
) -> tuple[str, ...]:
    """Keep a result of the source's target, with what it was computed from, in place of an older one.

    Gives the notes back, with one more where the lake's format is an older one, which takes no results. Raises
    ForgottenMeanwhile where a sample was forgotten since the source was opened.
    """
    try:
        save_result(
            source.lake,
            source.experiment,
            name,
            source.target_name or None,
            variant,
            options=options,
            notes=notes,
            metrics=[metric.to_json() for metric in metrics],
            scores=scores,
            seen=fingerprint(source.lake, source.experiment, source.runs, source.forgotten),
            forgotten=source.forgotten,
        )
    except OlderFormat as error:
        return (*notes, f"not kept: {error}")
    return tuple(notes)


def _rates(fprs: Sequence[float]) -> tuple[float, ...]:
    try:
        rates = tuple(float(fpr) for fpr in fprs)
    except (TypeError, ValueError) as error:
        raise InvalidOption(
            f"false-positive rates are numbers, such as (0.001, 0.01), not {fprs!r}"
        ) from error
    for rate in rates:
        if not 0 < rate < 1:
            raise InvalidOption(f"a false-positive rate lies between 0 and 1, not {rate}")
    return rates


def _unresolved(metrics: tuple[Metric, ...]) -> tuple[str, ...]:
    """What to know of rates that the non-members do not resolve, or hardly."""
    rates = [metric for metric in metrics if metric.metric == "tpr_at_fpr"]
    coarse = [metric for metric in rates if not metric.parameters["resolved"]]
    told = []
    if coarse:
        told.append(
            f"{_non_members(coarse)} cannot resolve an FPR of {_fprs(coarse)}: only the interval of its TPR is given"
        )
    weak = [
        metric
        for metric in rates
        if metric.parameters["resolved"]
        and not firm(metric.parameters["fpr"], metric.parameters["non_members"])
    ]
    if weak:
        told.append(
            f"{_non_members(weak)} hardly resolve an FPR of {_fprs(weak)}: fewer than {RESOLVED_FROM} are expected above the "
            "threshold; go by the interval of its TPR, not by the value"
        )
    return tuple(told)


def _non_members(rates: list[Metric]) -> str:
    return f"{rates[0].parameters['non_members']} non-members"


def _fprs(rates: list[Metric]) -> str:
    return ", ".join(f"{metric.parameters['fpr']:g}" for metric in rates)


def _behind_mask(source: Source, analysis: Analysis, chosen: Mapping[str, Any]) -> Scores:
    if chosen.get(MASK.keyword) is None:
        return _compute(source, analysis, chosen)
    with masked_source(source, parse_mask(chosen[MASK.keyword])) as (hidden, notes):
        found = _compute(hidden, analysis, chosen)
    return replace(found, notes=(*notes, *found.notes))


def _compute(source: Source, analysis: Analysis, chosen: Mapping[str, Any]) -> Scores:
    shared = [option.keyword for option in SHARED]
    own = {keyword: value for keyword, value in chosen.items() if keyword not in shared}
    if chosen.get(DUALS.keyword):
        return _mean_over_duals(source, analysis.compute, own)
    return _told(source, analysis.compute, own)


def _told(source: Source, compute: Callable[..., Scores], options: Mapping[str, Any]) -> Scores:
    """The scores, with notes on what was left out of the runs that the target was compared with."""
    source.ask_anew()
    found: Scores = compute(source, **options)
    return replace(found, notes=(*found.notes, *source.told()))


def _mean_over_duals(source: Source, compute: Callable[..., Scores], options: Mapping[str, Any]) -> Scores:
    """The mean of a score over the target and its duals, each attacked alone; column sd is their spread (divided by n - 1).

    A sample that one of them has no score for has none. Averaging takes out what the seed decided, and leaves what the
    data did (Pollock et al., "Free Record-Level Privacy Risk Evaluation Through Artifact-Based Methods").
    Raises NotEnoughData where there are no duals, or two of them have different members.
    """
    target, duals = source.need_target(), _duals_of(source)
    found: dict[str, Scores] = {}
    for run in duals:
        with source.beside(run.run) as aimed:
            found[run.run] = _told(aimed, compute, options)
    frame = found[target.run].frame.select("sample_id", "member")
    rows = []
    for scores in found.values():
        own = scores.frame.select(
            "sample_id", pl.col("member").alias("own"), pl.col("score").cast(pl.Float64)
        )
        rows.append(frame.join(own, on="sample_id", how="left", maintain_order="left"))
    if any((one["own"] != one["member"]).any() for one in rows):
        raise NotEnoughData(
            f"the duals of run {target.run!r} of experiment {source.experiment!r} have different members, so a mean over "
            "them says nothing; attack each alone with --target"
        )
    score = np.stack([one["score"].fill_null(np.nan).to_numpy() for one in rows])
    frame = frame.with_columns(
        pl.Series("score", score.mean(axis=0)).fill_nan(None),
        pl.Series("sd", score.std(axis=0, ddof=1)).fill_nan(None),
    )
    notes = dict.fromkeys(note for scores in found.values() for note in scores.notes)
    unscored = count_unscored(frame, "one of the runs has none for them")
    return Scores(frame, (*notes, *unscored, f"mean over {len(found)} runs: {', '.join(found)}"))


def _duals_of(source: Source) -> tuple[Run, ...]:
    """The runs that share the target's members by design: the first of them, then its duals.

    Raises NotEnoughData where the target has none.
    """
    target = source.need_target()
    first = target.info.parent or target.run
    found = [
        run
        for run in source.runs
        if run.info.role == "target" and (run.run == first or run.info.parent == first)
    ]
    if len(found) < 2:
        raise NotEnoughData(
            f"run {target.run!r} of experiment {source.experiment!r} has no duals to average over; train some with "
            "'losslake collect target --duals K'"
        )
    return tuple(sorted(found, key=lambda run: run.run != first))
