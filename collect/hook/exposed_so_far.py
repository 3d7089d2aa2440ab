"""The records that look most exposed while training is still going on: LT-IQR of the trace as far as it goes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import NotEnoughData

Traces = Iterable[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.bool_]]]
"""(sample ids, loss (ids, epochs), which of them were recorded), some samples at a time."""

COLUMNS = {"sample_id": pl.Int32, "score": pl.Float64}


def most_exposed(traces: Traces, wanted: npt.NDArray[np.bool_], k: int, run: str) -> pl.DataFrame:
    """The ``k`` samples among ``wanted`` (N,) bool with the highest LT-IQR: columns sample_id and score, highest first.

    Of equal scores the lower id comes first; samples without a score are left out. Raises NotEnoughData where no trace
    has two epochs. Memory: one piece of the traces, and k rows.
    """
    best_ids, best = np.empty(0, dtype=np.int64), np.empty(0)
    points = 0
    for sample_id, loss, recorded in traces:
        points = max(points, int(recorded.any(axis=0).sum()))
        mine = wanted[sample_id]
        score = _lt_iqr(loss[mine], recorded[mine])
        ids = np.concatenate([best_ids, sample_id[mine][np.isfinite(score)]])
        scores = np.concatenate([best, score[np.isfinite(score)]])
        first = np.lexsort((ids, -scores))[:k]
        best_ids, best = ids[first], scores[first]
    if points < 2:
        raise NotEnoughData(
            f"run {run!r} has {points} recorded epochs; the range of a loss over training takes two or more"
        )
    return pl.DataFrame({"sample_id": best_ids, "score": best}, schema=COLUMNS)


def _lt_iqr(loss: npt.NDArray[np.float32], recorded: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Q75 - Q25 of each trace: (samples, epochs) to (samples,), linear interpolation; higher = more exposed.

    Epochs not recorded are left out. NaN for a trace with a value that is not finite, or without any. The same as
    ``losslake analyze lt-iqr`` up to that epoch; source: Pollock et al., "Free Record-Level Privacy Risk Evaluation
    Through Artifact-Based Methods".
    """
    # What was not recorded sorts behind all that was.
    ranked = np.sort(np.where(recorded, loss, np.float32(np.inf)), axis=1)
    usable = (np.isfinite(loss) | ~recorded).all(axis=1) & recorded.any(axis=1)
    last = np.maximum(recorded.sum(axis=1) - 1, 0)
    rows = np.arange(len(loss))
    found = []
    with np.errstate(invalid="ignore"):  # of traces that are not finite
        for level in (0.25, 0.75):
            place = level * last
            below = place.astype(np.int64)
            lower = ranked[rows, below].astype(np.float64)
            upper = ranked[rows, np.minimum(below + 1, last)].astype(np.float64)
            found.append(lower + (upper - lower) * (place - below))
        return np.where(usable, found[1] - found[0], np.nan)
