"""RMIA: the robust membership inference attack, a likelihood ratio held against those of population records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidOption, NotEnoughData
from ...store.format.records import Run
from ...store.format.schema import ORIGINAL, PLAIN_QUERIES
from ..scores import Scores, count_unscored
from ..source import Source
from ..statistics.metric import Metric
from .attacked import NOT_FINITE, need_references
from .rmia_views import DECIMALS, Flags, View, beats, log_ratio, read_views

Mode = Annotated[
    Literal["online", "offline"], "compare with runs with and without the sample, or only those without"
]
Resemblance = Annotated[
    float | None, "offline: how far in-runs resemble out-runs, 0 to 1; default: tuned on a shadow run"
]
Gamma = Annotated[float, "how many times a population record's ratio must be exceeded"]

GRID = np.arange(11) / 10
"""Values of a that are tried."""

TUNED_ON = 20_000
"""Samples at most that a is tuned on, evenly spread over the experiment."""


def rmia(
    source: Source,
    *,
    mode: Mode = "online",
    a: Resemblance = None,
    gamma: Gamma = 1.0,
    queries: Annotated[
        Literal["mean", "original"], "several views: mean of their scores, or the record as it is alone"
    ] = "mean",
) -> Scores:
    """RMIA: how many population records z the record beats, its ratio being gamma times theirs or more.

    ratio(x) = p(x | target) / p(x), p = exp(-loss); p(x) is (mean_in + mean_out) / 2 over shadow and reference runs
    (online), or ((1 + a) mean_out + (1 - a)) / 2 (offline); no run trained on a z, so its p(z) online is mean_out.
    score = share of z with ratio(x) / ratio(z) > gamma, in log space. Higher = member. gamma 1 suits most settings;
    the paper takes 2 where few reference models are at hand and low false-positive rates matter.

    a is tuned to the greatest AUC on a shadow run that stands in for the target (the one whose training set is nearest
    half of the samples; ties: the least a); the target's membership plays no part in it. Metric a says what was chosen.

    Needs: signals of the target and of shadow or reference runs; a population (collect with --population).

    Source: Zarifzadeh et al. 2024, "Low-Cost High-Power Membership Inference Attacks".
    """
    check_options("rmia", mode, a, gamma)
    source.need_target_table("signals")
    last = PLAIN_QUERIES - 1 if queries == "mean" else ORIGINAL
    frames, metrics = scored_views(
        source, need_references(source), [(ORIGINAL, last)], mode=mode, a=a, gamma=gamma
    )
    return checked(source, _mean_over_views(list(frames)), mode, metrics)


def check_options(what: str, mode: str, a: float | None, gamma: float) -> None:
    """Raises InvalidOption for what the attack ``what`` cannot take."""
    if not 0 < gamma < np.inf:
        raise InvalidOption(f"gamma of {what} must be above 0, not {gamma}")
    if a is not None and mode == "online":
        raise InvalidOption("a is for offline RMIA; add --mode offline")
    if a is not None and not 0 <= a <= 1:
        raise InvalidOption(f"a of {what} must lie between 0 and 1, not {a}")


def scored_views(
    source: Source,
    references: Sequence[Run],
    blocks: Sequence[tuple[int, int]],
    *,
    mode: str,
    a: float | None,
    gamma: float,
) -> tuple[Iterator[pl.DataFrame], tuple[Metric, ...]]:
    """`View.scored` of every view, see `read_views`, and what offline RMIA tuned: a, on the first of them.

    Raises NotEnoughData where the target has none of the views.
    """
    tuned = mode == "offline" and a is None
    stand_in = _stand_in(source, references) if tuned else ""
    views = read_views(source, references, blocks, stand_in=stand_in)
    first = next(views, None)
    if first is None:
        raise NotEnoughData(
            f"run {source.target_name!r} of experiment {source.experiment!r} has no signals to attack"
        )
    metrics: tuple[Metric, ...] = ()
    if tuned:
        a = _tune(first, np.log(gamma), stand_in)
        metrics = (Metric("a", a, parameters={"tuned_on": stand_in}),)
    return (view.scored(a, np.log(gamma)) for view in chain([first], views)), metrics


def checked(source: Source, frame: pl.DataFrame, mode: str, metrics: tuple[Metric, ...]) -> Scores:
    """The scores with a note of how many are missing. Raises NotEnoughData where all are."""
    if frame["score"].null_count() == len(frame):
        raise NotEnoughData(
            f"no sample of experiment {source.experiment!r} was {'both in and out of' if mode == 'online' else 'left out of'} "
            "the training sets of its shadow and reference runs; collect more"
        )
    missing = "no other run trained on them, or none" if mode == "online" else "no other run"
    why = f"{NOT_FINITE}, {missing} did without them"
    return Scores(frame, count_unscored(frame, why), metrics)


def _tune(view: View, log_gamma: float, stand_in: str) -> float:
    """The a of the grid with the greatest AUC on the run that stands in for the target."""
    known = (view.stand_in.n > 0) & np.isfinite(view.stand_in.log_mean) & (view.outside.n > 0)
    audit, population = np.flatnonzero(known & ~view.population), np.flatnonzero(known & view.population)
    audit = audit[:: -(-len(audit) // TUNED_ON) or 1]
    member = view.stand_in.member[audit]
    if len(population) == 0 or not member.any() or member.all():
        raise NotEnoughData(
            f"a cannot be tuned on shadow run {stand_in!r}: that takes samples that it trained on, samples that it did "
            "not, and other runs without them; collect more shadow runs, or choose it with --a"
        )
    rows = np.concatenate([audit, population])
    own, inside, outside = (side.at(rows) for side in (view.stand_in, view.inside, view.outside))
    areas = []
    for a in GRID:
        ratio = log_ratio(own, inside, outside, view.population[rows], float(a))
        beaten, most = beats(ratio[: len(audit)], ratio[len(audit) :], log_gamma)
        areas.append(_auc(beaten, member, most))
    return float(GRID[int(np.argmax(np.round(areas, DECIMALS)))])


def _auc(count: npt.NDArray[np.int64], member: Flags, most: int) -> float:
    """AUC of scores that are counts from 0 to ``most``; ties count half."""
    members = np.bincount(count[member], minlength=most + 1)
    others = np.bincount(count[~member], minlength=most + 1)
    lower = np.cumsum(others) - others
    return float((members * (lower + others / 2)).sum() / (members.sum() * others.sum()))


def _stand_in(source: Source, references: Sequence[Run]) -> str:
    """The shadow run whose training set is nearest half of the audit samples: its AUC is the surest."""
    shadows = [run for run in references if run.info.role == "shadow"]
    if not shadows:
        raise NotEnoughData(
            f"experiment {source.experiment!r} has no shadow run to tune a on; collect some, or choose it with --a"
        )
    audit = source.sql("select count(*) from samples where pool = 'audit'").item()
    return min(shadows, key=lambda run: abs(2 * run.members - audit)).run


def _mean_over_views(views: list[pl.DataFrame]) -> pl.DataFrame:
    """One row a sample; no score where a view has none."""
    if len(views) == 1:
        return views[0].with_columns(pl.col("score", "log_ratio").fill_nan(None))
    return (
        pl.concat(views)
        .group_by("sample_id")
        .agg(
            pl.col("member").any(),
            pl.col("score", "log_ratio").mean().fill_nan(None),  # NaN in one view is NaN in the mean
            pl.col("n_in", "n_out").min(),
        )
        .sort("sample_id")
    )
