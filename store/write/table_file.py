"""Parquet files of the lake: on their way into it, and without the rows of some samples.

A file is hashed as it is written, and removed when it is abandoned. None ever changes: where samples are forgotten it is
copied without their rows.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import CorruptLake, InvalidInput, LosslakeError
from ..files.filesystem import Files
from ..format.manifest import DataFile, HashingFile
from ..format.schema import RUN, parquet_writer, row_group_size
from ..format.tables import with_run
from ..read.data_rows import open_rows

_ROWS_WORTH_THREADS = 100_000


class TableFile:
    """A Parquet file being written, on stable storage when closed; ``later``: when `Files.sync` is told of it.

    ``table`` names the lake's table it is part of; every `write` must bring exactly ``schema``. Rows are
    gathered until they fill a row group, so the arrays of a written table must not be changed afterwards.
    """

    def __init__(
        self, files: Files, table: str, path: str, schema: pa.Schema, *, later: bool = False
    ) -> None:
        self._table = table
        self._path = path
        self._schema = schema
        self._rows = 0
        self._waiting: list[pa.Table] = []
        self._stack = contextlib.ExitStack()
        self._hashing = HashingFile(self._stack.enter_context(files.create(path, later=later)))
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
        with contextlib.suppress(LosslakeError, OSError, pa.ArrowException, ValueError), self._stack:
            raise LosslakeError  # so that the open file is removed


def write_table(files: Files, table: str, path: str, rows: pa.Table) -> DataFile:
    """Write a whole table as one data file and say what a manifest must know of it."""
    return write_parts(files, table, path, rows.schema, [rows])


def write_parts(
    files: Files,
    table: str,
    path: str,
    schema: pa.Schema,
    parts: Iterable[pa.Table],
    *,
    later: bool = False,
) -> DataFile:
    """The same of a table that comes in parts. Nothing stays where one of them cannot be had."""
    file = TableFile(files, table, path, schema, later=later)
    try:
        for part in parts:
            file.write(part)
        return file.close()
    except BaseException:
        file.abort()
        raise


def lost_files(files: Files, written: Iterable[DataFile]) -> list[str]:
    """Which files are not there any more, or not with as many bytes as were written."""
    lost = []
    for file in written:
        try:
            if files.size(file.path) == (file.shared or file).bytes:
                continue
        except CorruptLake:
            pass
        lost.append(file.path)
    return lost


def check_there(files: Files, written: Iterable[DataFile], what: str) -> None:
    """Raises CorruptLake where files that a manifest is to list, or lists from now on, are lost: ``what`` does not hold then.

    Call it before a manifest is put, and after: a collection of garbage had not seen it.
    """
    lost = lost_files(files, written)
    if lost:
        raise CorruptLake(
            f"{what}: {lost[0]}"
            + (f" and {len(lost) - 1} more of its files are" if len(lost) > 1 else " is")
            + " missing or not whole; something removed what a writer at work had written, such as 'losslake lake gc' on a "
            "machine that could not see this one; do it again"
        )


def copy_without(
    files: Files, file: DataFile, samples: Collection[int], path: str, *, later: bool = False
) -> DataFile:
    """Write the rows of a file of one run's, or of an experiment's, to ``path`` without those of ``samples``.

    ``later``: it is on stable storage when `Files.sync` is told of it, and not before.
    """
    with open_rows(files, file) as (parquet, groups):
        kept = (rows_without(read_group(parquet, group), samples) for group in groups)
        return write_parts(files, file.table, path, parquet.schema_arrow, kept, later=later)


def copy_as(files: Files, file: DataFile, run: str, path: str) -> DataFile:
    """Write the rows of a file of one run's to ``path`` as those of another ``run``."""
    with open_rows(files, file) as (parquet, groups):
        rows = (with_run(read_group(parquet, group).drop_columns([RUN.name]), run) for group in groups)
        return write_parts(files, file.table, path, parquet.schema_arrow, rows)


def rows_without(rows: pa.Table, samples: Collection[int]) -> pa.Table:
    """A table less the rows of ``samples``."""
    if not samples:
        return rows
    import pyarrow.compute as pc

    wanted = pa.array(sorted(samples), pa.int32())
    return rows.filter(pc.invert(pc.is_in(rows["sample_id"], wanted)))


def sha_without(file: DataFile, samples: Collection[int]) -> str:
    """What stands for the rows of a shared file's part once ``samples`` are gone from it."""
    text = f"{file.sha256} without {','.join(map(str, sorted(samples)))}"
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Held:
    """How many ``rows`` a file has of some samples, and which of them are ``members`` there."""

    rows: int
    members: frozenset[int]


class Holdings:
    """What data files hold of ``samples``. Each file is looked into once, however many runs share it: none ever changes."""

    def __init__(self, files: Files, samples: Collection[int]) -> None:
        self._files = files
        self._wanted = pa.array(sorted(samples), pa.int32())
        self._groups: dict[str, dict[int, Held]] = {}
        self._schemas: dict[str, pa.Schema] = {}
        self._alike: set[pa.Schema] = set()

    def of(self, file: DataFile) -> Held:
        """What a listed file has; of a shared one in its owner's part. Raises CorruptLake as `open_rows`."""
        if file.path not in self._groups:
            self._groups[file.path] = self._look(file)
        groups = self._groups[file.path]
        own = set(groups)
        if file.shared is not None:
            first = file.shared.first_group
            own &= set(range(first, first + file.shared.groups))
        return Held(
            sum(groups[group].rows for group in own),
            frozenset().union(*(groups[group].members for group in own)),
        )

    def schema_of(self, file: DataFile) -> pa.Schema:
        """The columns of a file that was looked into."""
        return self._schemas[file.path]

    def nothing_in(self, file: DataFile) -> None:
        """Of a file that was written without the samples: it need not be looked into."""
        self._groups[file.path] = {}

    def _look(self, file: DataFile) -> dict[int, Held]:
        """What each row group of a file has, where it has something."""
        import pyarrow.compute as pc

        found = {}
        with open_rows(self._files, file) as (parquet, _):
            schema = parquet.schema_arrow
            # The same for all runs of a fleet, and a kilobyte of each.
            self._schemas[file.path] = next((one for one in self._alike if one.equals(schema)), schema)
            self._alike.add(self._schemas[file.path])
            names = [name for name in ("sample_id", "member") if name in schema.names]
            for group in range(parquet.num_row_groups):
                if _may_hold(parquet, group, self._wanted):
                    part = read_group(parquet, group, names)
                    part = part.filter(pc.is_in(part["sample_id"], self._wanted))
                    members = part.filter(part["member"])["sample_id"].to_pylist() if len(names) > 1 else []
                    if len(part):
                        found[group] = Held(len(part), frozenset(members))
        return found


def read_group(parquet: pq.ParquetFile, group: int, columns: list[str] | None = None) -> pa.Table:
    """A row group, of some columns or all."""
    # Threads take longer to begin than few rows take to be read.
    threads = parquet.metadata.row_group(group).num_rows > _ROWS_WORTH_THREADS
    return parquet.read_row_group(group, columns=columns, use_threads=threads)


def _may_hold(parquet: pq.ParquetFile, group: int, wanted: pa.Array) -> bool:
    """False where the statistics of a row group say that none of the samples is in it."""
    described = parquet.metadata.row_group(group)
    column = described.column(parquet.schema_arrow.names.index("sample_id"))
    ids = column.statistics if column.path_in_schema == "sample_id" else None
    if ids is None or not ids.has_min_max:
        return True
    known = wanted.to_numpy()
    return bool(np.any((known >= ids.min) & (known <= ids.max)))
