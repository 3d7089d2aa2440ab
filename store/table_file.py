"""One Parquet file on its way into the lake: hashed as it is written, removed when it is abandoned."""

from __future__ import annotations

import contextlib

import pyarrow as pa

from .errors import InvalidInput
from .filesystem import Files
from .manifest import DataFile, HashingFile
from .schema import ROW_GROUP, TRACE_ROW_GROUP, parquet_writer


class TableFile:
    """A Parquet file being written, on stable storage when closed.

    ``table`` names the lake's table it is part of; every `write` must bring exactly ``schema``.
    """

    def __init__(self, files: Files, table: str, path: str, schema: pa.Schema) -> None:
        self._table = table
        self._path = path
        self._schema = schema
        self._rows = 0
        self._stack = contextlib.ExitStack()
        self._hashing = HashingFile(self._stack.enter_context(files.create(path)))
        self._writer = self._stack.enter_context(parquet_writer(self._hashing, schema))

    def write(self, table: pa.Table) -> None:
        """Add rows. Raises InvalidInput when their columns are not those of the file."""
        if table.schema != self._schema:
            raise InvalidInput(f"rows of {self._table} changed their columns: {table.schema} after {self._schema}")
        if len(table):
            self._writer.write_table(table, row_group_size=TRACE_ROW_GROUP if self._table == "traces" else ROW_GROUP)
            self._rows += len(table)

    def close(self) -> DataFile:
        """Finish the file and say what a manifest must know of it."""
        self._stack.close()
        return DataFile(self._table, self._path, self._rows, self._hashing.bytes, self._hashing.sha256())

    def abort(self) -> None:
        """Remove the file."""
        with contextlib.suppress(_Abandoned), self._stack:
            raise _Abandoned


class _Abandoned(Exception):
    """Unwinds an open file so that it is removed."""


def write_table(files: Files, table: str, path: str, rows: pa.Table) -> DataFile:
    """Write a whole table as one data file and say what a manifest must know of it."""
    file = TableFile(files, table, path, rows.schema)
    try:
        file.write(rows)
        return file.close()
    except BaseException:
        file.abort()
        raise
