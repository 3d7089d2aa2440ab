"""Quantile ranges of traces, from one read of them; whether the quartiles of LT-IQR are a lucky choice among these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidOption, NotEnoughData
from ..declare import SHARED
from ..measures.trace import Recorded, recorded_source
from ..scores import Finding, in_order
from ..source import Source
from ..statistics.metric import Metric
from .compare import check_k, found_by

LOW = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
HIGH = (0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)

_BLOCK = 8_192
"""Traces sorted at a time."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def quantile_ablation(
    source: Source,
    scores: tuple[str, ...],
    *,
    low: Annotated[tuple[float, ...], "lower quantiles"] = LOW,
    high: Annotated[tuple[float, ...], "upper quantiles"] = HIGH,
    against: Annotated[str, "the attack whose findings are the truth"] = "lira",
    fpr: Annotated[float, "false-positive rate at which it finds them"] = 0.001,
    k: Annotated[float, "share of the members to look for them in"] = 0.01,
) -> Finding:
    """Precision at k and Spearman against an attack, for every pair of a lower and an upper quantile of the traces.

    Each pair is judged as in compare: precision_at_k of the members with the widest range, and the rank correlation with
    the attack among members. It shows how much the choice matters; the best cell of a grid is no estimate of what that
    pair would reach on another model, and nothing here is taken over by lt-iqr, whose quantiles stay 0.25 and 0.75.

    The metrics: precision_at_k and spearman of each pair low, high.

    Needs: the target's loss after each epoch; what the attack under --against needs.

    Source: Pollock et al., "Free Record-Level Privacy Risk Evaluation Through Artifact-Based Methods".
    """
    for level in (*low, *high):
        if not 0 <= level <= 1:
            raise InvalidOption(f"a quantile lies between 0 and 1, not {level}")
    pairs = [(lower, upper) for lower, upper in product(sorted(set(low)), sorted(set(high))) if lower < upper]
    if not pairs:
        raise InvalidOption("no lower quantile lies below an upper one")
    check_k(k)
    named = [parse_range(source, name, ("low", "high")) for name in dict.fromkeys(scores)]
    traces = [(score, read_traces(source, score)) for score in named]
    truth = found_by(source, against, fpr)
    notes = list(truth.notes)
    levels = sorted({level for pair in pairs for level in pair})
    place = {level: column for column, level in enumerate(levels)}
    metrics: list[Metric] = []
    for score, rows in traces:
        found = trace_quantiles(rows, levels)
        inside = rows.member & ~np.isnan(found[:, 0])
        ids, found = rows.sample_id[inside], found[inside]
        of_members = truth.among(ids)
        of_score: list[Metric] = []
        for lower, upper in pairs:
            about = {"score": score.name, "low": lower, "high": upper}
            of_score += of_members.judge(found[:, place[upper]] - found[:, place[lower]], k, about)
        notes += _spread(score.name, of_score)
        metrics += of_score
    return Finding(tuple(metrics), tuple(notes))


def _spread(name: str, metrics: list[Metric]) -> list[str]:
    """A sentence on how much precision differs over the grid."""
    values = {
        (m.parameters["low"], m.parameters["high"]): m.value
        for m in metrics
        if m.metric == "precision_at_k" and m.value is not None
    }
    if not values:
        return []
    told = f"{name}: precision lies from {min(values.values()):.3f} to {max(values.values()):.3f} over {len(values)} ranges"
    usual = values.get((0.25, 0.75))
    return [told if usual is None else f"{told}; it is {usual:.3f} for 0.25 to 0.75"]


@dataclass(frozen=True)
class RangeScore:
    """A score that is a quantile range of a trace: lt-iqr, or trace with its aggregate iqr."""

    name: str
    signal: str = "loss"
    source: Recorded = "auto"
    first: int = 0
    last: int | None = None
    low: float = 0.25
    high: float = 0.75


