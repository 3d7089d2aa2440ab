"""Polars over the lake."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from ..files.filesystem import Files
from ..files.local import LocalFiles
from ..format.manifest import DataFile
from ..format.records import Run
from ..format.schema import TRACE_SIGNALS
from ..format.tables import empty_table
from ..read.changes import check_unchanged
from .connection import read_view
from .views import COLUMNS, table_files

if TYPE_CHECKING:
    from ..read.catalogue import Catalogue


_AT_ONCE = 16 << 20
"""Bytes of a file that many runs share up to which an object store is asked for all of it: Polars asks for each column of each run."""


def scan(lake: Catalogue, view: str, experiment: str | None = None) -> pl.LazyFrame:
    """A view as a LazyFrame. Signals, traces and trace points are read lazily from their files, the others at once.

    Raises InvalidOption for an unknown view. A file that was changed and has its old size and time, as after a fault
    of the disk, shows when the frame is collected, if at all: by an error of Polars, PanicException among them, which is no
    subclass of Exception.
    """
    if view == "trace_points":
        return _points(scan(lake, "traces", experiment))
    if view in ("signals", "traces"):
        names = [experiment] if experiment is not None else lake.experiments()
        runs = [run for name in names for run in lake.runs(name)]
        check_unchanged(lake.files, runs, missing=True)
        parts = _scans(lake, runs, view)
        if parts:
            return pl.concat(parts)
    return pl.DataFrame(read_view(lake, view, experiment)).lazy()


def _scans(lake: Catalogue, runs: Sequence[Run], table: str) -> list[pl.LazyFrame]:
    """The rows of a table of runs: of files of their own, and of those that they share."""
    listed, columns = table_files(runs, table), COLUMNS[table]
    found = []
    if listed.own:
        found.append(_scan_files(lake.files, listed.own, columns, ("experiment", "run")))
    if listed.whole:
        found.append(_scan_files(lake.files, listed.whole, columns, ("experiment",)))
    for path, counted in listed.part.items():
        rows = _scan_files(lake.files, [path], columns, ("experiment",))
        found.append(rows.filter(pl.col("run").is_in(counted)))
    return found


def _scan_files(
    files: Files, paths: Sequence[str], columns: pa.Schema, partitions: tuple[str, ...]
) -> pl.LazyFrame:
    # The schema is said, not read off the first file: runs may keep logits in half or in single precision.
    names = {"experiment": pl.String(), "run": pl.String()}
    read = pl.scan_parquet(
        [files.location(path) for path in paths],
        schema={**pl.DataFrame(empty_table(columns)).schema, **names},
        glob=False,
        hive_partitioning=True,
        hive_schema={name: names[name] for name in partitions},
        missing_columns="insert",  # of tokens, which only files of language models have
        cast_options=pl.ScanCastOptions(float_cast="upcast"),
        storage_options=files.storage_options,
        credential_provider=None,
    )
    return read.select(*names, *columns.names)


def rows_of_each(lake: Catalogue, runs: Sequence[Run], table: str, columns: list[str]) -> list[pl.DataFrame]:
    """Columns of the rows of many runs in ``signals`` or ``traces``, a frame a run, read in one go.

    Raises CorruptLake for a damaged file.
    """
    files = [[file for file in run.files if file.table == table] for run in runs]
    listed = [file for of_run in files for file in of_run]
    try:
        frame = _rows_of_files(lake, listed, columns)
    except (pl.exceptions.PolarsError, OSError):
        for file in listed:  # says which of them it is
            lake.read_file(file, columns=columns)
        raise
    ends = np.cumsum([sum(file.rows for file in of_run) for of_run in files])
    return [frame.slice(start, end - start) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _rows_of_files(lake: Catalogue, listed: Sequence[DataFile], columns: list[str]) -> pl.DataFrame:
    """The rows of the files in their order."""
    own = [file.path for file in listed if file.shared is None]
    of_own = _read(lake, own, columns) if own or not listed else pl.DataFrame()
    if len(own) == len(listed):
        return of_own
    spans: dict[str, tuple[int, int]] = {}
    at_once: dict[str, bool] = {}
    for file in listed:
        if file.shared is not None:
            at_once[file.path] = not isinstance(lake.files, LocalFiles) and file.shared.bytes <= _AT_ONCE
            low, high = spans.get(file.path, (file.shared.first_row, 0))
            start = file.shared.first_row
            spans[file.path] = (min(low, start), max(high, start + file.rows))
    # A shared file is opened once, whatever the number of runs asked for.
    shared = {
        path: _read(lake, [path], columns, low, high - low, at_once=at_once[path])
        for path, (low, high) in spans.items()
    }
    parts, done = [], 0
    for file in listed:
        if file.shared is None:
            parts.append(of_own[done : done + file.rows])
            done += file.rows
        else:
            start = file.shared.first_row - spans[file.path][0]
            parts.append(shared[file.path][start : start + file.rows])
    return pl.concat(parts)


def _read(
    lake: Catalogue,
    paths: Sequence[str],
    columns: list[str],
    start: int = 0,
    rows: int | None = None,
    *,
    at_once: bool = False,
) -> pl.DataFrame:
    """Columns of files' rows from ``start`` on. ``at_once``: each is fetched whole, where it lies in a store."""
    files: list[Any]
    if at_once:
        files = [io.BytesIO(lake.files.read(path)) for path in paths]
    else:
        files = [lake.files.location(path) for path in paths]
    frame = pl.scan_parquet(
        files,
        hive_partitioning=False,
        glob=False,
        missing_columns="insert",  # the first file says which there are, and only some have those of tokens
        extra_columns="ignore",
        storage_options=lake.files.storage_options,
        credential_provider=None,
    ).select(columns)
    return frame.slice(start, rows).collect()


def _points(traces: pl.LazyFrame) -> pl.LazyFrame:
    """One row a (run, sample, source, epoch), from one row a trace."""
    length = pl.max_horizontal(pl.col(name).list.len() for name in TRACE_SIGNALS)
    absent = pl.lit(None, pl.Float32).repeat_by(length)
    return (
        traces.with_columns(pl.int_ranges(length).alias("epoch"))
        .with_columns(pl.coalesce(pl.col(name), absent) for name in TRACE_SIGNALS)
        .explode("epoch", *TRACE_SIGNALS)
        .select("experiment", "run", "sample_id", "source", "member", "epoch", *TRACE_SIGNALS)
    )
