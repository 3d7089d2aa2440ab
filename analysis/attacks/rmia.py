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
from ..remedies import collect_shadows
from ..scores import Scores, count_unscored
from ..source import Source
from ..statistics.metric import Metric
from .loss import NOT_FINITE
from .rmia_views import DECIMALS, View, beats, log_ratio, read_views

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

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def rmia(
    source: Source,
    *,
    mode: Mode = "online",
    a: Resemblance = None,
    rank: Annotated[
        Literal["log-ratio", "share"], "by the record's log ratio, or by how many population records it beats"
    ] = "log-ratio",
    gamma: Annotated[
        float | None, "share: how many times a population record's ratio must be exceeded; default: 1"
    ] = None,
    queries: Annotated[
        Literal["mean", "original"], "several views: mean of their scores, or the record as it is alone"
    ] = "mean",
) -> Scores:
    """RMIA: how much likelier the target finds the record than other runs do; a log ratio, or a share beaten.

    ratio(x) = p(x | target) / p(x), p = exp(-loss); p(x) is (mean_in + mean_out) / 2 over shadow and reference runs
    (online), or ((1 + a) mean_out + (1 - a)) / 2 (offline). Higher = member. By rank log-ratio the score is log ratio(x), the
    mean over views. By rank share, the paper's, it is the share of population records z (none of group canary) with ratio(x) / ratio(z) > gamma; no run
    trained on a z, so its p(z) online is mean_out. Both have one order, whatever gamma is, but records
    that beat the same number of z, or all of them, tie in the share, and the lowest false-positive rates are decided among those.

    a is tuned to the greatest AUC on a shadow run that stands in for the target (the one whose training set is nearest
    half of the samples; ties: the least a); the target's membership plays no part in it. Metric a says what was chosen.
    --mask temperature:T takes softmax(logits / T) for all runs.

    Needs: signals of the target and of shadow or reference runs; for rank share a population (collect with --population).

    Source: Zarifzadeh et al. 2024, "Low-Cost High-Power Membership Inference Attacks"; for log-ratio Lassila et al. 2025,
    "Practical Bayes-Optimal Membership Inference Attacks" (BASE, arXiv 2505.24089), and InfoRMIA (arXiv 2510.05582), which
    subtract from it what is the same for all records.
    """
    if rank == "log-ratio" and gamma is not None:
        raise InvalidOption("gamma is for RMIA's share of the population; add --rank share")
    check_options("rmia", mode, a, gamma)
    source.need_target_table("signals")
    last = PLAIN_QUERIES - 1 if queries == "mean" else ORIGINAL
    frames, metrics = scored_views(
        source,
        source.need_references(),
        [(ORIGINAL, last)],
        mode=mode,
        a=a,
        gamma=None if rank == "log-ratio" else 1.0 if gamma is None else gamma,
    )
    return checked(source, _mean_over_views(list(frames)), mode, metrics)


def _mean_over_views(views: list[pl.DataFrame]) -> pl.DataFrame:
    """One row a sample; no score where a view has none."""
    if len(views) == 1:
        return views[0].with_columns(pl.col("score", "log_ratio").fill_nan(None))
    ids = np.unique(np.concatenate([view["sample_id"].to_numpy() for view in views]))
    member, runs = np.zeros(len(ids), dtype=bool), np.zeros(len(ids), dtype=np.int64)
    total = {"score": np.zeros(len(ids)), "log_ratio": np.zeros(len(ids))}
    fewest = {name: np.full(len(ids), np.iinfo(np.int64).max) for name in ("n_in", "n_out")}
    for view in views:
        at = np.searchsorted(ids, view["sample_id"].to_numpy())
        member[at] |= view["member"].to_numpy()
        runs[at] += 1
        for name, sums in total.items():
            sums[at] += view[name].to_numpy()  # NaN in one view is NaN in the mean
        for name, least in fewest.items():
            least[at] = np.minimum(least[at], view[name].to_numpy())
    means = {name: sums / runs for name, sums in total.items()}
    return pl.DataFrame({"sample_id": ids, "member": member, **means, **fewest}).with_columns(
        pl.col("score", "log_ratio").fill_nan(None)
    )


