"""Exposure: the rank of a canary among others like it that the model has not seen."""

from __future__ import annotations

import math
from typing import Annotated

import polars as pl

from ...store.errors import NotEnoughData
from ...store.format.records import CANARY
from ..scores import Scores
from ..source import Source
from ..statistics.metric import Metric


def exposure(
    source: Source,
    *,
    group: Annotated[str, "the group of samples that canaries and candidates are in"] = CANARY,
) -> Scores:
    """Exposure of canaries: how far up a canary stands among candidates that the target did not train on, in bits.

    score = log2 |R| - log2 rank. R are the canary itself and the candidates: the samples of the group that the target did
    not train on, those of the population among them. rank is the canary's by loss, from the lowest, 1 being first; of a
    language model the loss is the sum over the tokens, the log-perplexity of the paper, else the loss as it is. Equal losses
    share the mean of their ranks; infinite ones stand last. Higher = member: the more of it is memorized. No exposure can be above log2 |R|: who
    wants to see more needs more candidates.

    Canaries that the target did not train on have the rank that one more of the same loss would have. Columns: rank, candidates (|R|), ties (candidates of the same loss), p_value
    (the canary's last rank among equals / |R|: how often one that was not trained on stands as high), loss.

    Metrics of its own: mean_exposure of canaries that the target trained on; mean_exposure_by_chance, what that is in
    expectation where it learnt of none (of many candidates 1.44 bits); and most_exposure, log2 |R|. These have no
    intervals, as all canaries are ranked among the same candidates; the AUC, of canaries that it trained on against
    those that it did not, has one.

    Needs: the target's signals of canaries, such as --canaries plants, some of which it trained on and some not.

    Source: Carlini et al. 2019, "The Secret Sharer: Evaluating and Testing Unintended Memorization in Neural Networks",
    definitions 1 to 4.
    """
    target = source.need_target_table("signals")
    frame = source.query("exposure", {"target": target.run, "group": group})
    where = f"of group {group!r} in experiment {source.experiment!r}"
    if not len(frame):
        raise NotEnoughData(
            f"run {target.run!r} has the loss of no sample {where}; plant canaries when collecting (--canaries), give an audit their "
            "group (--group COLUMN), or name the group that they are in"
        )
    known = frame.filter(pl.col("member"))
    if not len(known):
        raise NotEnoughData(f"run {target.run!r} trained on no canary {where}")
    candidates = int(known["candidates"][0])
    if candidates < 2:
        raise NotEnoughData(
            f"run {target.run!r} trained on every canary {where}; a rank needs candidates that it did not train on: others made "
            "the same way, in the population for example"
        )
    most = math.log2(candidates)
    # Where nothing was learnt every rank is as likely: log2 |R| less the mean of log2 1, ..., log2 |R|.
    by_chance = most - math.lgamma(candidates + 1) / math.log(2) / candidates
    metrics = (
        Metric("mean_exposure", float(known["score"].to_numpy().mean()), n=len(known)),
        Metric("mean_exposure_by_chance", by_chance, n=candidates),
        Metric("most_exposure", most, n=candidates),
    )
    return Scores(frame, _notes(known, candidates, most), metrics)


def _notes(known: pl.DataFrame, candidates: int, most: float) -> tuple[str, ...]:
    first = int((known["rank"] == 1).sum())
    tied = int((known["ties"] > 0).sum())
    at_most = (
        f"; {first} of {len(known)} canaries stand first, and may be exposed more than that" if first else ""
    )
    notes = [
        f"{candidates - 1} candidates were not trained on, so no exposure above {most:.2f} bits shows{at_most}"
    ]
    if tied:
        notes.append(
            f"{tied} of {len(known)} canaries have the loss of a candidate: they share the mean of the ranks"
        )
    return tuple(notes)
