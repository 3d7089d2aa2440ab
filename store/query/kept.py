"""What was read once and may be read again, kept while it fits into so many bytes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from ..format.records import Run
from .held import plain_columns, worth_holding
from .scan import rows_of_each

if TYPE_CHECKING:
    from ..read.catalogue import Catalogue

_ALIKE = ("sample_id", "query")
"""Columns that runs nearly always have alike: kept once for all of them."""


@dataclass(eq=False)
class Kept:
    """Values by key, of kinds that fit into ``room`` bytes as a whole: half of what is read in turn would be of no use."""

    room: float
    _most: float = field(init=False, repr=False)
    _allowed: dict[Hashable, bool] = field(default_factory=dict, repr=False)
    _values: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._most = self.room

    def raise_to(self, most: float) -> None:
        """Let ``most`` bytes be kept, where it were fewer. What was found not to fit is looked at again."""
        if most > self._most:
            self.room, self._most = self.room + most - self._most, most
            self._allowed = {kind: True for kind, allowed in self._allowed.items() if allowed}

    def allows(self, kind: Hashable, size: float) -> bool:
        """Whether values of this kind are kept, which come to ``size`` bytes altogether; found once a kind."""
        if kind not in self._allowed:
            self._allowed[kind] = size <= self.room
            self.room -= size if self._allowed[kind] else 0
        return self._allowed[kind]

    def find(self, key: Hashable) -> Any | None:
        """What is kept under a key, or None."""
        return self._values.get(key)

    def keep(self, key: Hashable, value: Any) -> None:
        """Keep a value of a kind that is allowed."""
        self._values[key] = value


def place_of(run: Run, table: str) -> tuple[tuple[str, int, int], ...]:
    """Where a run's rows lie: under a name that is never given to other rows."""
    return tuple(
        (file.path, file.shared.first_row if file.shared else 0, file.rows)
        for file in run.files
        if file.table == table
    )


def rows_by_sum(run: Run) -> tuple[str, ...]:
    """What a run's signals hold: the sums of rows stay when they are laid out anew."""
    return (run.experiment, run.run, *(file.sha256 for file in run.files if file.table == "signals"))


def kept_rows_of_each(
    kept: Kept, lake: Catalogue, runs: Sequence[Run], table: str, columns: Sequence[str], every: int
) -> list[pl.DataFrame]:
    """`rows_of_each`, of which nothing is read that is kept; ``every`` is how many rows all runs have in the table.

    Of small tables in many files all columns of one number a row are read and kept at once, as opening the files takes longer.
    Raises CorruptLake for a damaged file.
    """
    places = [place_of(run, table) for run in runs]
    found = [{name: kept.find((table, name, place)) for name in columns} for place in places]
    lacking = [row for row, known in enumerate(found) if any(column is None for column in known.values())]
    if lacking:
        wanted = [name for name in columns if any(found[row][name] is None for row in lacking)]
        chosen = [runs[row] for row in lacking]
        if worth_holding([file for run in chosen for file in run.files if file.table == table]):
            wanted = list(dict.fromkeys((*wanted, *plain_columns(table))))
        frames = rows_of_each(lake, chosen, table, wanted)
        for row, frame in zip(lacking, frames, strict=True):
            for name in wanted:
                if found[row].get(name) is None:
                    found[row][name] = _keep(kept, (table, name, places[row]), frame[name], every)
    return [pl.DataFrame([known[name] for name in columns]) for known in found]


def _keep(kept: Kept, key: tuple[str, str, Hashable], column: pl.Series, every: int) -> pl.Series:
    table, name, _ = key
    if name in _ALIKE:
        first = kept.find((table, name))
        if first is not None and first.equals(column):
            column = first
        elif first is None and kept.allows((table, name), column.estimated_size()):
            kept.keep((table, name), column)
        elif not kept.allows((table, name, "each"), _size(column, every)):
            return column
    elif not kept.allows((table, name), _size(column, every)):
        return column
    kept.keep(key, column)
    return column


def _size(column: pl.Series, every: int) -> int:
    return int(column.estimated_size() / max(len(column), 1) * every)
