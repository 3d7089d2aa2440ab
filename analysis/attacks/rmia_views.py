"""What RMIA compares: how likely each side of runs finds a sample, view by view, and the ratios of that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ...store.errors import NotEnoughData
from ...store.format.records import Run
from ..source import Source

DECIMALS = 12
"""Log ratios are rounded to so many: losses have seven digits, and the order in which an engine sums must not part ties."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


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


@dataclass(frozen=True)
class View:
    """One view (query) of all samples: which are of the population, and what each side says of them."""

    population: Flags
    target: Side
    stand_in: Side
    inside: Side
    outside: Side

    def scored(self, a: float | None, log_gamma: float) -> pl.DataFrame:
        """sample_id, member, score, log_ratio, n_in and n_out of the audit samples the target has this view of."""
        inside = self.inside.with_one(self.stand_in, self.stand_in.member)
        outside = self.outside.with_one(self.stand_in, ~self.stand_in.member)
        ratio = log_ratio(self.target, inside, outside, self.population, a)
        beaten, of = beats(ratio, ratio[self.population], log_gamma)
        audit = ~self.population & (self.target.n > 0)
        return pl.DataFrame(
            {
                "sample_id": np.flatnonzero(audit),
                "member": self.target.member[audit],
                "score": np.where(np.isnan(ratio), np.nan, beaten / of)[audit],
                "log_ratio": ratio[audit],
                "n_in": inside.n[audit],
                "n_out": outside.n[audit],
            }
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


def read_views(
    source: Source, references: Sequence[Run], blocks: Sequence[tuple[int, int]], *, stand_in: str
) -> Iterator[View]:
    """Every view that the target has, compared with ``references``, in the order of their query numbers.

    Views whose numbers lie in one of the ``blocks``, first to last, are read together. ``stand_in`` names a reference
    that is kept apart from the others, or is empty. Raises NotEnoughData where no record of a view is in no training set.
    """
    target = source.need_target_table("signals")
    source.provide("compared_runs", pa.table({"run": pa.array([run.run for run in references], pa.string())}))
    for first, last in blocks:
        rows = source.query(
            "rmia",
            {"target": target.run, "stand_in": stand_in, "first_query": first, "last_query": last},
        )
        asked = rows.filter(pl.col("side") == "target")["query"].unique().sort()
        alone = len(asked) == 1 and rows["query"].n_unique() == 1
        for query in asked:
            yield _view(rows if alone else rows.filter(pl.col("query") == query), source)


def _view(rows: pl.DataFrame, source: Source) -> View:
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
    view = View(population, *sides)
    if not (population & (view.target.n > 0) & (view.outside.n + view.stand_in.n > 0)).any():
        raise NotEnoughData(
            f"RMIA compares with records that no run trained on, and run {source.target_name!r} of experiment "
            f"{source.experiment!r} and its shadow runs have signals of none; set some aside with --population when "
            "collecting"
        )
    return view
