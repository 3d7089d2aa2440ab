"""Who was a member of the target."""

from __future__ import annotations

import polars as pl

from ..source import Source


def with_membership(source: Source, frame: pl.DataFrame) -> pl.DataFrame:
    """Add the column member after sample_id: membership in the target, NULL where there is no target."""
    if source.target is None or not source.target.tables():
        return frame.select("sample_id", pl.lit(None, pl.Boolean).alias("member"), pl.exclude("sample_id"))
    table = "signals" if "signals" in source.target.tables() else "traces"
    known = (
        source.rows(source.target, table, ["sample_id", "member"])
        .group_by("sample_id")
        .agg(pl.col("member").any())
    )
    joined = frame.join(known, on="sample_id", how="left", maintain_order="left")
    return joined.select("sample_id", "member", pl.exclude("sample_id", "member"))
