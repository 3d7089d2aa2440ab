"""Whether scores rank the records alike, and whether attacks name the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Annotated

import numpy as np
import numpy.typing as npt

from ...store.errors import InvalidOption, NotEnoughData
from ...store.format.paths import NO_TARGET
from ..scores import Finding
from ..scoring.stored import keep_scores
from ..source import Source
from ..statistics.correlation import correlation_metric
from ..statistics.intervals import clopper_pearson
from ..statistics.metric import Metric
from ..statistics.roc import split, threshold_at_fpr
from .compare import Among, check_fprs, side_by_side

TRUTH = "truth"
"""What membership itself is called where it stands beside the attacks."""

Flags = npt.NDArray[np.bool_]


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
    kept = keep_scores(source, scores)
    metrics = []
    notes = []
    # A new connection: the scores kept just now are not in the views of an older one.
    with source.reopened() as fresh:
        for first, second in combinations(scores, 2):
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
            if row["rho"] is None:
                notes.append(
                    f"{first} and {second} have no correlation: fewer than two samples, or one never varies"
                )
    return Finding(tuple(metrics), tuple(notes))


def agreement(
    source: Source,
    scores: tuple[str, ...],
    *,
    fpr: Annotated[float, "false-positive rate at which each score names members"] = 0.1,
) -> Finding:
    """Share of records on which two scores answer alike, among members and among non-members.

    A score answers "member" above its threshold at the FPR, measured on the target's own non-members. agreement is the
    share of records that both scores answer alike, member or not, with Clopper & Pearson's interval; by_chance is what
    it would be if the two answered independently. jaccard is |both say member| / |either does|; its interval is that of
    a share of those that either names, whose number is taken as given. Against the truth agreement is the TPR among
    members and 1 - FPR among non-members. Records without every score are left out.

    Needs: two or more scores.

    Source: Ye et al. 2022, "Enhanced Membership Inference Attacks against Machine Learning Models", section 5 and
    table 3, where each attack has its own threshold at one alpha (there 0.3) in place of one measured on non-members.
    """
    names = tuple(dict.fromkeys(scores))
    if len(names) < 2:
        raise InvalidOption("agreement needs two scores or more")
    check_fprs(fpr)
    source.need_target()
    table, notes = side_by_side({name: kept.scores for name, kept in keep_scores(source, names).items()})
    member = table["member"].to_numpy()
    others = int((~member).sum())
    if others == 0:
        raise NotEnoughData("no non-member of the target has all of these scores, so none has a threshold")
    if others * fpr < 1:
        notes.append(
            f"{others} non-members cannot resolve an FPR of {fpr:g}: every threshold is the highest of them"
        )
    named = {TRUTH: member}
    for name in names:
        score = table[name].to_numpy()
        named[name] = score > threshold_at_fpr(split(score, member)[1], fpr)
    metrics: list[Metric] = []
    for first, second in combinations(named, 2):
        for among, side in (("members", member), ("non-members", ~member)):
            about = {"first": first, "second": second, "among": among, "fpr": fpr}
            metrics += _pair(named[first][side], named[second][side], about)
    return Finding(tuple(metrics), tuple(notes))


def _pair(one: Flags, other: Flags, about: dict[str, object]) -> Iterator[Metric]:
    n, alike = len(one), int((one == other).sum())
    attacks = about["first"] != TRUTH
    p, q = float(one.mean()), float(other.mean())
    chance = {"by_chance": p * q + (1 - p) * (1 - q)} if attacks else {}
    yield Metric("agreement", alike / n, *clopper_pearson(alike, n), n=n, parameters={**about, **chance})
    if attacks:
        both, either = int((one & other).sum()), int((one | other).sum())
        value = both / either if either else None
        yield Metric("jaccard", value, *clopper_pearson(both, either), n=either, parameters=about)
