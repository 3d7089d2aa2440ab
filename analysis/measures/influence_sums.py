"""Influence of N samples on Z test records as matrix products over runs, of which only the largest pairs stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.format.records import Run
from ...store.format.schema import ORIGINAL
from ..source import Source

CELLS = 1 << 21
"""Pairs in memory at a time."""

SHUFFLES = 8
SHUFFLED = 2_000
"""Largest influences at most that are looked at with the runs shuffled: of all samples each time, or a part of them."""

Trained = npt.NDArray[np.int8]
Outcomes = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TopPairs:
    """The largest influences of each sample, arrays (N, K) in descending order, and which of them are ``there``.

    ``test`` are columns of the outcomes, of equal ones the first. ``se`` (N,) is the standard error of the first,
    ``largest`` (N,) its value in single precision, -inf where a sample has none; the others are NaN there.
    """

    test: npt.NDArray[np.int64]
    influence: Floats
    there: npt.NDArray[np.bool_]
    se: Floats
    largest: npt.NDArray[np.float32]


def top_pairs(trained: Trained, outcome: Outcomes, top: int) -> TopPairs:
    """The ``top`` largest influences of each sample of trained (runs, N) on outcome (runs, Z), NaN = not known.

    Found in single precision, in which sums of counts are exact, and computed again in double precision.
    """
    samples, width = trained.shape[1], min(top, outcome.shape[1])
    test, there = np.zeros((samples, width), dtype=np.int64), np.zeros((samples, width), dtype=bool)
    influence, se = np.full((samples, width), np.nan), np.full((samples, width), np.nan)
    largest = np.full(samples, -np.inf, dtype=np.float32)
    products = _Products(outcome)
    for block in _blocks(samples, outcome):
        side = np.ascontiguousarray(trained[:, block].T)
        found = products.influences(side)
        each = np.arange(len(found))
        for rank in range(width):
            best = found.argmax(axis=1)
            value = found[each, best]
            found[each, best] = -np.inf
            test[block, rank], there[block, rank] = best, value > -np.inf
            influence[block, rank], se[block, rank] = products.exact(side, best)
            if rank == 0:
                largest[block] = value
    influence[~there], se[~there] = np.nan, np.nan
    order = np.argsort(-influence, axis=1, kind="stable")  # what is not there comes last, as it was
    test, influence, se = (np.take_along_axis(part, order, axis=1) for part in (test, influence, se))
    return TopPairs(test, influence, there, se[:, 0], largest)


def largest_by_chance(trained: Trained, outcome: Outcomes) -> npt.NDArray[np.float32]:
    """Largest influences with the runs of the training sets shuffled against those of the outcomes, of some samples.

    That keeps how large the training sets are, how hard each test record is and which of them go together, and takes
    away every influence. The samples lie evenly over the experiment; the shuffles are always the same ones.
    """
    usable = np.flatnonzero((trained == IN).any(axis=0) & (trained == OUT).any(axis=0))
    chosen = usable[:: -(-len(usable) // SHUFFLED) or 1]
    rng = np.random.default_rng(0)
    products = _Products(outcome)
    found = []
    for shuffle in range(SHUFFLES):
        part = chosen if len(chosen) * SHUFFLES <= SHUFFLED else chosen[shuffle::SHUFFLES]
        shuffled = trained[rng.permutation(len(trained))][:, part].T
        found += [
            products.influences(shuffled[block]).max(axis=1) for block in _blocks(len(shuffled), outcome)
        ]
    values = np.concatenate(found)
    return values[np.isfinite(values)]


def _blocks(samples: int, outcome: Outcomes) -> Iterator[slice]:
    step = max(1, CELLS // max(outcome.shape))
    return (slice(start, start + step) for start in range(0, samples, step))


class _Products:
    """Outcomes laid out for products with training sets: a row a test record, what is not known counting 0."""

    def __init__(self, outcome: Outcomes) -> None:
        laid_out = np.ascontiguousarray(outcome.T)
        known = ~np.isnan(laid_out)
        self.value = np.where(known, laid_out, np.float32(0))
        self.known = None if known.all() else known.astype(np.float32)
        self.total = self.value.sum(axis=1)
        self.runs = np.float32(len(outcome)) if self.known is None else self.known.sum(axis=1)

    def influences(self, side: Trained) -> npt.NDArray[np.float32]:
        """Influence of every sample of ``side`` (B, runs) on every test record: (B, Z), -inf where there is none."""
        inside, outside = side == IN, side == OUT
        found, count = self._sums(inside)
        if (
            inside | outside
        ).all():  # then the runs without a sample are the others, whose sum needs no product
            rest, others = self.total - found, self.runs - count
        else:
            rest, others = self._sums(outside)
        with np.errstate(invalid="ignore", divide="ignore"):
            found /= count
            rest /= others
            found -= rest
        np.copyto(found, -np.inf, where=~np.isfinite(found))
        return found

    def _sums(self, marked: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Sum of each test record's outcomes over the runs marked for each sample, and how many these are."""
        runs = marked.astype(np.float32)
        total = runs @ self.value.T
        return total, runs.sum(axis=1, keepdims=True) if self.known is None else runs @ self.known.T

    def exact(self, side: Trained, test: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Influence of each sample of ``side`` (B, runs) on a test record of its own (B,), and its standard error."""
        value = self.value[test].astype(np.float64)
        influence, variance = np.zeros(len(test)), np.zeros(len(test))
        for which, sign in ((IN, 1), (OUT, -1)):
            used = (side == which).astype(np.float64)
            if self.known is not None:
                used *= self.known[test]
            with np.errstate(invalid="ignore"):
                count = used.sum(axis=1)
                mean = np.einsum("bm,bm->b", used, value) / count
                square = np.einsum("bm,bm,bm->b", used, value, value) / count
                influence += sign * mean
                variance += np.maximum(square - mean**2, 0) / count
        return influence, np.sqrt(variance)


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
