"""Influence: which test records does the model get right only because it saw a certain training record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ...store.errors import InvalidOption, NotEnoughData
from ..scores import Scores, count_unscored
from ..source import Source, with_membership
from ..statistics.intervals import CHANCE, clopper_pearson
from ..statistics.metric import Metric
from .influence_sums import IN, OUT, TopPairs, largest_by_chance, read_outcomes, top_pairs


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
    its largest over all test records j. An audit sample as j counts only in runs that did not train on it. Higher = more
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
    pool = source.lake.samples(source.experiment)["pool"].to_numpy(zero_copy_only=False)
    sample_id, tested = np.flatnonzero(pool == "audit"), np.flatnonzero(pool == on)
    if len(tested) == 0:
        raise NotEnoughData(
            f"influence is measured on test records, and experiment {source.experiment!r} has no {on} samples; "
            f"measure it on the {'audit' if on == 'population' else 'population'} pool with --on"
        )
    matrix = read_outcomes(source, shadows, of)
    trained = matrix.trained[:, sample_id]
    outcome = np.where(matrix.trained[:, tested] == OUT, matrix.outcome[:, tested], np.float32("nan"))
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
    noise = _noise(by_chance, pairs)
    frame = pl.DataFrame(
        {
            "sample_id": sample_id.astype(np.int32),
            "score": pl.Series(pairs.influence[:, 0]).fill_nan(None),
            "se": pl.Series(pairs.se).fill_nan(None),
            "p_value": pl.Series(noise.p_value).fill_nan(None),
            "affected": pl.Series(_lists(tested[pairs.test].astype(np.int32), pairs.there)),
            "influences": pl.Series(_lists(pairs.influence, pairs.there)),
            "n_in": (trained == IN).sum(axis=0),
            "n_out": (trained == OUT).sum(axis=0),
        }
    )
    notes = count_unscored(frame, "no shadow run trained on them, or none did without them")
    scored = int(pairs.there[:, 0].sum())
    notes += (
        f"by chance alone the largest of {len(tested)} influences is {noise.mean:.2f} on average and above "
        f"{noise.level:.2f} for {CHANCE:.0%} of the samples (the same with the {len(shadows)} runs shuffled); "
        f"{noise.beyond} of {scored} samples have a p-value of {CHANCE} or less, {CHANCE * scored:.0f} would by chance",
    )
    return Scores(with_membership(source, frame), notes, noise.metrics(scored))


@dataclass(frozen=True, eq=False)
class _Noise:
    """The largest influence where there is none: its mean, its upper 5% ``level``, how many samples lie beyond that."""

    mean: float
    level: float
    beyond: int
    p_value: npt.NDArray[np.float64]
    shuffled: int

    def metrics(self, scored: int) -> tuple[Metric, ...]:
        return (
            Metric("largest_by_chance", self.mean, n=self.shuffled, parameters={"at": "mean"}),
            Metric("largest_by_chance", self.level, n=self.shuffled, parameters={"at": f"{1 - CHANCE:.0%}"}),
            Metric(
                "share_beyond_chance",
                self.beyond / scored,
                *clopper_pearson(self.beyond, scored),
                n=scored,
                parameters={"by_chance": CHANCE},
            ),
        )


def _noise(by_chance: npt.NDArray[np.float32], pairs: TopPairs) -> _Noise:
    ranked = np.sort(by_chance)
    level = float(np.quantile(ranked, 1 - CHANCE, method="higher"))
    as_large = len(ranked) - np.searchsorted(ranked, pairs.largest, "left")
    p_value = np.where(pairs.there[:, 0], (1 + as_large) / (1 + len(ranked)), np.nan)
    return _Noise(
        float(ranked.mean(dtype=np.float64)), level, int((p_value <= CHANCE).sum()), p_value, len(ranked)
    )


def _lists(values: npt.NDArray[np.generic], there: npt.NDArray[np.bool_]) -> pa.ListArray:
    """A list a row of the values that are there; NULL where none is."""
    count = there.sum(axis=1)
    ends = np.concatenate([[0], np.cumsum(count)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values[there]), mask=pa.array(count == 0))
