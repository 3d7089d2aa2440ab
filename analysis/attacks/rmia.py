"""RMIA: the robust membership inference attack, a likelihood ratio held against those of population records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ...store.errors import InvalidOption, NotEnoughData
from ...store.format.records import Run
from ...store.format.schema import ORIGINAL, PLAIN_QUERIES
from ...store.format.tables import table_of_rows
from ..scores import Scores, count_unscored
from ..source import Source, collect_shadows, set_aside
from ..statistics.metric import Metric
from .loss import NOT_FINITE
from .mean_probability import mean_log_probability
from .run_answers import Answers, answers_of

Mode = Annotated[
    Literal["online", "offline"], "compare with runs with and without the sample, or only those without"
]
Resemblance = Annotated[
    float | None, "offline: how far in-runs resemble out-runs, 0 to 1; default: tuned on a shadow run"
]
Gamma = Annotated[float, "how many times a population record's ratio must be exceeded"]

DECIMALS = 12
"""Log ratios are rounded to so many: losses have seven digits, and the order in which an engine sums must not part ties."""

GRID = np.arange(11) / 10
"""Values of a that are tried."""

TUNED_ON = 20_000
"""Samples at most that a is tuned on, evenly spread over the experiment."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


_RUNS = pa.schema({"run": pa.string()})


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
    mean over views. By rank share, the paper's, it is the share of population records z with ratio(x) / ratio(z) > gamma; no run
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
    """`View.scored` of every view, see `_read_views`, and what offline RMIA tuned: a, on the first of them.

    Scores are log ratios where gamma is None. Raises NotEnoughData where the target has none of the views, and where there are
    no population records for a gamma.
    """
    log_gamma = None if gamma is None else float(np.log(gamma))
    tuned = mode == "offline" and a is None
    stand_in = _stand_in(source, references) if tuned else ""
    views = _read_views(source, references, blocks, stand_in=stand_in, population=gamma is not None)
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


@dataclass(frozen=True)
class View:
    """One view (query) of all samples: which are of the population, and what each side says of them."""

    population: Flags
    target: Side
    stand_in: Side
    inside: Side
    outside: Side

    def scored(self, a: float | None, log_gamma: float | None) -> pl.DataFrame:
        """sample_id, member, score, log_ratio, n_in and n_out of the audit samples the target has this view of."""
        inside = self.inside.with_one(self.stand_in, self.stand_in.member)
        outside = self.outside.with_one(self.stand_in, ~self.stand_in.member)
        ratio = _log_ratio(self.target, inside, outside, self.population, a)
        score = ratio
        if log_gamma is not None:
            beaten, of = _beats(ratio, ratio[self.population], log_gamma)
            score = np.where(np.isnan(ratio), np.nan, beaten / of)
        audit = ~self.population & (self.target.n > 0)
        return pl.DataFrame(
            {
                "sample_id": np.flatnonzero(audit),
                "member": self.target.member[audit],
                "score": score[audit],
                "log_ratio": ratio[audit],
                "n_in": inside.n[audit],
                "n_out": outside.n[audit],
            }
        )


@dataclass(frozen=True)
class Side:
    """What one side says of each sample: its runs (0 for none), the log of their mean probability, membership."""

    n: npt.NDArray[np.int64]
    log_mean: Floats
    member: Flags

    def at(self, rows: npt.NDArray[np.intp]) -> Side:
        """The same of some samples."""
        return Side(self.n[rows], self.log_mean[rows], self.member[rows])

    def with_one(self, other: Side, chosen: Flags) -> Side:
        """The side with ``other``'s single run added where ``chosen``."""
        n = self.n + (chosen & (other.n > 0))
        grown = n > self.n
        log_mean = self.log_mean.copy()
        total = np.where(
            self.n[grown] > 0, self.log_mean[grown] + np.log(np.maximum(self.n[grown], 1)), -np.inf
        )
        log_mean[grown] = np.logaddexp(total, other.log_mean[grown]) - np.log(n[grown])
        return Side(n, log_mean, self.member)


def _read_views(
    source: Source,
    references: Sequence[Run],
    blocks: Sequence[tuple[int, int]],
    *,
    stand_in: str,
    population: bool,
) -> Iterator[View]:
    """Every view that the target has, compared with ``references``, in the order of their query numbers.

    Views whose numbers lie in one of the ``blocks``, first to last, are read together. ``stand_in`` names a reference
    that is kept apart from the others, or is empty. Where a ``population`` is needed, raises NotEnoughData for a view that has no record of it.
    """
    target = source.need_target_table("signals")
    others = [run for run in references if run.run != stand_in]
    chosen = [run for run in references if run.run == stand_in]
    held = source.rows(target, "signals", ["query"])["query"].unique().sort()
    for first, last in blocks:
        queries = held.filter(held.is_between(first, last)).to_list()
        if source.adds_up_in_sql:
            views = _views_in_sql(source, references, stand_in, (first, last))
        else:
            views = _views(source, others, chosen, queries)
        for view in views:
            if population:
                _need_population(view, source)
            yield view


