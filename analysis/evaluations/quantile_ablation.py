"""Whether the quartiles of LT-IQR are a lucky choice: other quantile ranges of the same traces beside them."""

from __future__ import annotations

from itertools import product
from typing import Annotated

import numpy as np

from ...store.errors import InvalidOption
from ..scores import Finding
from ..source import Source
from ..statistics.metric import Metric
from .compare import check_k, found_by
from .trace_quantiles import parse_range, read_traces, trace_quantiles

LOW = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
HIGH = (0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)


def quantile_ablation(
    source: Source,
    scores: tuple[str, ...],
    *,
    low: Annotated[tuple[float, ...], "lower quantiles"] = LOW,
    high: Annotated[tuple[float, ...], "upper quantiles"] = HIGH,
    against: Annotated[str, "the attack whose findings are the truth"] = "lira",
    fpr: Annotated[float, "false-positive rate at which it finds them"] = 0.001,
    k: Annotated[float, "share of the members to look for them in"] = 0.01,
) -> Finding:
    """Precision at k and Spearman against an attack, for every pair of a lower and an upper quantile of the traces.

    Each pair is judged as in compare: precision_at_k of the members with the widest range, and the rank correlation with
    the attack among members. It shows how much the choice matters; the best cell of a grid is no estimate of what that
    pair would reach on another model, and nothing here is taken over by lt-iqr, whose quantiles stay 0.25 and 0.75.

    The metrics: precision_at_k and spearman of each pair low, high.

    Needs: the target's loss after each epoch; what the attack under --against needs.

    Source: Pollock et al., "Free Record-Level Privacy Risk Evaluation Through Artifact-Based Methods".
    """
    for level in (*low, *high):
        if not 0 <= level <= 1:
            raise InvalidOption(f"a quantile lies between 0 and 1, not {level}")
    pairs = [(lower, upper) for lower, upper in product(sorted(set(low)), sorted(set(high))) if lower < upper]
    if not pairs:
        raise InvalidOption("no lower quantile lies below an upper one")
    check_k(k)
    named = [parse_range(source, name, ("low", "high")) for name in dict.fromkeys(scores)]
    traces = [(score, read_traces(source, score)) for score in named]
    truth = found_by(source, against, fpr)
    notes = list(truth.notes)
    levels = sorted({level for pair in pairs for level in pair})
    place = {level: column for column, level in enumerate(levels)}
    metrics: list[Metric] = []
    for score, rows in traces:
        found = trace_quantiles(rows, levels)
        inside = rows.member & ~np.isnan(found[:, 0])
        ids, found = rows.sample_id[inside], found[inside]
        of_score: list[Metric] = []
        for lower, upper in pairs:
            about = {"score": score.name, "low": lower, "high": upper}
            of_score += truth.judge(ids, found[:, place[upper]] - found[:, place[lower]], k, about)
        notes += _spread(score.name, of_score)
        metrics += of_score
    return Finding(tuple(metrics), tuple(notes))


def _spread(name: str, metrics: list[Metric]) -> list[str]:
    """A sentence on how much precision differs over the grid."""
    values = {
        (m.parameters["low"], m.parameters["high"]): m.value
        for m in metrics
        if m.metric == "precision_at_k" and m.value is not None
    }
    if not values:
        return []
    told = f"{name}: precision lies from {min(values.values()):.3f} to {max(values.values()):.3f} over {len(values)} ranges"
    usual = values.get((0.25, 0.75))
    return [told if usual is None else f"{told}; it is {usual:.3f} for 0.25 to 0.75"]
