"""What many runs answer to each record: run after run, in the order of sample ids and queries.

Runs nearly always hold the same samples in the same order, so that a run's columns are its answers as they lie; an engine would
look up where each of their rows belongs. The order of the runs is the order of what is summed over them: the same lake
gives the same bits, however many threads read it and however its files lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.format.records import Run
from ..source import Source

_ROWS = 1 << 22
"""Rows read at a time, 13 bytes each and more: runs may hold many range queries that are not asked for."""

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Answers:
    """What one run answers: ``columns`` (samples, queries) each, NaN where it has none; ``member`` (samples,)."""

    columns: tuple[npt.NDArray[Any], ...]
    member: Flags

    def member_of_each(self) -> Flags:
        """Membership of each cell of a column, (samples x queries,)."""
        queries = self.columns[0].shape[1]
        return self.member if queries == 1 else np.repeat(self.member, queries)


def answers_of(
    source: Source,
    runs: Sequence[Run],
    columns: Sequence[str],
    sample_id: npt.NDArray[np.integer],
    queries: Sequence[int],
    *,
    passing_over: bool = True,
    within: range | None = None,
) -> Iterator[Answers]:
    """The ``columns`` of signals of each run on samples (ascending) and queries; what is yes or no comes as 1 or 0.

    Arrays may be the files' own: not to be changed. What the target is not compared with, cell by cell, is NaN, unless
    it is not to be passed over. Where all samples lie ``within`` a part of the experiment's, little else is read.
    """
    layout = Layout(sample_id, queries)
    gone, where = source.passed_over(runs, sample_id) if passing_over else 2 * (np.zeros(0, np.intp),)
    frames = _frames(source, runs, ["sample_id", "query", "member", *columns], within)
    for row, frame in enumerate(frames):
        found = layout.lay_out(frame, columns)
        cells = where[gone == row] if len(gone) else gone
        if len(cells):
            kept = tuple(values.copy() for values in found.columns)
            for values in kept:
                values[cells] = np.nan
            found = Answers(kept, found.member)
        yield found


def _frames(
    source: Source, runs: Sequence[Run], columns: list[str], within: range | None
) -> Iterator[pl.DataFrame]:
    """The rows of each run; runs are read together as long as they are few rows."""
    if within is not None:
        for run in runs:
            yield source.rows_between(run, "signals", columns, within)
        return
    rows = [sum(file.rows for file in run.files if file.table == "signals") for run in runs]
    at_once = max(1, _ROWS // max(1, max(rows, default=1)))
    for start in range(0, len(runs), at_once):
        yield from source.rows_of_each(runs[start : start + at_once], "signals", columns)


@dataclass(eq=False)
class Layout:
    """Where the rows of runs belong among ``sample_id`` (ascending) and ``queries``."""

    sample_id: npt.NDArray[np.integer]
    queries: Sequence[int]
    _order: tuple[Any, Any] | None = field(default=None, init=False)
    _span: slice | None = field(default=None, init=False)
    _rows: npt.NDArray[np.intp] = field(init=False)
    _cells: npt.NDArray[np.intp] = field(init=False)

    def lay_out(self, frame: pl.DataFrame, columns: Sequence[str]) -> Answers:
        """A run's answers from its rows (sample_id, query, member, columns), which may be of other samples and queries, too."""
        ids, numbers = frame.get_column("sample_id").to_numpy(), frame.get_column("query").to_numpy()
        if self._order is None or not (
            np.array_equal(ids, self._order[0]) and np.array_equal(numbers, self._order[1])
        ):
            self._order = (ids, numbers)
            self._find(ids, numbers)
        shape = (len(self.sample_id), len(self.queries))
        member = frame.get_column("member").to_numpy()
        if self._span is not None:
            found = [_values(frame.get_column(name))[self._span].reshape(shape) for name in columns]
            return Answers(tuple(found), member[self._span][:: max(1, shape[1])])
        laid = []
        for name in columns:
            values = np.full(shape, np.nan, np.float32)
            values.ravel()[self._cells] = _values(frame.get_column(name))[self._rows]
            laid.append(values)
        trained = np.zeros(shape[0], dtype=bool)
        trained[self._cells // max(1, shape[1])] = member[self._rows]
        return Answers(tuple(laid), trained)

    def _find(self, ids: npt.NDArray[np.integer], numbers: npt.NDArray[np.integer]) -> None:
        place = np.full(max(int(ids.max(initial=-1)), int(self.sample_id.max(initial=-1))) + 1, -1)
        place[self.sample_id] = np.arange(len(self.sample_id))
        column = np.full(max(self.queries, default=0) + 2, -1)
        column[list(self.queries)] = np.arange(len(self.queries))
        # Queries beyond those asked for fall on the last entry, which is none.
        where, which = place[ids], column[np.minimum(numbers, len(column) - 1)]
        self._rows = np.flatnonzero((where >= 0) & (which >= 0))
        self._cells = where[self._rows] * len(self.queries) + which[self._rows]
        cells = len(self.sample_id) * len(self.queries)
        first = int(self._rows[0]) if cells and len(self._rows) == cells else -1
        together = first >= 0 and int(self._rows[-1]) - first + 1 == cells
        in_order = together and np.array_equal(self._cells, np.arange(cells))
        self._span = slice(first, first + cells) if in_order else None


def _values(column: pl.Series) -> npt.NDArray[Any]:
    """A column as floats; null is NaN."""
    return (column.cast(pl.Float32) if column.dtype == pl.Boolean else column).to_numpy()


def stacked(
    answers: Iterable[Answers], runs: int, shape: tuple[int, int]
) -> tuple[npt.NDArray[np.float32], Flags]:
    """The first column (runs, samples, queries) and membership (runs, samples) of all of them in memory."""
    values, member = np.full((runs, *shape), np.nan, np.float32), np.zeros((runs, shape[0]), dtype=bool)
    for row, found in enumerate(answers):
        values[row], member[row] = found.columns[0], found.member
    return values, member
