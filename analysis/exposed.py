"""The most exposed records of a score, with what the experiment knows of them."""

from __future__ import annotations

import polars as pl

from .scores import Scores
from .source import Source


def by_exposure(scores: Scores) -> pl.DataFrame:
    """The scored samples from the most exposed down, ties in the order of sample ids.

    Members of the target where membership is known, else all samples.
    """
    frame = scores.frame.filter(pl.col("score").is_not_null())
    if frame["member"].any():
        frame = frame.filter(pl.col("member"))
    return frame.sort("score", "sample_id", descending=[True, False])


def most_exposed(source: Source, scores: Scores, count: int) -> pl.DataFrame:
    """The first ``count`` of `by_exposure`: sample_id, key, label, group (where there are any), score."""
    top = by_exposure(scores).head(count).select("sample_id", "score")
    samples = pl.DataFrame(
        source.lake.samples(source.experiment).select(["sample_id", "key", "label", "group"])
    )
    known = top.join(samples, on="sample_id", how="left", maintain_order="left")
    columns = [name for name in ("key", "label", "group") if known[name].null_count() < len(known)]
    return known.select("sample_id", *columns, "score")
