"""What the runs with a record say of it, and what those without it say: their number, mean and spread, summed run after run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ...store.format.records import Run
from ...store.format.schema import ORIGINAL
from ..source import Source
from .run_answers import Answers, answers_of

_BLOCK = 1 << 14
"""Cells looked at together: a dozen arrays of 128 kB, which a processor's cache holds."""

AT_ONCE = 1 << 19
"""Samples that an engine is asked of at once, where each row of its answer is about one: it holds several times what it is given."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass
class Fit:
    """Runs counted, mean and sum of squared residuals of one side, in or out: arrays (..., samples, queries)."""

    n: npt.NDArray[np.integer]
    mean: Floats
    squares: Floats

    def variance(self) -> Floats:
        """Each sample's own, divided by n."""
        return self.squares / np.maximum(self.n, 1)


Fits = tuple[Fit, Fit]


def fits_of(
    source: Source,
    runs: Sequence[Run],
    column: str,
    sample_id: npt.NDArray[np.integer],
    queries: Sequence[int],
    *,
    of: Callable[[Floats], Floats] | None = None,
) -> Fits:
    """Fits (in, out) to a column of signals, or to what ``of`` makes of it, of samples (ascending) and queries.

    What is not finite, and what the target is not compared with, is left out. 40 bytes a sample and query.
    """
    sums = Sums.of((len(sample_id), len(queries)))
    sums.add_all(answers_of(source, runs, [column], sample_id, queries), of)
    return sums.fits()


@dataclass(eq=False)
class Sums:
    """Sums of both sides, in and out: arrays (2, cells), from each side's ``first`` value of a cell.

    Sums of squares about a value of the side itself cancel no more digits than there are runs, whatever the mean; values that
    are equal have no spread at all.
    """

    shape: tuple[int, int]
    n: npt.NDArray[np.int32]
    first: Floats
    total: Floats
    squares: Floats

    @classmethod
    def of(cls, shape: tuple[int, int]) -> Sums:
        """Of no run yet, (samples, queries)."""
        both = (2, shape[0] * shape[1])
        return cls(shape, np.zeros(both, np.int32), *(np.zeros(both) for _ in range(3)))

    def add_all(self, answers: Iterable[Answers], of: Callable[[Floats], Floats] | None = None) -> None:
        """Take in the first column of each run's answers, by membership."""
        for found in answers:
            self.add(found.columns[0], found.member, of)

    def add(
        self,
        values: npt.NDArray[np.floating],
        inside: Flags,
        of: Callable[[Floats], Floats] | None = None,
    ) -> None:
        """Take in one run's values (samples, queries): to the first side where ``inside`` (samples,), else to the second."""
        flat = values.reshape(-1)
        sides = inside if self.shape[1] == 1 else np.repeat(inside, self.shape[1])
        for start in range(0, len(flat), _BLOCK):
            part = slice(start, start + _BLOCK)
            value = flat[part].astype(np.float64)
            self._add(part, value if of is None else of(value), sides[part])

    def _add(self, part: slice, value: Floats, inside: Flags) -> None:
        outside = ~inside
        seen = np.isfinite(value)
        whole = bool(seen.all())
        if not whole:
            inside, outside = inside & seen, outside & seen
            value = np.where(seen, value, 0.0)
        for side, used in enumerate((inside, outside)):
            n = self.n[side, part]
            if not n.all():
                new = used & (n == 0)
                self.first[side, part][new] = value[new]
            n += used
        away = value - np.where(inside, self.first[0, part], self.first[1, part])
        if not whole:
            away[~seen] = 0.0
        squared = away * away
        for of_all, sums in ((away, self.total), (squared, self.squares)):
            own = of_all * inside
            sums[0, part] += own
            sums[1, part] += of_all - own  # the other's alone: one of the two is 0

    def fits(self) -> Fits:
        """Both sides; mean 0 where a side has no run."""
        away = self.total / np.maximum(self.n, 1)
        # In one array each: of millions of records each is as large as all that the engine takes.
        squares = self.total * away
        np.subtract(self.squares, squares, out=squares)
        np.maximum(squares, 0.0, out=squares)
        squares[self.n <= 1] = 0.0
        mean = np.add(self.first, away, out=away)
        inside, outside = (
            Fit(*(array[side].reshape(self.shape) for array in (self.n, mean, squares))) for side in (0, 1)
        )
        return inside, outside


def sides_in_numpy(
    source: Source, runs: Sequence[Run], column: str, of: Callable[[Floats], Floats] | None = None
) -> dict[str, pa.Table]:
    """The table ``sides`` of queries in sql/, of records as they are; none for an engine that has the rows on many machines.

    What SQL would group is summed run after run: the same bits each time, and in a third of the time.
    """
    if source.adds_up_in_sql:
        return {}
    sample_id = np.flatnonzero(source.audited())
    return {"sides": as_table(sample_id, fits_of(source, runs, column, sample_id, [ORIGINAL], of=of))}


def query_in_parts(
    source: Source,
    name: str,
    parameters: Mapping[str, Any],
    runs: Sequence[Run],
    column: str,
    of: Callable[[Floats], Floats] | None = None,
) -> pl.DataFrame:
    """`Source.query` of sql/NAME.sql with `sides_in_numpy`, where each row follows from the ``sides`` of one of the samples ``asked`` alone.

    So many samples are asked at a time as an engine takes little memory for: it holds what it is given several times.
    """
    if source.adds_up_in_sql:
        return source.query(name, parameters)
    sample_id = np.flatnonzero(source.audited())
    fits = fits_of(source, runs, column, sample_id, [ORIGINAL], of=of)
    parts = []
    for start in range(0, max(len(sample_id), 1), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        inside, outside = (Fit(fit.n[part], fit.mean[part], fit.squares[part]) for fit in fits)
        sides = as_table(sample_id[part], (inside, outside))
        parts.append(source.query(name, parameters, {"sides": sides, "asked": sides.select(["sample_id"])}))
    return one_below_another(parts)


def one_below_another(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """Frames below one another, in one piece; column by column, which the parts let go of."""
    if len(parts) == 1:
        return parts[0]
    names = parts[0].columns
    return pl.DataFrame(
        [pl.concat([part.drop_in_place(name) for part in parts], rechunk=True) for name in names]
    )


def as_table(sample_id: npt.NDArray[np.integer], fits: Fits) -> pa.Table:
    """Fits of one query as the queries in sql/ have them: a row a sample, NULL where a side has no run.

    Columns sample_id, then of each side n, mean, var (divided by n), sd, and right, which is their whole-numbered sum.
    """
    columns: dict[str, npt.NDArray[np.generic]] = {"sample_id": sample_id.astype(np.int32)}
    for side, fit in zip(("in", "out"), fits, strict=True):
        n, variance = fit.n[:, 0].astype(np.int64), fit.variance()[:, 0]
        columns |= {
            f"n_{side}": n,
            f"mean_{side}": fit.mean[:, 0],
            f"var_{side}": variance,
            f"sd_{side}": np.sqrt(variance),
            f"right_{side}": np.rint(fit.mean[:, 0] * n).astype(np.int64),
        }
    measured = {
        side: [pl.col(f"{what}_{side}") for what in ("mean", "var", "sd", "right")] for side in ("in", "out")
    }
    frame = pl.DataFrame(columns)
    return frame.with_columns(
        pl.when(pl.col(f"n_{side}") > 0).then(of_side)
        for side, all_of in measured.items()
        for of_side in all_of
    ).to_arrow()