def _views(
    source: Source, others: Sequence[Run], stand_in: Sequence[Run], queries: list[int]
) -> Iterator[View]:
    """The views of some queries by sums over run after run: the same bits each time, and a third of the time."""
    population = ~source.audited()
    sample_id = np.arange(len(population))
    attacked = list(answers_of(source, [source.need_target()], ["loss"], sample_id, queries))
    chosen = list(answers_of(source, stand_in, ["loss"], sample_id, queries))
    n, log_mean = mean_log_probability(source, others, sample_id, queries)
    for column in range(len(queries)):
        inside, outside = (
            Side(
                n[side, :, column].astype(np.int64),
                log_mean[side, :, column],
                np.full(len(sample_id), side == 0),
            )
            for side in (0, 1)
        )
        yield View(
            population,
            _side_of(attacked, column, len(sample_id)),
            _side_of(chosen, column, len(sample_id)),
            inside,
            outside,
        )


def _side_of(runs: Sequence[Answers], column: int, samples: int) -> Side:
    """What one run says, or none."""
    if not runs:
        return Side(np.zeros(samples, np.int64), np.full(samples, -np.inf), np.zeros(samples, bool))
    (answers,) = runs
    loss = answers.columns[0][:, column].astype(np.float64)
    there = ~np.isnan(loss)
    return Side(there.astype(np.int64), np.where(there, -loss, -np.inf), answers.member & there)


def _views_in_sql(
    source: Source, references: Sequence[Run], stand_in: str, block: tuple[int, int]
) -> Iterator[View]:
    """The views of a block of queries by sql/rmia.sql."""
    source.provide("compared_runs", table_of_rows([{"run": run.run} for run in references], _RUNS))
    about = {
        "target": source.target_name,
        "stand_in": stand_in,
        "first_query": block[0],
        "last_query": block[1],
    }
    rows = source.query("rmia", about)
    for query in rows.filter(pl.col("side") == "target")["query"].unique().sort():
        yield _view_of_rows(rows.filter(pl.col("query") == query), source)


def _view_of_rows(rows: pl.DataFrame, source: Source) -> View:
    """Rows of one query by side, in arrays as long as the experiment has samples."""
    samples = source.lake.experiment(source.experiment).samples
    population = np.zeros(samples, dtype=bool)
    population[rows["sample_id"].to_numpy()[rows["population"].to_numpy()]] = True
    sides = []
    for name in ("target", "stand-in", "in", "out"):
        part = rows.filter(pl.col("side") == name)
        ids = part["sample_id"].to_numpy()
        side = Side(np.zeros(samples, np.int64), np.full(samples, -np.inf), np.zeros(samples, bool))
        side.n[ids] = part["n"].to_numpy()
        side.log_mean[ids] = part["log_mean"].to_numpy()
        side.member[ids] = part["member"].to_numpy()
        sides.append(side)
    return View(population, *sides)


def _need_population(view: View, source: Source) -> None:
    if not (view.population & (view.target.n > 0) & (view.outside.n + view.stand_in.n > 0)).any():
        raise NotEnoughData(
            f"RMIA's share is of records that no run trained on, and run {source.target_name!r} of experiment "
            f"{source.experiment!r} and its shadow runs have signals of none; {set_aside(source.lake, source.experiment)}"
        )


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
    audit, population = np.flatnonzero(known & ~view.population), np.flatnonzero(known & view.population)
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
        ratio = _log_ratio(own, inside, outside, view.population[rows], float(a))
        if log_gamma is None:
            beaten = np.unique(ratio[: len(audit)], return_inverse=True)[1]
            most = int(beaten.max())
        else:
            beaten, most = _beats(ratio[: len(audit)], ratio[len(audit) :], log_gamma)
        areas.append(_auc(beaten, member, most))
    return float(GRID[int(np.argmax(np.round(areas, DECIMALS)))])


def _auc(count: npt.NDArray[np.int64], member: Flags, most: int) -> float:
    """AUC of scores that are counts from 0 to ``most``; ties count half."""
    members = np.bincount(count[member], minlength=most + 1)
    others = np.bincount(count[~member], minlength=most + 1)
    lower = np.cumsum(others) - others
    return float((members * (lower + others / 2)).sum() / (members.sum() * others.sum()))


def _log_ratio(of: Side, inside: Side, outside: Side, population: Flags, a: float | None) -> Floats:
    """log(p(x | model) / p(x)) of every sample; NaN where it is not known or the model's loss is not finite.

    ``a`` None is the online form, in which population records have out-runs only.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        if a is None:
            both = np.logaddexp(inside.log_mean, outside.log_mean) - np.log(2)
            expected = np.where(population, outside.log_mean, np.where(inside.n > 0, both, np.nan))
        else:
            expected = np.logaddexp(np.log1p(a) + outside.log_mean, np.log1p(-a)) - np.log(2)
        ratio = of.log_mean - expected
    known = (of.n > 0) & (outside.n > 0) & (population | np.isfinite(of.log_mean))
    return np.where(known, ratio, np.nan).round(DECIMALS)


def _beats(ratio: Floats, of_population: Floats, log_gamma: float) -> tuple[npt.NDArray[np.int64], int]:
    """How many population records each log ratio exceeds by more than log gamma, and how many there are.

    By one sort, in place of a matrix of samples x population records.
    """
    ranked = np.sort(of_population[~np.isnan(of_population)])
    return np.searchsorted(ranked, np.round(ratio - log_gamma, DECIMALS), "left"), len(ranked)
