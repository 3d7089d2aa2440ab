"""What RMIA compares: of every view of every sample, what the target says, and what the runs with it and without it say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ...store.errors import NotEnoughData
from ...store.format.records import Run
from ...store.format.tables import table_of_rows
from ..remedies import set_aside
from ..source import Source
from .mean_probability import mean_log_probability
from .run_answers import Answers, answers_of

DECIMALS = 12
"""Log ratios are rounded to so many: losses have seven digits, and the order in which an engine sums must not part ties."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_RUNS = pa.schema({"run": pa.string()})


@dataclass(frozen=True)
class View:
    """One view (query) of all samples: which are audited, which are of the population that they are compared with (canaries' candidates are
    neither), and what each side says of them."""

    audited: Flags
    population: Flags
    target: Side
    stand_in: Side
    inside: Side
    outside: Side

    def scored(self, a: float | None, log_gamma: float | None) -> pl.DataFrame:
        """sample_id, member, score, log_ratio, n_in and n_out of the audit samples the target has this view of."""
        inside = self.inside.with_one(self.stand_in, self.stand_in.member)
        outside = self.outside.with_one(self.stand_in, ~self.stand_in.member)
        ratio = log_ratio(self.target, inside, outside, self.population, a)
        score = ratio
        if log_gamma is not None:
            beaten, of = beats(ratio, ratio[self.population], log_gamma)
            score = np.where(np.isnan(ratio), np.nan, beaten / of)
        audit = self.audited & (self.target.n > 0)
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


def read_views(
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
    audited, population = source.audited(), source.compared_population()
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
            audited,
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
    audited, population = np.zeros((2, samples), dtype=bool)
    audited[rows["sample_id"].to_numpy()[rows["audited"].to_numpy()]] = True
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
    return View(audited, population, *sides)


def _need_population(view: View, source: Source) -> None:
    if not (view.population & (view.target.n > 0) & (view.outside.n + view.stand_in.n > 0)).any():
        raise NotEnoughData(
            f"RMIA's share is of records that no run trained on, and run {source.target_name!r} of experiment "
            f"{source.experiment!r} and its shadow runs have signals of none; {set_aside(source.lake, source.experiment)}"
        )


def log_ratio(of: Side, inside: Side, outside: Side, population: Flags, a: float | None) -> Floats:
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


def beats(ratio: Floats, of_population: Floats, log_gamma: float) -> tuple[npt.NDArray[np.int64], int]:
    """How many population records each log ratio exceeds by more than log gamma, and how many there are.

    By one sort, in place of a matrix of samples x population records.
    """
    ranked = np.sort(of_population[~np.isnan(of_population)])
    return np.searchsorted(ranked, np.round(ratio - log_gamma, DECIMALS), "left"), len(ranked)
