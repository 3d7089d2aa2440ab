"""Ways to part the samples of an experiment into groups."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from ...store.errors import InvalidOption, NotEnoughData
from ..measures.memorization import memorization
from ..measures.subpopulation import subpopulation
from ..source import Source

MOST_GROUPS = 200
SINGLETONS = "singletons"
SUBPOPULATION = "subpopulation"


@dataclass(frozen=True)
class SampleGroups:
    """``frame`` has sample_id and part (a text; NULL for none) of the audit samples; ``names`` in order."""

    frame: pl.DataFrame
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def groups_of(source: Source, by: str, threshold: float) -> SampleGroups:
    """Groups ``by`` singletons (memorization above ``threshold``), subpopulation, or a column of the samples.

    Labels come in their own order, other values by size, the largest group first. Raises InvalidOption for a column
    that is not there or has too many values, NotEnoughData where no sample has one.
    """
    if by == SINGLETONS:
        return _singletons(source, threshold)
    if by == SUBPOPULATION:
        frame = subpopulation(source).frame
        part = pl.format("cluster {}", "cluster")  # NULL where there is no cluster
        found = frame["cluster"].drop_nulls().unique().sort()
        return SampleGroups(
            frame.select("sample_id", part.alias("part")), tuple(f"cluster {number}" for number in found)
        )
    samples = pl.DataFrame(source.lake.samples(source.experiment)).filter(pl.col("pool") == "audit")
    if by not in samples.columns or by in ("sample_id", "key"):
        known = [name for name in samples.columns if name not in ("sample_id", "key", "pool")]
        raise InvalidOption(
            f"samples cannot be grouped by {by!r}; choose {SINGLETONS}, {SUBPOPULATION} or a column of the samples "
            f"({', '.join(known)})"
        )
    if samples.schema[by].is_nested() or samples.schema[by] == pl.Binary:
        raise InvalidOption(f"the samples' column {by!r} is {samples.schema[by]}; groups are single values")
    counted = samples[by].drop_nulls().value_counts()
    if counted.is_empty():
        raise NotEnoughData(f"no audit sample of experiment {source.experiment!r} has a {by}")
    if len(counted) > MOST_GROUPS:
        raise InvalidOption(
            f"the samples' column {by!r} has {len(counted)} values; groups are {MOST_GROUPS} at most"
        )
    order = ([by], [False]) if by == "label" else (["count", by], [True, False])
    names = counted.sort(order[0], descending=order[1])[by].cast(pl.String)
    return SampleGroups(samples.select("sample_id", pl.col(by).cast(pl.String).alias("part")), tuple(names))


def _singletons(source: Source, threshold: float) -> SampleGroups:
    if not -1 <= threshold < 1:
        raise InvalidOption(f"memorization lies between -1 and 1; a threshold of {threshold:g} parts nothing")
    frame = memorization(source).frame
    above = pl.when(pl.col("score") > threshold).then(pl.lit(SINGLETONS)).otherwise(pl.lit("others"))
    part = pl.when(pl.col("score").is_not_null()).then(above)
    count = int((frame["score"] > threshold).sum())
    note = f"{count} of {len(frame)} samples are singletons: memorization above {threshold:g}"
    return SampleGroups(frame.select("sample_id", part.alias("part")), (SINGLETONS, "others"), (note,))
