"""Whether scores rank the records alike, and whether attacks name the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Annotated

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidOption, NotEnoughData
from ...store.format.paths import NO_TARGET
from ..scores import Finding
from ..scoring.stored import SCORE, Kept, keep_scores
from ..source import Source
from ..statistics.alike import alike_and_shared
from ..statistics.correlation import correlation_metric, rank_correlation
from ..statistics.intervals import clopper_pearson
from ..statistics.metric import Metric
from ..statistics.roc import split, threshold_at_fpr, tpr_at_fpr
from .compare import Among, check_fprs, side_by_side

TRUTH = "truth"
"""What membership itself is called where it stands beside the attacks."""

Floats = npt.NDArray[np.float64]


def spearman(
    source: Source,
    scores: tuple[str, ...],
    *,
    among: Annotated[Among, "which samples: all, or members or non-members of the target"] = "all",
) -> Finding:
    """Spearman's rank correlation of every pair of scores.

    Tied scores share their mean rank. The interval is Fisher's with a standard error from the influence of each pair, which
    heavy tails and ties do not make too small; the p-value Student's t. strength is weak under 0.4, moderate to 0.59, strong from 0.6 on (absolute values).

    Needs: two or more scores.

    Source: the words for strength, "Why Train More? Effective and Efficient Membership Inference via Memorization",
    section 4.1.
    """
    if len(scores) < 2:
        raise InvalidOption("a correlation needs two scores or more")
    if among != "all":
        source.need_target()
    kept = keep_scores(source, scores, SCORE)
    pairs = list(combinations(scores, 2))
    if source.adds_up_in_sql:
        metrics = _in_sql(source, kept, pairs, among)
    else:
        metrics = [
            rank_correlation(
                *_both(kept[first].scores.frame, kept[second].scores.frame, among),
                {"first": first, "second": second, "among": among},
            )
            for first, second in pairs
        ]
    notes = [
        f"{first} and {second} have no correlation: fewer than two samples, or one never varies"
        for (first, second), metric in zip(pairs, metrics, strict=True)
        if metric.value is None
    ]
    return Finding(tuple(metrics), tuple(notes))


def _in_sql(
    source: Source, kept: Mapping[str, Kept], pairs: Sequence[tuple[str, str]], among: str
) -> list[Metric]:
    """The correlations by sql/spearman.sql."""
    metrics = []
    # A new connection: the scores kept just now are not in the views of an older one.
    with source.reopened() as fresh:
        for first, second in pairs:
            parameters = {
                "first": kept[first].analysis,
                "first_variant": kept[first].variant,
                "second": kept[second].analysis,
                "second_variant": kept[second].variant,
                "target": source.target_name or NO_TARGET,
                "among": among,
            }
            row = fresh.query("spearman", parameters).row(0, named=True)
            pair = {"first": first, "second": second, "among": among}
            metrics.append(correlation_metric(row["rho"], row["error"], row["n"], pair))
    return metrics


def _both(first: pl.DataFrame, second: pl.DataFrame, among: str) -> tuple[Floats, Floats]:
    """Both scores of the samples that have them, in the order of their ids, so that sums have one order."""
    sides = [
        one.filter(pl.col("score").is_not_null()).select(
            pl.col("sample_id").cast(pl.Int32), "member", pl.col("score").cast(pl.Float64)
        )
        for one in (first, second)
    ]
    both = sides[0].join(sides[1], on="sample_id", suffix="_second").sort("sample_id")
    if among != "all":
        both = both.filter(pl.coalesce("member", "member_second") == (among == "members"))
    return both["score"].to_numpy(), both["score_second"].to_numpy()


def agreement(
    source: Source,
    scores: tuple[str, ...],
    *,
    fpr: Annotated[float, "false-positive rate at which each score names members"] = 0.1,
) -> Finding:
    """Share of records on which two scores answer alike, among members and among non-members.

    A score answers "member" above its threshold at the FPR, measured on the target's own non-members. agreement is the
    share of records that both scores answer alike, member or not; by_chance is what it would be if the two answered
    independently. jaccard is |both say member| / |either does|. Among members the intervals cover the members and the
    thresholds, which are drawn with the non-members. The non-members' own are Clopper & Pearson's: the same records are
    counted that set the thresholds. Against the truth agreement is the TPR among members, with its interval, and 1 - FPR
    among non-members. Records without every score are left out.

    Needs: two or more scores.

    Source: Ye et al. 2022, "Enhanced Membership Inference Attacks against Machine Learning Models", section 5 and
    table 3, where each attack has its own threshold at one alpha (there 0.3) in place of one measured on non-members.
    """
    names = tuple(dict.fromkeys(scores))
    if len(names) < 2:
        raise InvalidOption("agreement needs two scores or more")
    check_fprs(fpr)
    source.need_target()
    table, notes = side_by_side(
        {name: kept.scores for name, kept in keep_scores(source, names, SCORE).items()}
    )
    member = table["member"].to_numpy()
    others = int((~member).sum())
    if others == 0:
        raise NotEnoughData("no non-member of the target has all of these scores, so none has a threshold")
    if others * fpr < 1:
        notes.append(
            f"{others} non-members cannot resolve an FPR of {fpr:g}: every threshold is the highest of them"
        )
    metrics: list[Metric] = []
    for name in names:
        sides = split(table[name].to_numpy(), member)
        metrics += _with_truth(*sides, fpr, {"first": TRUTH, "second": name})
    scores_of = {name: (table[name].to_numpy()[member], table[name].to_numpy()[~member]) for name in names}
    for first, second in combinations(names, 2):
        about = {"first": first, "second": second}
        metrics += _pair(scores_of[first], scores_of[second], fpr, about)
    return Finding(tuple(metrics), tuple(notes))


def _with_truth(members: Floats, others: Floats, fpr: float, about: Mapping[str, object]) -> Iterator[Metric]:
    """The TPR, with the interval that it has everywhere, and 1 - FPR."""
    threshold = threshold_at_fpr(others, fpr)
    caught, spared = float((members > threshold).mean()), int((others <= threshold).sum())
    rate = tpr_at_fpr(members, others, fpr)
    among = {**about, "among": "members", "fpr": fpr}
    yield Metric("agreement", caught, rate.ci_low, rate.ci_high, len(members), among)
    yield Metric.share("agreement", spared, len(others), {**among, "among": "non-members"})


def _pair(
    one: tuple[Floats, Floats], other: tuple[Floats, Floats], fpr: float, about: Mapping[str, object]
) -> Iterator[Metric]:
    """How alike two attacks answer, from the scores of the members and of the non-members of each."""
    named = [
        [score > threshold_at_fpr(np.sort(others), fpr) for score in (members, others)]
        for members, others in (one, other)
    ]
    for side, among in enumerate(("members", "non-members")):
        first, second = named[0][side], named[1][side]
        n, alike = len(first), int((first == second).sum())
        both, either = int((first & second).sum()), int((first | second).sum())
        p, q = float(first.mean()), float(second.mean())
        at = {**about, "among": among, "fpr": fpr}
        intervals = clopper_pearson(alike, n), clopper_pearson(both, either)
        if among == "members":
            intervals = alike_and_shared((one[0], other[0]), (one[1], other[1]), fpr)
        chance = {"by_chance": p * q + (1 - p) * (1 - q)}
        yield Metric("agreement", alike / n, *intervals[0], n, {**at, **chance})
        yield Metric("jaccard", both / either if either else None, *intervals[1], either, at)
