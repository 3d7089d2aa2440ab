"""The mean probability of a record's label over the runs with it and over those without it, summed run after run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...store.format.records import Run
from ..source import Source
from .run_answers import answers_of

_BLOCK = 1 << 14
"""Cells looked at together, whose arrays a processor's cache holds."""

_FAINT = 1e-280
"""Means under this are no full doubles any more, or soon: their logs are taken, the greatest probability taken out first."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def mean_log_probability(
    source: Source, runs: Sequence[Run], sample_id: npt.NDArray[np.integer], queries: Sequence[int]
) -> tuple[npt.NDArray[np.int32], Floats]:
    """How many runs of a side (in, out) have a loss, and the log of the mean of exp(-loss): (2, samples, queries) each.

    The log is -infinity where all losses are infinite, or there are none. Losses that are NaN, and what the target is not
    compared with, are left out.
    """
    shape = (len(sample_id), len(queries))
    n, total = np.zeros((2, shape[0] * shape[1]), np.int32), np.zeros((2, shape[0] * shape[1]))
    for answers in answers_of(source, runs, ["loss"], sample_id, queries):
        loss, sides = answers.columns[0].reshape(-1), answers.member_of_each()
        for start in range(0, len(loss), _BLOCK):
            part = slice(start, start + _BLOCK)
            _add(n[:, part], total[:, part], loss[part].astype(np.float64), sides[part])
    with np.errstate(divide="ignore"):
        log_mean = np.log(total / np.maximum(n, 1))
    faint = np.flatnonzero(((total < _FAINT * n) & (n > 0)).any(axis=0))
    if len(faint):
        log_mean[:, faint] = _faint(source, runs, sample_id, queries, faint)
    return n.reshape(2, *shape), log_mean.reshape(2, *shape)


def _add(n: npt.NDArray[np.int32], total: Floats, loss: Floats, inside: Flags) -> None:
    probability = np.exp(-loss)
    outside = ~inside
    seen = ~np.isnan(loss)
    if not seen.all():
        inside, outside = inside & seen, outside & seen
        probability[~seen] = 0.0
    own = probability * inside
    n[0] += inside
    n[1] += outside
    total[0] += own
    total[1] += probability - own  # the other side's alone: one of the two is 0


def _faint(
    source: Source,
    runs: Sequence[Run],
    sample_id: npt.NDArray[np.integer],
    queries: Sequence[int],
    cells: npt.NDArray[np.intp],
) -> Floats:
    """The logs of the means (2, cells) of some cells, read once more."""
    shape = (2, len(cells))
    n, least, total = np.zeros(shape, np.int32), np.full(shape, np.inf), np.zeros(shape)
    for answers in answers_of(source, runs, ["loss"], sample_id, queries):
        loss = answers.columns[0].reshape(-1)[cells].astype(np.float64)
        inside = answers.member_of_each()[cells]
        for side, used in enumerate((inside, ~inside)):
            n[side] += used & ~np.isnan(loss)
            own = np.where(used & np.isfinite(loss), loss, np.inf)
            lower = np.minimum(own, least[side])
            some = np.isfinite(lower)
            base = np.where(some, lower, 0.0)  # where no loss is finite yet, all terms are exp(-infinity)
            total[side] = total[side] * np.exp(base - least[side]) + np.exp(base - own)
            least[side] = lower
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, np.log(total / np.maximum(n, 1)) - least, -np.inf)
