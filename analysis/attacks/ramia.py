"""RaMIA: was a record trained on that lies near this one? A trimmed mean of RMIA over the neighbours of a sample."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidOption, NotEnoughData
from ...store.format.ranges import Range, ranges_of
from ...store.format.records import Run
from ..scores import Scores
from ..source import Source
from ..statistics.roc import whole_part
from .rmia import Gamma, Mode, Resemblance, check_options, checked, scored_views

_SAMPLES_AT_ONCE = 500_000
"""Samples, counted once a view, whose rows are held together."""


def ramia(
    source: Source,
    *,
    mode: Mode = "online",
    a: Resemblance = None,
    gamma: Gamma = 1.0,
    trim_low: Annotated[float, "share of a sample's neighbours, those that score lowest, left out"] = 0.2,
    trim_high: Annotated[float, "share of them, those that score highest, left out"] = 0.2,
    ranges: Annotated[
        Literal["all", "crop", "flip-crop", "noise", "impute"], "which neighbours to ask about"
    ] = "all",
) -> Scores:
    """RaMIA: how high the neighbours of a record score in RMIA, without the lowest and the highest of them.

    A neighbour's score is RMIA's (see `rmia`): the share of population records, in the same view as it, whose ratio it
    exceeds gamma times. Of V neighbours the floor(trim_low V) lowest scores and the floor(trim_high V) highest are left
    out, and the mean of the others is the score: higher = some record of the range was a member. By default a fifth goes
    at either end, so that no single view decides: neither one that no longer looks like data nor one that fell near
    another training record. The record as it is counts for nothing: the attacker does not have it.

    Neighbours are recorded by collecting with --queries, such as original,crop:8 or original,noise:8, in target and
    shadow runs alike; views that some run was not asked about are left out. Metrics take the record's own membership for
    that of its range: other training records that lie in it are not searched for.

    Needs: what rmia needs, and range queries in every run (collect with --queries, such as original,crop:8).

    Source: Tao and Shokri 2025, "Range Membership Inference Attacks".
    """
    check_options("ramia", mode, a, gamma)
    if not (trim_low >= 0 and trim_high >= 0 and trim_low + trim_high < 1):
        raise InvalidOption(
            f"trim-low and trim-high of ramia must be 0 or more and under 1 together, not {trim_low} and {trim_high}"
        )
    references, common, notes = _comparable(source, ranges)
    samples = source.lake.experiment(source.experiment).samples
    blocks = _blocks(common, max(1, _SAMPLES_AT_ONCE // max(1, samples)))
    frames, metrics = scored_views(source, references, blocks, mode=mode, a=a, gamma=gamma)
    scores = checked(source, _trimmed(frames, samples, trim_low, trim_high), mode, metrics)
    return Scores(scores.frame, (*notes, *scores.notes), scores.metrics)


def trimmed_means(values: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.float64]:
    """Mean of each column of ``values`` (V, N) without its floor(low V) least and floor(high V) greatest; NaN with NaN.

    At least one value is kept.
    """
    count = len(values)
    first = whole_part(low, count)
    last = max(first + 1, count - whole_part(high, count))
    ranked = np.sort(values, axis=0)
    means: npt.NDArray[np.float64] = ranked[first:last].mean(axis=0)
    return np.where(np.isnan(ranked[-1]), np.nan, means)


def _trimmed(frames: Iterable[pl.DataFrame], samples: int, low: float, high: float) -> pl.DataFrame:
    """One row a sample that the target has neighbours of; no score where one of them has none."""
    rows, member = [], np.zeros(samples, dtype=bool)
    n_in, n_out = (np.full(samples, np.iinfo(np.int64).max) for _ in range(2))
    seen = np.zeros(samples, dtype=bool)
    for frame in frames:
        ids = frame["sample_id"].to_numpy()
        row = np.full(samples, np.nan)
        row[ids] = frame["score"].to_numpy()
        rows.append(row)
        seen[ids] = True
        member[ids] = frame["member"].to_numpy()
        n_in[ids] = np.minimum(n_in[ids], frame["n_in"].to_numpy())
        n_out[ids] = np.minimum(n_out[ids], frame["n_out"].to_numpy())
    score = trimmed_means(np.stack(rows), low, high)[seen]
    return pl.DataFrame(
        {
            "sample_id": np.flatnonzero(seen),
            "member": member[seen],
            "score": pl.Series(score).fill_nan(None),
            "views": np.full(len(score), len(rows)),
            "n_in": n_in[seen],
            "n_out": n_out[seen],
        }
    )


def _comparable(source: Source, wanted: str) -> tuple[list[Run], list[Range], tuple[str, ...]]:
    """Runs to compare with, the ranges that they and the target all hold, and notes on what is left out.

    Raises NotEnoughData where there are none, and where a run drew its neighbours in another way than the target.
    """
    target = source.need_target_table("signals")
    own = {kind: held for kind, held in ranges_of(target).items() if wanted in ("all", kind)}
    of_kind = "range" if wanted == "all" else wanted
    if not own:
        example = f"{wanted}:8" if wanted != "all" else "crop:8 for pictures, or noise:8"
        raise NotEnoughData(
            f"run {target.run!r} of experiment {source.experiment!r} has no {of_kind} queries; collect it and its shadow "
            f"runs with --queries original,{example}"
        )
    others = source.need_references()
    held = {run.run: ranges_of(run) for run in others}
    for run in others:
        for kind, ours in own.items():
            theirs = held[run.run].get(kind)
            if theirs is not None and theirs.amount != ours.amount:
                raise NotEnoughData(
                    f"run {run.run!r} of experiment {source.experiment!r} has queries {theirs}, target {target.run!r} has "
                    f"{ours}: neighbours drawn in another way cannot be compared; collect both alike, or choose others "
                    "with --ranges"
                )
    having = [run for run in others if own.keys() & held[run.run].keys()]
    shared = {kind: [held[run.run][kind] for run in having if kind in held[run.run]] for kind in own}
    common = [
        Range(kind, min(ours.views, *(theirs.views for theirs in shared[kind])), ours.amount)
        for kind, ours in own.items()
        if len(shared[kind]) == len(having) > 0
    ]
    if not common:
        raise NotEnoughData(
            f"the shadow and reference runs of experiment {source.experiment!r} do not all have the {of_kind} queries of run "
            f"{target.run!r} ({', '.join(map(str, own.values()))}); collect them with --queries "
            f"original,{','.join(map(str, own.values()))}"
        )
    notes = []
    if len(having) < len(others):
        notes.append(
            f"{len(others) - len(having)} of {len(others)} shadow and reference runs have no such neighbours and are left out"
        )
    used, asked = (sum(each.views for each in of) for of in (common, own.values()))
    if used < asked:
        notes.append(f"{asked - used} of the target's {asked} views are left out: other runs lack them")
    return having, common, tuple(notes)


def _blocks(ranges: list[Range], views: int) -> list[tuple[int, int]]:
    """First and last query numbers of blocks of at most so many views."""
    return [
        (numbers[start], numbers[start : start + views][-1])
        for numbers in sorted((each.queries for each in ranges), key=lambda numbers: numbers.start)
        for start in range(0, len(numbers), views)
    ]