def check_options(what: str, mode: str, a: float | None, gamma: float | None) -> None:
    """Raises InvalidOption for what the attack ``what`` cannot take."""
    if gamma is not None and not 0 < gamma < np.inf:
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
    gamma: float | None,
) -> tuple[Iterator[pl.DataFrame], tuple[Metric, ...]]:
    """`View.scored` of every view, see `read_views`, and what offline RMIA tuned: a, on the first of them.

    Scores are log ratios where gamma is None. Raises NotEnoughData where the target has none of the views, and where there are
    no population records for a gamma.
    """
    log_gamma = None if gamma is None else float(np.log(gamma))
    tuned = mode == "offline" and a is None
    stand_in = _stand_in(source, references) if tuned else ""
    views = read_views(source, references, blocks, stand_in=stand_in, population=gamma is not None)
    first = next(views, None)
    if first is None:
        raise NotEnoughData(
            f"run {source.target_name!r} of experiment {source.experiment!r} has no signals to attack"
        )
    metrics: tuple[Metric, ...] = ()
    if tuned:
        a = _tune(first, log_gamma, stand_in)
        metrics = (Metric("a", a, parameters={"tuned_on": stand_in}),)
    return (view.scored(a, log_gamma) for view in chain([first], views)), metrics


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


def _stand_in(source: Source, references: Sequence[Run]) -> str:
    """The shadow run whose training set is nearest half of the audit samples: its AUC is the surest."""
    shadows = [run for run in references if run.info.role == "shadow"]
    if not shadows:
        raise NotEnoughData(
            f"experiment {source.experiment!r} has no shadow run to tune a on; choose it with --a, or {collect_shadows(source.lake, source.experiment)}"
        )
    audit = source.sql("select count(*) from samples where pool = 'audit'").item()
    return min(shadows, key=lambda run: abs(2 * run.members - audit)).run


def _tune(view: View, log_gamma: float | None, stand_in: str) -> float:
    """The a of the grid with the greatest AUC on the run that stands in for the target."""
    known = (view.stand_in.n > 0) & np.isfinite(view.stand_in.log_mean) & (view.outside.n > 0)
    audit, population = np.flatnonzero(known & view.audited), np.flatnonzero(known & view.population)
    audit = audit[:: -(-len(audit) // TUNED_ON) or 1]
    member = view.stand_in.member[audit]
    if (len(population) == 0 and log_gamma is not None) or not member.any() or member.all():
        raise NotEnoughData(
            f"a cannot be tuned on shadow run {stand_in!r}: that takes samples that it trained on, samples that it did "
            "not, and other runs without them; collect more shadow runs, or choose it with --a"
        )
    rows = np.concatenate([audit, population])
    own, inside, outside = (side.at(rows) for side in (view.stand_in, view.inside, view.outside))
    areas = []
    for a in GRID:
        ratio = log_ratio(own, inside, outside, view.population[rows], float(a))
        if log_gamma is None:
            beaten = np.unique(ratio[: len(audit)], return_inverse=True)[1]
            most = int(beaten.max())
        else:
            beaten, most = beats(ratio[: len(audit)], ratio[len(audit) :], log_gamma)
        areas.append(_auc(beaten, member, most))
    return float(GRID[int(np.argmax(np.round(areas, DECIMALS)))])


def _auc(count: npt.NDArray[np.int64], member: Flags, most: int) -> float:
    """AUC of scores that are counts from 0 to ``most``; ties count half."""
    members = np.bincount(count[member], minlength=most + 1)
    others = np.bincount(count[~member], minlength=most + 1)
    lower = np.cumsum(others) - others
    return float((members * (lower + others / 2)).sum() / (members.sum() * others.sum()))
