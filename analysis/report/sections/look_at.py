"""The section on which records to look at: those that may be mislabelled, and what kinds of record the attack names."""

from __future__ import annotations

import numpy as np
import polars as pl

from ...charts.axes import percent
from ...charts.scores import suspects_by_kind
from ...measures.suspects import KINDS
from ...statistics.intervals import clopper_pearson
from ..data import Report
from ..parts import Figure, Figures, Gallery, Part, Section, Table, fixed, interval


def look_at(report: Report) -> Section | None:
    """Exposed records by kind, and the records whose label looks wrong."""
    if report.suspects is None:
        return None
    typical = tuple(report.traces.band.median.tolist()) if report.traces else ()
    parts: list[Part] = [_kinds(report, report.suspects.scores.frame)]
    if report.suspected:
        parts.append(Gallery(report.suspected, typical, "Records that may be mislabelled"))
    parts.append(Figures((Figure("suspects", suspects_by_kind(report.suspects.scores)),)))
    return Section(
        "look-at",
        "Records to look at",
        "Which records to look at, and why they are exposed",
        "A model that gets a record right only by heart exposes it: because its label is wrong, because it is rare, or because it is hard. A wrong "
        "label is mended, a rare record protected. This is what models say that were not trained on the record; whether a label is wrong, only a look at it tells.",
        tuple(parts),
    )


def _kinds(report: Report, frame: pl.DataFrame) -> Table:
    """Of each kind: how many records, and how many of them the attack names; members of the target where membership is known."""
    known = frame.filter(pl.col("kind").is_not_null())
    what = "records"
    if known["member"].any():
        known, what = known.filter(pl.col("member")), "members"
    head = report.headline if report.headline is not None and report.headline.fpr is not None else None
    rows = []
    for kind in KINDS:
        own = known.filter(pl.col("kind") == kind)
        if own.is_empty():
            continue
        median = float(np.median(own["score"].to_numpy()))
        row = [kind, f"{len(own):,}", percent(len(own) / len(known)), fixed(median)]
        if head is not None:
            named = int(np.isin(own["sample_id"].to_numpy(), list(head.found)).sum())
            row.append(
                f"{named:,}: {percent(named / len(own))} ({interval(*clopper_pearson(named, len(own)))})"
            )
        rows.append(tuple(row))
    columns = ["kind", what, "share", "median doubt of the label"]
    caption = (
        "The first kind that fits counts. May be mislabelled: models without it give another class more than half, and its label less than guessing would. Rare: "
        "its features lie far from any others. Hard: its label has a lower probability than records of its class have on average."
    )
    if head is not None:
        columns.append("of them named by the attack")
        caption += f" Named by {head.attack.label} at FPR {percent(head.fpr)}, with 95% intervals; about {percent(head.fpr)} of each kind would be by luck."
    return Table(tuple(columns), tuple(rows), (False, *[True] * (len(columns) - 1)), caption)