@dataclass(frozen=True, eq=False)
class Traces:
    """Traces of the target's audit samples: ``values`` float32 (samples, epochs) and which of them are ``recorded``.

    ``sample_id`` and ``member`` (samples,); the first column is epoch ``first``.
    """

    sample_id: npt.NDArray[np.int64]
    member: Flags
    values: npt.NDArray[np.float32]
    recorded: Flags
    first: int

    @property
    def last(self) -> int:
        """The last epoch there is."""
        return self.first + self.values.shape[1] - 1


def parse_range(source: Source, name: str, varied: Sequence[str]) -> RangeScore:
    """Read the name of a quantile range. ``varied`` are the options that the evaluation itself varies.

    Raises InvalidOption for another score, and where an option that is varied is given.
    """
    analysis, options = source.analysis(name)
    if analysis.name not in ("lt-iqr", "trace") or options.pop("aggregate", "iqr") != "iqr":
        raise InvalidOption(f"{name} is no quantile range of a trace; take lt-iqr or trace[signal=...]")
    shared = next((option.name for option in SHARED if option.keyword in options), None)
    if shared is not None:
        raise InvalidOption(f"the traces of one run are looked at as they are; leave {shared} out of {name}")
    given = next((option for option in varied if option in options), None)
    if given is not None:
        raise InvalidOption(f"{given} is what is varied here; leave it out of {name}")
    if "source_" in options:
        options["source"] = options.pop("source_")
    return RangeScore(name, **options)


def read_traces(source: Source, score: RangeScore) -> Traces:
    """The traces a score is made of: samples x epochs in memory. Raises NotEnoughData where there are none."""
    target = source.need_target_table("traces")
    recorded = recorded_source(target) if score.source == "auto" else score.source
    rows = source.rows(target, "traces", ["sample_id", "source", "member", score.signal])
    rows = rows.filter(
        (pl.col("source") == recorded) & pl.col(score.signal).is_not_null(),
        pl.Series(source.audited()[rows["sample_id"].to_numpy()]),
    )
    rows = in_order(rows.drop("source"))
    lists = rows.drop_in_place(score.signal)
    lengths = lists.list.len().to_numpy().astype(np.int64)
    width = int(lengths.max(initial=0))
    values = np.full((len(rows), width), np.nan, dtype=np.float32)
    present = np.zeros((len(rows), width), dtype=bool)
    if width:
        points = lists.filter(pl.Series(lengths > 0)).explode()
        inside = np.arange(width) < lengths[:, None]
        values[inside] = points.fill_null(np.nan).to_numpy()
        present[inside] = points.is_not_null().to_numpy()
    span = slice(score.first, None if score.last is None else score.last + 1)
    values, present = values[:, span], present[:, span]
    if not present.any():
        raise NotEnoughData(
            f"run {target.run!r} has no {recorded} trace of {score.signal} from epoch {score.first} on"
        )
    member = rows["member"].to_numpy()
    return Traces(rows["sample_id"].to_numpy().astype(np.int64), member, values, present, score.first)


def trace_quantiles(traces: Traces, levels: Sequence[float], epochs: int | None = None) -> Floats:
    """Quantiles of each trace's first ``epochs`` columns (None: all): (samples, levels), linear interpolation.

    Epochs not recorded are left out; NaN for a trace with a value that is not finite, or without any.
    """
    values, recorded = traces.values[:, :epochs], traces.recorded[:, :epochs]
    found = np.full((len(values), len(levels)), np.nan)
    for start in range(0, len(values), _BLOCK):
        part = slice(start, start + _BLOCK)
        there = recorded[part]
        # What was not recorded sorts behind all that was.
        ranked = np.where(there, values[part], np.float32(np.inf))
        usable = (np.isfinite(ranked) | ~there).all(axis=1) & there.any(axis=1)
        ranked.sort(axis=1)
        rows = np.flatnonzero(usable)
        last = there.sum(axis=1)[rows] - 1
        for column, level in enumerate(levels):
            place = level * last
            below = np.floor(place).astype(np.int64)
            lower = ranked[rows, below].astype(np.float64)
            upper = ranked[rows, np.minimum(below + 1, last)].astype(np.float64)
            found[start + rows, column] = lower + (upper - lower) * (place - below)
    return found
