"""One Parquet file on its way into the lake: hashed as it is written, removed when it is abandoned."""

from __future__ import annotations

import contextlib

import pyarrow as pa

from ..errors import InvalidInput, LosslakeError
from ..files.filesystem import Files
from ..format.manifest import DataFile, HashingFile
from ..format.schema import parquet_writer, row_group_size


class TableFile:
    """A Parquet file being written, on stable storage when closed.

    ``table`` names the lake's table it is part of; every `write` must bring exactly ``schema``. Rows are
    gathered until they fill a row group, so the arrays of a written table must not be changed afterwards.
    """

    def __init__(self, files: Files, table: str, path: str, schema: pa.Schema) -> None:
        self._table = table
        self._path = path
        self._schema = schema
        self._rows = 0
        self._waiting: list[pa.Table] = []
        self._stack = contextlib.ExitStack()
        self._hashing = HashingFile(self._stack.enter_context(files.create(path)))
        self._writer = self._stack.enter_context(parquet_writer(self._hashing, schema))

    def check(self, schema: pa.Schema) -> None:
        """Raises InvalidInput for columns that are not those of the file."""
        if schema != self._schema:
            changed = [f"{field.name} {field.type}" for field in schema if field not in self._schema]
            raise InvalidInput(
                f"the columns of the {self._table} changed from one batch of rows to the next: now "
                f"{', '.join(changed) or 'one is missing'}; give every batch the same ones"
            )

    def write(self, table: pa.Table) -> None:
        """Add rows. Raises InvalidInput when their columns are not those of the file."""
        self.check(table.schema)
        if not len(table):
            return
        self._waiting.append(table)
        rows = sum(len(part) for part in self._waiting)
        if rows >= row_group_size(self._table, sum(part.nbytes for part in self._waiting) // rows):
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            rows = pa.concat_tables(self._waiting)
            self._waiting = []
            size = row_group_size(self._table, rows.nbytes // len(rows))
            self._writer.write_table(rows, row_group_size=size)
            self._rows += len(rows)

    def close(self) -> DataFile:
        """Finish the file and say what a manifest must know of it."""
        self._flush()
        self._stack.close()
        return DataFile(self._table, self._path, self._rows, self._hashing.bytes, self._hashing.sha256())

    def abort(self) -> None:
        """Remove the file, whatever state it is in."""
        self._waiting = []
        # Ending the Parquet file may fail where writing it did: on a full disk.
        with (
            contextlib.suppress(_Abandoned, LosslakeError, OSError, pa.ArrowException, ValueError),
            self._stack,
        ):
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
