"""Reading the rows of one listed data file, which may be one run's part of a file that several runs share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import CorruptLake, in_one_line
from ..files.filesystem import Files
from ..format.manifest import DataFile
from ..format.schema import OF_RUNS, RUN

_READ_WHOLE = 256 << 10
"""Bytes up to which a file is read whole before it is looked into: PyArrow asks Python for each part of it."""


@contextmanager
def open_rows(files: Files, file: DataFile) -> Iterator[tuple[pq.ParquetFile, list[int]]]:
    """The Parquet file behind a listed one, and the numbers of the row groups that are its owner's.

    Raises CorruptLake for one that cannot be read, also for what the block meets while it reads.
    """
    with _opened(files, file) as source:
        parquet = pq.ParquetFile(source, page_checksum_verification=True)
        yield parquet, _groups(file, parquet.num_row_groups)


def columns_of(files: Files, file: DataFile) -> list[str]:
    """The names of a listed file's columns. Raises CorruptLake as `open_rows`."""
    with open_rows(files, file) as (parquet, _):
        names: list[str] = parquet.schema_arrow.names
    return names


def read_rows(
    files: Files, file: DataFile, columns: list[str] | None, filters: list[tuple[Any, ...]] | None
) -> pa.Table:
    """The rows of a listed file; of some columns or rows where asked for. Raises CorruptLake as `open_rows`."""
    with _opened(files, file) as source:
        if filters is not None:
            return _filtered(source, file, columns, filters)
        parquet = pq.ParquetFile(source, page_checksum_verification=True)
        there = parquet.schema_arrow.names
        names = columns
        if names is None:
            names = own_columns(file, there)
        if missing := [name for name in names if name not in there]:
            raise ValueError(f"it has no column {', '.join(missing)}")
        return parquet.read_row_groups(_groups(file, parquet.num_row_groups), columns=names).select(names)


def _filtered(
    source: BinaryIO, file: DataFile, columns: list[str] | None, filters: list[tuple[Any, ...]]
) -> pa.Table:
    # Imported here: pyarrow.dataset brings pandas, half a second, and most reads filter nothing.
    import pyarrow.dataset as ds

    if file.shared is None:
        if columns is None:
            columns = own_columns(file, pq.read_schema(source).names)
            source.seek(0)
        return pq.read_table(
            source, columns=columns, filters=filters, partitioning=None, page_checksum_verification=True
        )
    scan = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    groups = _groups(file, pq.read_metadata(source).num_row_groups)
    source.seek(0)
    whole = ds.ParquetFileFormat(default_fragment_scan_options=scan).make_fragment(source, row_groups=groups)
    names = own_columns(file, whole.physical_schema.names)
    rows: pa.Table = whole.to_table(
        columns=names if columns is None else columns, filter=pq.filters_to_expression(filters)
    )
    return rows


def own_columns(file: DataFile, names: Sequence[str]) -> list[str]:
    """The columns of a listed file less the one that says whose rows it has, which its owner knows."""
    return [name for name in names if name != RUN.name or file.table not in OF_RUNS]


@contextmanager
def _opened(files: Files, file: DataFile) -> Iterator[BinaryIO]:
    try:
        with files.open_input(file.path) as source:
            size = source.seek(0, os.SEEK_END)
            source.seek(0)
            if size != (file.shared or file).bytes:  # another file, or a part of one
                raise ValueError(f"it has {size} bytes, its manifest says {(file.shared or file).bytes}")
            yield pa.BufferReader(source.read()) if size <= _READ_WHOLE else source
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptLake(
            f"{file.path} in {files.root} cannot be read: {in_one_line(error)}; run 'losslake lake verify'"
        ) from error


def _groups(file: DataFile, there: int) -> list[int]:
    if file.shared is None:
        return list(range(there))
    end = file.shared.first_group + file.shared.groups
    if end > there:
        raise ValueError(f"it has {there} row groups, a manifest lists {end}")
    return list(range(file.shared.first_group, end))
