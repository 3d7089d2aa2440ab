"""How far apart a sample's phi lies with and without it: the privacy score, and the Hellinger distance.

The latter also says how many shadow models a record calls for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from ...store.errors import NotEnoughData
from ...store.format.records import Run
from ...store.format.schema import ORIGINAL
from ..attacks.in_and_out import Sums, as_table, query_in_parts, sides_in_numpy
from ..attacks.run_answers import answers_of
from ..scores import Scores, count_unscored
from ..source import Source, with_membership
from ..statistics.intervals import CHANCE
from ..statistics.metric import Metric
from .memorization import memorized

_PRIME, _FACTOR, _RUN_FACTOR = 2_147_483_647, 48_271, 69_621
"""As in sql/hellinger.sql."""


def privacy_score(source: Source) -> Scores:
    """Privacy score: d = |mean_in - mean_out| / (sd_in + sd_out) of phi over shadow runs.

    Standard deviations divide by n. Higher = the two groups of models are easier to tell apart: more exposed.

    Needs: two or more shadow runs with and two or more without each sample.

    Source: Carlini et al. 2022, "Membership Inference Attacks From First Principles", section VII-B.
    """
    shadows = source.need_shadows()
    frame = query_in_parts(source, "privacy_score", {"target": source.target_name}, shadows, "phi")
    if frame["score"].null_count() == len(frame):
        raise NotEnoughData(
            f"the privacy score needs two shadow runs with and two without a sample; experiment {source.experiment!r} has "
            f"{len(shadows)} shadow runs"
        )
    notes = count_unscored(frame, "fewer than two shadow runs trained on them, or without them")
    return Scores(with_membership(source, frame), notes)


def hellinger(source: Source) -> Scores:
    """Hellinger distance between phi with and without the sample, and how many shadow models that calls for.

    Gaussians are fitted to phi of the shadow runs with and without the sample (standard deviations divide by n); the
    score is their distance H, 0 to 1. Higher = the two are easier to tell apart: more exposed. An adversary who knows
    both has an advantage between H^2 and sqrt(2) H; one who has to learn them needs a number of shadow models of order
    1/H^2. The label alone tells members apart with advantage |mem|, so sqrt(2) H is at least |mem|, and a number of
    order 2/mem^2 is enough. Both are orders of magnitude: the theorems leave the constant open.

    Columns: squared (H^2); by_chance (the H^2 that two fits to one Gaussian have on average); shadows_needed (1/H^2,
    NULL where H^2 is no larger than chance makes it for 5% of records: 3 times by_chance for Gaussian phi, and more where the
    same runs, parted at random and not by membership, lie further apart than that); mem
    (memorization) and shadows_bound (2/mem^2, NULL where the interval of mem reaches 0); n_in, n_out.

    Metrics of its own: share_resolved, the share of records with a shadows_needed, and median_shadows_needed among
    them.

    Needs: two or more shadow runs with and two or more without each sample.

    Source: "Why Train More? Effective and Efficient Membership Inference via Memorization", sections 2.2, 5.1 and 5.3
    (theorems 1 and 2, lemma 2, corollary 1).
    """
    shadows = source.need_shadows()
    sides = sides_in_numpy(source, shadows, "phi")
    drawn_sides = _drawn_in_numpy(source, shadows, sides)
    distances = source.query("hellinger", {"target": source.target_name}, {**sides, **drawn_sides})
    if distances["score"].null_count() == len(distances):
        raise NotEnoughData(
            f"the Hellinger distance needs two shadow runs with and two without a sample; experiment "
            f"{source.experiment!r} has {len(shadows)} shadow runs"
        )
    memories = memorized(source, "correct")
    # The 95% quantile of H^2 / by_chance: for two fits to one Gaussian about that of half a chi-square of 2 degrees; where
    # tails are heavier, fits to two groups drawn at random say.
    drawn = distances["relabelled"].drop_nulls()
    quantile = max(-math.log(CHANCE), float(np.quantile(drawn.to_numpy(), 1 - CHANCE)) if len(drawn) else 0.0)
    beyond_chance = pl.col("squared") > quantile * pl.col("by_chance")
    frame = distances.join(
        memories.select("sample_id", pl.col("score").alias("mem"), "ci_low", "ci_high"),
        on="sample_id",
        how="left",
        maintain_order="left",
    ).select(
        "sample_id",
        "score",
        "squared",
        "by_chance",
        pl.when(beyond_chance).then(1 / pl.col("squared")).alias("shadows_needed"),
        "mem",
        pl.when((pl.col("ci_low") > 0) | (pl.col("ci_high") < 0))
        .then(2 / pl.col("mem") ** 2)
        .alias("shadows_bound"),
        "n_in",
        "n_out",
    )
    scored = len(frame) - frame["score"].null_count()
    resolved = frame["shadows_needed"].drop_nulls()
    notes = count_unscored(frame, "fewer than two shadow runs trained on them, or without them")
    if len(resolved) < scored:
        notes += (
            f"{scored - len(resolved)} of {scored} samples lie no further apart than chance puts them with {len(shadows)} "
            "shadow runs; what they call for is more than these can tell",
        )
    metrics = [Metric.share("share_resolved", len(resolved), scored, {"by_chance": CHANCE})]
    if len(resolved):
        middle = float(np.median(resolved.to_numpy()))
        metrics.append(
            Metric("median_shadows_needed", middle, n=len(resolved), parameters={"among": "resolved"})
        )
    return Scores(with_membership(source, frame), notes, tuple(metrics))


def _drawn_in_numpy(
    source: Source, runs: Sequence[Run], sides: Mapping[str, pa.Table]
) -> dict[str, pa.Table]:
    """The table ``drawn_sides`` of sql/hellinger.sql: the same runs in two groups drawn by numbers that know nothing of membership."""
    if not sides:
        return {}
    of_members = sides["sides"]
    sample_id = of_members["sample_id"].to_numpy().astype(np.int64)
    n_in, n_out = of_members["n_in"].to_numpy(), of_members["n_out"].to_numpy()
    start = (sample_id + 1) * _FACTOR % _PRIME
    numbers = {run: number for number, run in enumerate(sorted(run.run for run in runs), start=1)}
    sums = Sums.of((len(sample_id), 1))
    for run, answers in zip(runs, answers_of(source, runs, ["phi"], sample_id, [ORIGINAL]), strict=True):
        place = start * (numbers[run.run] * _RUN_FACTOR % _PRIME) % _PRIME
        sums.add(answers.columns[0], place * (n_in + n_out) < n_in * _PRIME)
    return {"drawn_sides": as_table(sample_id, sums.fits())}
