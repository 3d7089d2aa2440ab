"""Polars over the lake."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from .schema import SIGNALS, TRACE_SIGNALS, TRACES
from .views import read_view

if TYPE_CHECKING:
    from .lake import Lake

_ON_DISK = {"signals": SIGNALS, "traces": TRACES}


def scan(lake: Lake, view: str, experiment: str | None = None) -> pl.LazyFrame:
    """A view as a LazyFrame. Signals, traces and trace points are read lazily from their files, the others at once.

    Raises InvalidOption for an unknown view. A damaged file shows when the frame is collected.
    """
    if view == "trace_points":
        return _points(scan(lake, "traces", experiment))
    if view in _ON_DISK:
        names = [experiment] if experiment is not None else lake.experiments()
        runs = [run for name in names for run in lake.runs(name)]
        files = [lake.files.location(file.path) for run in runs for file in run.files if file.table == view]
        if files:
            return _scan_files(files, _ON_DISK[view])
    frame = pl.from_arrow(read_view(lake, view, experiment))
    assert isinstance(frame, pl.DataFrame)
    return frame.lazy()


def _scan_files(files: list[str], columns: pa.Schema) -> pl.LazyFrame:
    # The schema is said, not read off the first file: runs may keep logits in half or in single precision.
    partitions = {"experiment": pl.String(), "run": pl.String()}
    frame = pl.from_arrow(columns.empty_table())
    assert isinstance(frame, pl.DataFrame)
    read = pl.scan_parquet(
        files,
        schema={**frame.schema, **partitions},
        glob=False,
        hive_partitioning=True,
        hive_schema=partitions,
        cast_options=pl.ScanCastOptions(float_cast="upcast"),
    )
    return read.select(*partitions, *columns.names)


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
