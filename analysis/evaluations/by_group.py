"""How well attacks do on all records and within each group of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidOption, NotEnoughData
from ..measures.memorization import estimates
from ..measures.subpopulation import subpopulation
from ..scores import Finding, Scores
from ..scoring.run import FPRS
from ..scoring.stored import SCORE, keep_scores
from ..source import Source
from ..statistics.intervals import clopper_pearson
from ..statistics.metric import Metric
from ..statistics.roc import auc, split, threshold_at_fpr, tpr_at_fpr
from .compare import check_fprs

MOST_GROUPS = 200
SINGLETONS = "singletons"
SUBPOPULATION = "subpopulation"

FEW = 20
"""A group with fewer members or non-members than this is named in a note."""

NAMED = 5
"""Groups that a note names."""

Floats = npt.NDArray[np.float64]


def by_group(
    source: Source,
    scores: tuple[str, ...],
    *,
    by: Annotated[
        str, "singletons, subpopulation, or a column of the samples such as label or group"
    ] = SINGLETONS,
    threshold: Annotated[
        float, "singletons: memorization above this (published: 0.8 CIFAR-10, 0.4 MNIST)"
    ] = 0.8,
    fpr: Annotated[tuple[float, ...], "false-positive rates"] = FPRS,
    threshold_from: Annotated[
        Literal["group", "all"], "whose non-members set the threshold of a false-positive rate"
    ] = "group",
) -> Finding:
    """AUC and TPR at low FPR of scores over all records and within each group of them.

    AUC compares a group's members with its own non-members. The threshold of an FPR is measured on the group's own
    non-members too, as for an adversary who attacks that group alone; with --threshold-from all on those of all
    records, and then fpr_at_threshold says how many of the group's own lie above it. Singletons are chosen by
    memorization over shadow runs, subpopulations by features: the target's membership plays no part in either.

    Needs: what the scores need; shadow runs (singletons), features (subpopulation) or the column named by --by.

    Source: "Why Train More? Effective and Efficient Membership Inference via Memorization", tables 2 and 3 (all and
    under-represented records).
    """
    check_fprs(*fpr)
    source.need_target()
    groups = groups_of(source, by, threshold)
    notes = list(groups.notes)
    metrics: list[Metric] = []
    for name, kept in keep_scores(source, scores, SCORE).items():
        everyone, parts, unplaced = _parts(kept.scores, groups.frame, groups.names)
        notes += [f"{name}: {note}" for note in kept.scores.notes]
        if unplaced:
            notes.append(f"{name}: {unplaced} scored samples belong to no group; they count under all only")
        few, coarse = [], []
        for part in (everyone, *parts):
            about = {"score": name, "by": by, "group": part.name}
            judged = everyone if threshold_from == "all" else part
            found = _judge(part, judged.others, fpr, about, beside=threshold_from == "all")
            metrics += found
            if min(len(part.members), len(part.others)) < FEW:
                few.append(f"{part.name} ({len(part.members)} and {len(part.others)})")
            if any(metric.parameters.get("resolved") is False for metric in found):
                coarse.append(part.name)
        if few:
            notes.append(f"{name}: few members or non-members in {_listed(few)}; the intervals tell")
        if coarse:
            rates = ", ".join(f"{rate:g}" for rate in fpr)
            notes.append(
                f"{name}: the non-members of {_listed(coarse)} "
                f"are too few for some FPR of {rates}; only the interval of the TPR is given there"
            )
    return Finding(tuple(metrics), tuple(notes))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


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
    frame = estimates(source, "correct")
    above = pl.when(pl.col("score") > threshold).then(pl.lit(SINGLETONS)).otherwise(pl.lit("others"))
    part = pl.when(pl.col("score").is_not_null()).then(above)
    count = int((frame["score"] > threshold).sum())
    note = f"{count} of {len(frame)} samples are singletons: memorization above {threshold:g}"
    return SampleGroups(frame.select("sample_id", part.alias("part")), (SINGLETONS, "others"), (note,))


@dataclass(frozen=True, eq=False)
class _Part:
    """The scores of a group's members and of its non-members, each sorted."""

    name: str
    members: Floats
    others: Floats


def _parts(scores: Scores, groups: pl.DataFrame, names: tuple[str, ...]) -> tuple[_Part, list[_Part], int]:
    """All records, each group, and how many scored records are in none."""
    looked = scores.frame.select("sample_id", "member", "score")
    known = looked.filter(pl.col("member").is_not_null() & pl.col("score").is_not_null())
    placed = known.join(groups, on="sample_id", how="left")
    score, member = placed["score"].to_numpy(), placed["member"].to_numpy()
    place = placed["part"].replace_strict(names, range(len(names)), default=None, return_dtype=pl.Int64)
    at = place.fill_null(-1).to_numpy()
    parts = [_Part(name, *split(score[at == k], member[at == k])) for k, name in enumerate(names)]
    everyone = "all samples" if "all" in names else "all"
    return _Part(everyone, *split(score, member)), parts, int((at < 0).sum())


def _judge(
    part: _Part, others: Floats, fprs: tuple[float, ...], about: dict[str, Any], *, beside: bool
) -> list[Metric]:
    """AUC and TPR of one group, the threshold from ``others``; its own FPR there too where these are ``beside`` it."""
    n_members, n_others = len(part.members), len(part.others)
    sizes = {"members": n_members, "non_members": n_others}
    area = Metric("auc", None, n=n_members + n_others)
    if n_members and n_others:
        area = auc(part.members, part.others)
    metrics = [replace(area, parameters={**about, **sizes})]
    for fpr in fprs:
        if n_members and len(others):
            rate = tpr_at_fpr(part.members, others, fpr)
            metrics.append(replace(rate, parameters={**about, **rate.parameters}))
        else:
            unknown = {"fpr": fpr, "resolved": False, "non_members": len(others)}
            metrics.append(Metric("tpr_at_fpr", None, 0.0, 1.0, n_members, {**about, **unknown}))
        if beside and n_others and len(others) * fpr >= 1:
            alarms = int((part.others > threshold_at_fpr(others, fpr)).sum())
            metrics.append(
                Metric(
                    "fpr_at_threshold",
                    alarms / n_others,
                    *clopper_pearson(alarms, n_others),
                    n=n_others,
                    parameters={**about, "fpr": fpr},
                )
            )
    return metrics
