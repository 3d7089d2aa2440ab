"""Small tables in memory: what lies in very many small files is read once by a command that asks for it again and again.

Opening a file takes the time of reading some ten thousand rows: 2,000 runs of 100 samples take 0.2 s of processor at each
query, and the rows of all are 8 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ..format.manifest import DataFile
from ..format.records import Run
from .views import COLUMNS

if TYPE_CHECKING:
    from ..read.catalogue import Catalogue

FILES = 64
"""Files from which on a table is held."""

ROWS = 2_000_000
"""Rows up to which it is: of signals some 100 MB."""

BYTES = 64 << 20
"""Bytes of its files up to which it is: lists of logits and features count, too."""

_HOLD = {
    table: f"""
    create table {table}_held as from memory.main.{table};
    begin transaction;
    alter view {table} rename to {table}_in_files;
    alter table {table}_held rename to {table};
    commit;
    """
    for table in ("signals", "traces")
}


@dataclass
class _Kept:
    """What was read of ``paths`` together: rows of one file after those of the other, which begin at ``starts`` (files + 1,)."""

    paths: dict[str, int]
    starts: npt.NDArray[np.int64]
    frame: pl.DataFrame


_kept: WeakKeyDictionary[Catalogue, _Kept] = WeakKeyDictionary()
"""Of each lake what was read last. Files never change under their names, so it is never old."""


def hold(connection: duckdb.DuckDBPyConnection, runs: Iterable[Run], table: str) -> None:
    """Let a connection of `connect`, which shows ``runs``, answer from memory what is asked of a table, if that is small enough."""
    if worth_holding([file for run in runs for file in run.files if file.table == table]):
        connection.execute(_HOLD[table])


def worth_holding(files: Sequence[DataFile]) -> bool:
    """Whether files are many and what they hold is little."""
    return (
        len({file.path for file in files}) >= FILES
        and sum(file.rows for file in files) <= ROWS
        and sum(file.bytes for file in files) <= BYTES
    )


def rows_kept(
    lake: Catalogue,
    files: Sequence[DataFile],
    columns: Sequence[str],
    read: Callable[[Sequence[str], list[str]], pl.DataFrame],
) -> pl.DataFrame:
    """Columns of the rows of files, none shared, in their order.

    The first call reads all columns of one number a row, as opening the files takes longer. ``read`` is asked for what was not read already when these files, or more in the same order, were asked for before.
    """
    known = _kept.get(lake)
    places = [] if known is None else [known.paths.get(file.path, -1) for file in files]
    if known is None or min(places) < 0 or np.any(np.diff(places) <= 0):
        paths = {file.path: place for place, file in enumerate(files)}
        starts = np.cumsum([0, *(file.rows for file in files)])
        plain = [field.name for field in COLUMNS[files[0].table] if not pa.types.is_list(field.type)]
        known = _Kept(paths, starts, read(list(paths), list(dict.fromkeys((*plain, *columns)))))
        places = list(range(len(files)))
    missing = [name for name in columns if name not in known.frame.columns]
    if missing:
        known.frame = known.frame.hstack(read(list(known.paths), missing))
    _kept[lake] = known
    chosen = known.frame.select(columns)
    if len(places) == len(known.paths):
        return chosen
    ends = np.flatnonzero(np.diff(places, append=-1) != 1)
    firsts = [0, *(ends[:-1] + 1)]
    spans = [
        (known.starts[places[first]], known.starts[places[end] + 1])
        for first, end in zip(firsts, ends, strict=True)
    ]
    return pl.concat([chosen.slice(start, end - start) for start, end in spans])
