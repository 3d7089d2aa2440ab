"""Scores: what an analysis says about each sample. A higher score always means more exposed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from .statistics.metric import Metric


@dataclass(frozen=True)
class Scores:
    """One row a sample: sample_id, member (of the target; NULL without one), score, the analysis's own columns.

    A sample without a score has NULL there. ``notes`` are sentences a reader must know, ``metrics`` what the
    analysis itself measures beyond the common evaluation.
    """

    frame: pl.DataFrame
    notes: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()

    def arrays(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Score (NaN where there is none) and membership of the samples whose membership is known."""
        known = self.frame.filter(pl.col("member").is_not_null())
        score = known["score"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        return score, known["member"].to_numpy()


@dataclass(frozen=True)
class Finding:
    """What an evaluation of several scores says: metrics, and sentences a reader must know."""

    metrics: tuple[Metric, ...]
    notes: tuple[str, ...] = ()


def count_unscored(frame: pl.DataFrame, why: str) -> tuple[str, ...]:
    """A note with the number of samples without a score, none where all have one."""
    missing = frame["score"].null_count()
    return (f"{missing} of {len(frame)} samples have no score: {why}",) if missing else ()


def by_exposure(scores: Scores) -> pl.DataFrame:
    """The scored samples from the most exposed down, ties in the order of sample ids.

    Members of the target where membership is known, else all samples.
    """
    frame = scores.frame.filter(pl.col("score").is_not_null())
    if frame["member"].any():
        frame = frame.filter(pl.col("member"))
    return frame.sort("score", "sample_id", descending=[True, False])
