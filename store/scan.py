"""Polars over the lake."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from .views import read_view

if TYPE_CHECKING:
    from .lake import Lake

_ON_DISK = ("signals", "traces")


def scan(lake: Lake, view: str, experiment: str | None = None) -> pl.LazyFrame:
    """A view as a LazyFrame. ``signals`` and ``traces`` are read lazily from their files, the others at once.

    Raises InvalidOption for an unknown view.
    """
    if view in _ON_DISK:
        names = [experiment] if experiment is not None else lake.experiments()
        files = [file for name in names for run in lake.runs(name) for file in run.files if file.table == view]
        if files:
            return pl.scan_parquet(
                [lake.files.location(file.path) for file in files],
                hive_partitioning=True,
                hive_schema={"experiment": pl.String, "run": pl.String},
            )
    frame = pl.from_arrow(read_view(lake, view, experiment))
    assert isinstance(frame, pl.DataFrame)
    return frame.lazy()
