"""A score averaged over a target and its duals: models of the same members, trained with other seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from ...store.errors import NotEnoughData
from ...store.format.records import Run
from ..scores import Scores, count_unscored
from ..source import Source


def duals_of(source: Source) -> tuple[Run, ...]:
    """The runs that share the target's members by design: the first of them, then its duals.

    Raises NotEnoughData where the target has none.
    """
    target = source.need_target()
    first = target.info.parent or target.run
    found = [
        run
        for run in source.runs
        if run.info.role == "target" and (run.run == first or run.info.parent == first)
    ]
    if len(found) < 2:
        raise NotEnoughData(
            f"run {target.run!r} of experiment {source.experiment!r} has no duals to average over; train some with "
            "'losslake collect target --duals K'"
        )
    return tuple(sorted(found, key=lambda run: run.run != first))


def mean_over_duals(source: Source, compute: Callable[..., Scores], options: Mapping[str, Any]) -> Scores:
    """The mean of a score over the target and its duals, each attacked alone; column sd is their spread (divided by n - 1).

    A sample that one of them has no score for has none. Averaging takes out what the seed decided, and leaves what the
    data did (Pollock et al., "Free Record-Level Privacy Risk Evaluation Through Artifact-Based Methods").
    Raises NotEnoughData where there are no duals, or two of them have different members.
    """
    target, duals = source.need_target(), duals_of(source)
    frames, notes = [], []
    member = None
    for run in duals:
        with type(source).open(source.lake, source.experiment, run.run) as aimed:
            scores = compute(aimed, **options)
        frames.append(scores.frame.select("sample_id", "member", pl.col("score").cast(pl.Float64)))
        notes += [note for note in scores.notes if note not in notes]
        if run.run == target.run:
            member = scores.frame.select("sample_id", "member")
    assert member is not None  # the target is one of them
    together = (
        pl.concat(frames)
        .group_by("sample_id")
        .agg(
            pl.col("member").n_unique().alias("kinds"),
            pl.len().alias("runs"),
            pl.col("score").null_count().alias("missing"),
            pl.col("score").mean(),
            pl.col("score").std().alias("sd"),
        )
    )
    if (together["kinds"] > 1).any():
        raise NotEnoughData(
            f"the duals of run {target.run!r} of experiment {source.experiment!r} have different members, so a mean over "
            "them says nothing; attack each alone with --target"
        )
    complete = (pl.col("missing") == 0) & (pl.col("runs") == len(duals))
    frame = (
        member.join(together, on="sample_id", how="left", maintain_order="left")
        .with_columns(pl.when(complete).then(pl.col("score", "sd")))
        .select("sample_id", "member", "score", "sd")
    )
    names = ", ".join(run.run for run in duals)
    return Scores(
        frame,
        (
            *notes,
            *count_unscored(frame, "one of the runs has none for them"),
            f"mean over {len(duals)} runs: {names}",
        ),
    )
