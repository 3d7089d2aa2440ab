"""Membership and outcomes of many runs side by side, as sums over pairs of samples need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.format.records import Run
from ...store.format.schema import ORIGINAL
from ..source import Source

AT_ONCE = 32
"""Runs read in one go: their rows stand in memory beside the matrices."""

UNKNOWN, OUT, IN = -1, 0, 1


@dataclass(frozen=True, eq=False)
class OutcomeMatrix:
    """What ``runs`` say of every sample of the experiment as it is (query 0).

    ``trained`` int8 (runs, samples): `IN`, `OUT`, or `UNKNOWN` where the run has no signals of the sample.
    ``outcome`` float32 (runs, samples): 1 where the label was predicted and 0 where not, or p_y; NaN where not known.
    """

    trained: npt.NDArray[np.int8]
    outcome: npt.NDArray[np.float32]


def read_outcomes(source: Source, runs: Sequence[Run], of: str) -> OutcomeMatrix:
    """Read ``of``, 'correct' or 'probability'; holds 5 bytes a run and sample."""
    samples = source.lake.experiment(source.experiment).samples
    trained = np.full((len(runs), samples), UNKNOWN, dtype=np.int8)
    outcome = np.full((len(runs), samples), np.nan, dtype=np.float32)
    column = "correct" if of == "correct" else "loss"
    for start in range(0, len(runs), AT_ONCE):
        frames = source.rows_of_each(
            runs[start : start + AT_ONCE], "signals", ["sample_id", "query", "member", column]
        )
        for row, frame in enumerate(frames, start):
            asked = frame.filter(pl.col("query") == ORIGINAL)
            ids = asked["sample_id"].to_numpy()
            value = asked[column].cast(pl.Float32).fill_null(float("nan")).to_numpy()
            trained[row, ids] = asked["member"].cast(pl.Int8).to_numpy()
            outcome[row, ids] = value if of == "correct" else np.exp(-value)
    return OutcomeMatrix(trained, outcome)
