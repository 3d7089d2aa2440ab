"""Small tables in memory: what lies in very many small files is read once by a command that asks for it again and again.

Opening a file takes the time of reading some ten thousand rows: 2,000 runs of 100 samples take 0.2 s of processor at each
query, and the rows of all are 8 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import duckdb
import pyarrow as pa

from ..format.manifest import DataFile
from ..format.records import Run
from ..format.schema import TOKENS
from .views import COLUMNS

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


def plain_columns(table: str) -> list[str]:
    """The columns of one number a row, which are read together where opening the files takes longer than reading them.

    Those of tokens are not among them: few files have any.
    """
    return [
        field.name
        for field in COLUMNS[table]
        if not pa.types.is_list(field.type) and field.name not in TOKENS
    ]
