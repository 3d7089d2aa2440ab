"""How a model's risk grew over its training, from the losses of its own records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import numpy.typing as npt

from ...store.errors import InvalidOption, NotEnoughData
from ..scores import Finding
from ..source import Source
from ..statistics.intervals import CONFIDENCE
from ..statistics.metric import Metric
from ..statistics.special import bdtr, bdtrik, ndtri
from .compare import FoundBy, check_fprs, check_k, found_by
from .quantile_ablation import RangeScore, Traces, parse_range, read_traces, trace_quantiles

STEPS = 10
Floats = npt.NDArray[np.float64]


def evolution(
    source: Source,
    scores: tuple[str, ...],
    *,
    epochs: Annotated[tuple[int, ...], "epochs to stop at; default: ten even steps to the last"] = (),
    quantiles: Annotated[tuple[float, ...], "quantiles over records"] = (0.5, 0.9, 0.99),
    against: Annotated[
        str, "the attack on the finished model that each prefix is held against, where it can be computed"
    ] = "lira",
    fpr: Annotated[float, "false-positive rate at which that attack finds records"] = 0.001,
    k: Annotated[float, "share of the members to look for them in"] = 0.01,
) -> Finding:
    """LT-IQR over growing prefixes of the training, for members and non-members, and how soon it finds records.

    For each epoch: mean and quantiles over records of the LT-IQR of the losses up to it (risk of the model as a whole;
    needs no shadow runs), and, where the attack under --against can be computed, precision_at_k among the members and
    Spearman's correlation with that attack, which is on the finished model at every epoch. The interval of the mean is
    the normal one, that of a quantile lies between order statistics (exact, of independent records), that of a precision
    is as in compare.

    The metrics: mean, quantile, precision_at_k and spearman, each at an epoch.

    Needs: the target's loss after each epoch; what the attack under --against needs, or it is left out.

    Source: Pollock et al., "Free Record-Level Privacy Risk Evaluation Through Artifact-Based Methods".
    """
    for level in quantiles:
        if not 0 <= level <= 1:
            raise InvalidOption(f"a quantile lies between 0 and 1, not {level}")
    check_fprs(fpr)
    check_k(k)
    named = [parse_range(source, name, ("last",)) for name in dict.fromkeys(scores)]
    traces = [(score, read_traces(source, score)) for score in named]
    notes: list[str] = []
    truth: FoundBy | None = None
    try:
        truth = found_by(source, against, fpr)
        notes += truth.notes
    except NotEnoughData as error:
        notes.append(f"no prefix is held against {against}: {error}")
    metrics: list[Metric] = []
    for score, rows in traces:
        for last in _stops(rows, epochs):
            metrics += _at(score, rows, last, quantiles, truth, k)
    return Finding(tuple(metrics), tuple(notes))


def _stops(rows: Traces, epochs: tuple[int, ...]) -> list[int]:
    for epoch in epochs:
        if not rows.first < epoch <= rows.last:
            raise InvalidOption(f"epoch {epoch} is no end of a prefix: take {rows.first + 1} to {rows.last}")
    if epochs:
        return sorted(set(epochs))
    steps = np.linspace(rows.first, rows.last, STEPS + 1)[1:]
    return sorted({max(round(float(step)), min(rows.first + 1, rows.last)) for step in steps})


def _at(
    score: RangeScore,
    rows: Traces,
    last: int,
    levels: tuple[float, ...],
    truth: FoundBy | None,
    k: float,
) -> Iterator[Metric]:
    ends = trace_quantiles(rows, (score.low, score.high), last - rows.first + 1)
    value = ends[:, 1] - ends[:, 0]
    known = ~np.isnan(value)
    about: dict[str, object] = {"score": score.name, "epoch": last}
    for among, side in (("members", rows.member), ("non-members", ~rows.member)):
        part = np.sort(value[side & known])
        if len(part):
            yield _mean(part, {**about, "among": among})
            for level in levels:
                yield _quantile(part, level, {**about, "among": among, "quantile": level})
    if truth is not None:
        chosen = rows.member & known
        yield from truth.among(rows.sample_id[chosen]).judge(value[chosen], k, about)


def _mean(part: Floats, about: dict[str, object]) -> Metric:
    centre = float(part.mean())
    if len(part) < 2:
        return Metric("mean", centre, n=len(part), parameters=about)
    reach = float(ndtri(0.5 + CONFIDENCE / 2) * part.std(ddof=1) / np.sqrt(len(part)))
    return Metric("mean", centre, centre - reach, centre + reach, len(part), about)


def _quantile(part: Floats, level: float, about: dict[str, object]) -> Metric:
    """A quantile of sorted values, and the order statistics that cover the true one; no bound where none does."""
    n = len(part)
    tail = (1 - CONFIDENCE) / 2
    low, high = None, None
    if 0 < level < 1:
        # So many values lie below the true quantile as a binomial count says.
        if bdtr(0, n, level) <= tail:
            low = float(part[int(np.floor(bdtrik(tail, n, level)))])
        above = int(np.ceil(bdtrik(1 - tail, n, level)))
        high = float(part[above]) if above < n else None
    return Metric("quantile", float(np.quantile(part, level)), low, high, n, about)
