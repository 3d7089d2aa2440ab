"""Spearman's rank correlation between scores."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Literal

from ...store.errors import InvalidOption
from ...store.format.paths import NO_TARGET
from ..scores import Finding
from ..scoring.stored import keep_scores
from ..source import Source
from ..statistics.correlation import correlation_metric

Among = Literal["all", "members", "non-members"]


def spearman(
    source: Source,
    scores: tuple[str, ...],
    *,
    among: Annotated[Among, "which samples: all, or members or non-members of the target"] = "all",
) -> Finding:
    """Spearman's rank correlation of every pair of scores.

    Tied scores share their mean rank. The interval is Fisher's with the variance of Bonett & Wright (2000), the
    p-value Student's t. strength is weak under 0.4, moderate to 0.59, strong from 0.6 on (absolute values).

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
            metrics.append(correlation_metric(row["rho"], row["n"], pair))
            if row["rho"] is None:
                notes.append(
                    f"{first} and {second} have no correlation: fewer than two samples, or one never varies"
                )
    return Finding(tuple(metrics), tuple(notes))
