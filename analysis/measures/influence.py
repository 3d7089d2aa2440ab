"""Influence: which test records does the model get right only because it saw a certain training record.

Influences of N samples on Z test records are matrix products over runs, of which only the largest pairs stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ...store.errors import InvalidOption, NotEnoughData
from ...store.format.records import Run
from ...store.format.schema import ORIGINAL
from ..scores import Scores, count_unscored
from ..source import Source, with_membership
from ..statistics.intervals import CHANCE
from ..statistics.metric import Metric

AT_ONCE = 32
"""Runs read in one go: their rows stand in memory beside the matrices."""

UNKNOWN, OUT, IN = -1, 0, 1

CELLS = 1 << 21
"""Pairs in memory at a time."""

SHUFFLES = 8
SHUFFLED = 2_000
"""Largest influences at most that are looked at with the runs shuffled: of all samples each time, or a part of them."""

Trained = npt.NDArray[np.int8]
Outcomes = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


def influence(
    source: Source,
    *,
    on: Annotated[
        Literal["population", "audit"], "test records: those no run trains on, or the other audit samples"
    ] = "population",
    of: Annotated[
        Literal["correct", "probability"], "correct predictions, or the probability of the label"
    ] = "correct",
    top: Annotated[int, "how many of the most affected test records to list for each sample"] = 5,
) -> Scores:
    """Influence: how much a sample in the training set raises the accuracy on the test record it helps most.

    infl(i -> j) = Pr[right on j | trained on i] - Pr[right on j | not trained on i], over shadow runs; the score of i is
    its largest over all test records j. An audit sample as j counts only in runs that did not train on it; canaries' candidates (group canary
    of the population) are no test records. Higher = more
    exposed: what the model knows of j it has from i.

    Columns: se (of the largest influence, dividing by n), p_value, affected (the sample ids j of the --top largest,
    in descending order), influences (their values), n_in, n_out. The largest of many estimates lies above 0 by chance
    alone: p_value is the share of samples whose largest influence is as large once the runs are shuffled, which leaves
    no influence to find. It accounts for the number of test records, not for the number of samples.

    Metrics of its own: largest_by_chance, the largest influence once the runs are shuffled (its mean and 95% quantile
    over samples); share_beyond_chance, the share of samples with a p_value of at most 0.05.

    Needs: shadow runs with and without each sample; a population (collect with --population), unless on is audit.

    Source: Feldman & Zhang 2020, "What Neural Networks Memorize and Why" (influence of a training example on a test one).
    """
    if top < 1:
        raise InvalidOption(f"top of influence is a number of test records, 1 or more, not {top}")
    shadows = source.need_shadows()
    tests = source.audited() if on == "audit" else source.compared_population()
    sample_id, tested = np.flatnonzero(source.audited()), np.flatnonzero(tests)
    if len(tested) == 0:
        raise NotEnoughData(
            f"influence is measured on test records, and experiment {source.experiment!r} has no {on} samples; "
            f"measure it on the {'audit' if on == 'population' else 'population'} pool with --on"
        )
    trained, outcome = _read_outcomes(source, shadows, of)
    outcome = np.where(trained[:, tested] == OUT, outcome[:, tested], np.float32("nan"))
    trained = trained[:, sample_id]
    pairs = top_pairs(trained, outcome, top)
    if not pairs.there.any():
        stored = "they store whether the label was predicted (try --of probability)"
        raise NotEnoughData(
            f"influence needs shadow runs with and without each sample, and that "
            f"{stored if of == 'correct' else 'they store the loss of test records'}; "
            f"experiment {source.experiment!r} has {len(shadows)} shadow runs"
        )
    by_chance = largest_by_chance(trained, outcome)
    if len(by_chance) == 0:
        raise NotEnoughData(
            f"the {len(shadows)} shadow runs of experiment {source.experiment!r} know too few test records in common to "
            "tell influence from chance; collect more"
        )
    ranked = np.sort(by_chance)
    mean = float(ranked.mean(dtype=np.float64))
    level = float(np.quantile(ranked, 1 - CHANCE, method="higher"))
    as_large = len(ranked) - np.searchsorted(ranked, pairs.largest, "left")
    p_value = np.where(pairs.there[:, 0], (1 + as_large) / (1 + len(ranked)), np.nan)
    scored, beyond = int(pairs.there[:, 0].sum()), int((p_value <= CHANCE).sum())
    frame = pl.DataFrame(
        {
            "sample_id": sample_id.astype(np.int32),
            "score": pl.Series(pairs.influence[:, 0]).fill_nan(None),
            "se": pl.Series(pairs.se).fill_nan(None),
            "p_value": pl.Series(p_value).fill_nan(None),
            "affected": pl.Series(_lists(tested[pairs.test].astype(np.int32), pairs.there)),
            "influences": pl.Series(_lists(pairs.influence, pairs.there)),
            "n_in": (trained == IN).sum(axis=0),
            "n_out": (trained == OUT).sum(axis=0),
        }
    )
    notes = count_unscored(frame, "no shadow run trained on them, or none did without them")
    notes += (
        f"by chance alone the largest of {len(tested)} influences is {mean:.2f} on average and above "
        f"{level:.2f} for {CHANCE:.0%} of the samples (the same with the {len(shadows)} runs shuffled); "
        f"{beyond} of {scored} samples have a p-value of {CHANCE} or less, {CHANCE * scored:.0f} would by chance",
    )
    metrics = (
        Metric("largest_by_chance", mean, n=len(ranked), parameters={"at": "mean"}),
        Metric("largest_by_chance", level, n=len(ranked), parameters={"at": f"{1 - CHANCE:.0%}"}),
        Metric.share("share_beyond_chance", beyond, scored, {"by_chance": CHANCE}),
    )
    return Scores(with_membership(source, frame), notes, metrics)


def _read_outcomes(source: Source, runs: Sequence[Run], of: str) -> tuple[Trained, Outcomes]:
    """What ``runs`` say of every sample of the experiment as it is (query 0), (runs, samples) each: 5 bytes a cell.

    `IN`, `OUT`, or `UNKNOWN` where the run has no signals of the sample; and, for ``of`` 'correct', 1 where the label was
    predicted and 0 where not, for 'probability' p_y: NaN where not known.
    """
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
    return trained, outcome


def _lists(values: npt.NDArray[np.generic], there: npt.NDArray[np.bool_]) -> pa.ListArray:
    """A list a row of the values that are there; NULL where none is."""
    count = there.sum(axis=1)
    ends = np.concatenate([[0], np.cumsum(count)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values[there]), mask=pa.array(count == 0))


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
        if (inside | outside).all():
            # The runs without a sample are the others, whose sum needs no product.
            rest, others = self.total - found, self.runs - count
        else:
            rest, others = self._sums(outside)
        with np.errstate(invalid="ignore", divide="ignore"):
            found /= count
            rest /= others
            found -= rest
        if count.all() and others.all():
            return found
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
