"""Data-set usage inference: which share of the records the target was trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidOption, NotEnoughData
from ...store.format.records import Run
from ..remedies import collect_shadows
from ..scores import Finding, Scores
from ..scoring.stored import keep_scores
from ..source import Source
from ..statistics.intervals import CONFIDENCE
from ..statistics.metric import Metric
from ..statistics.roc import split
from ..statistics.special import ndtri, stdtrit

GRID = 2001
"""Shares from 0 to 1 that are tested for the interval."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Usage:
    """An estimated share with its interval; value None where the decision tells no members from non-members.

    ``tpr`` and ``fpr`` are means over the stand-ins. low and high are None where a single stand-in leaves them open.
    """

    value: float | None
    low: float | None
    high: float | None
    tpr: float
    fpr: float


def duci(
    source: Source,
    scores: tuple[str, ...],
    *,
    stand_ins: Annotated[int, "how many shadow runs to attack in the target's place"] = 8,
    by: Annotated[Literal["none", "group", "label"], "estimate the share of each of these too"] = "none",
) -> Finding:
    """Which share of the data set the target trained on, from a score and how it does on shadow runs.

    share = mean of (m - FPR) / (TPR - FPR), clipped to 0..1, where m says that a record's score exceeds a threshold. The
    threshold is the one with the greatest TPR - FPR over shadow runs that stand in for the target, each scored
    with the others for its shadows. Where a threshold was chosen it looks better than it is: so TPR and FPR of each stand-in
    are measured at the best threshold of the others, and the target is held against each of these (the one shown is
    the middle one). The target's own membership plays no part; true_share beside the estimate is what the lake knows of it.

    The interval is Fieller's with Student's quantile, all shares that a test at 5% does not refute: the chance of single
    decisions, how far the rates of one model differ from another's, and how well few stand-ins tell their mean. It holds
    as far as shadow runs were trained as the target was. Where TPR and FPR cannot be told apart, or the interval holds
    everything from 0 to 1, no share is given.

    Needs: what the scores need, in shadow runs enough to let some stand in for the target.

    Source: Tong et al. 2025, "How Much of My Dataset Did You Use? Quantitative Data Usage Inference in Machine Learning".
    """
    if stand_ins < 1:
        raise InvalidOption(f"stand-ins is {stand_ins}; it must be 1 or more")
    source.need_target()
    runs = _stand_ins(source, stand_ins)
    column = None if by == "none" else _column(source, by)
    attacked = keep_scores(source, scores)
    metrics: list[Metric] = []
    notes: list[str] = []
    for name in scores:
        try:
            reference = [_scored(source, run, name) for run in runs]
        except NotEnoughData as error:
            metrics.append(Metric("share", None, parameters={"score": name, "stand_ins": 0}))
            notes.append(f"{name}: no estimate, a stand-in has no such score: {error}")
            continue
        notes += [f"{name}: {note}" for note in attacked[name].scores.notes]
        found = _shares(name, attacked[name].scores, reference, column, by)
        metrics += found
        notes += [
            f"{name}: on the stand-ins it tells members from non-members too little"
            f"{f' of {by} {metric.parameters[by]}' if by in metric.parameters else ''}; it says nothing of the share"
            for metric in found
            if metric.value is None
        ]
    # What the stand-ins cannot tell is a finding: no value, and an interval of everything.
    if not any(metric.parameters["stand_ins"] for metric in metrics):
        raise NotEnoughData(f"no share can be estimated: {'; '.join(notes)}")
    if len(runs) == 1:
        notes.append(
            "one stand-in cannot say how much models differ, so there is no interval; give --stand-ins 2 or more"
        )
    return Finding(tuple(metrics), tuple(notes))


def _stand_ins(source: Source, count: int) -> list[Run]:
    """``count`` shadow runs with members and non-members, evenly over the fleet."""
    audit = int(source.audited().sum())
    usable = [run for run in source.need_shadows() if 0 < run.members < audit]
    if not usable:
        raise NotEnoughData(
            f"no shadow run of experiment {source.experiment!r} trained on some of the samples and left out others; "
            f"{collect_shadows(source.lake, source.experiment, 'more')}"
        )
    places = np.linspace(0, len(usable), min(count, len(usable)), endpoint=False).astype(int)
    return [usable[place] for place in places]


def _scored(source: Source, run: Run, name: str) -> pl.DataFrame:
    """sample_id, member and score of a shadow run in the target's place."""
    with source.beside(run.run) as stand_in:
        return _known(keep_scores(stand_in, (name,))[name].scores)


def _known(scores: Scores) -> pl.DataFrame:
    return scores.frame.select("sample_id", "member", "score").filter(
        pl.col("member").is_not_null() & pl.col("score").is_not_null()
    )


def _column(source: Source, by: str) -> npt.NDArray[np.str_]:
    """The group or label of every sample, as text; empty where there is none."""
    values = source.lake.samples(source.experiment)[by].to_pylist()
    if all(value is None for value in values):
        raise NotEnoughData(f"the samples of experiment {source.experiment!r} have no {by}; leave --by out")
    return np.array(["" if value is None else str(value) for value in values])


def _shares(
    name: str, target: Scores, reference: list[pl.DataFrame], column: npt.NDArray[np.str_] | None, by: str
) -> list[Metric]:
    """The share of all records, then that of each group."""
    attacked = _known(target)
    thresholds = crossed_thresholds(
        [(frame["score"].to_numpy(), frame["member"].to_numpy()) for frame in reference]
    )
    present = [] if column is None else np.unique(column[attacked["sample_id"].to_numpy()]).tolist()
    metrics = []
    for value in (None, *filter(None, present)):
        rows, *others = (_of(frame, column, value) for frame in (attacked, *reference))
        pairs = zip(others, thresholds, strict=True)
        rates = [_rates(frame, threshold) for frame, threshold in pairs]
        # At the thresholds of those stand-ins alone whose rates stand beside.
        used = [threshold for threshold, rate in zip(thresholds, rates, strict=True) if rate is not None]
        named = (rows["score"].to_numpy()[:, None] > np.array(used)) if used else np.zeros(0)
        found = usage(named, np.array([rate for rate in rates if rate is not None]).reshape(-1, 4))
        parameters = {
            "score": name,
            **({} if value is None else {by: value}),
            "true_share": float(rows["member"].to_numpy().mean()),
            "tpr": found.tpr,
            "fpr": found.fpr,
            "threshold": sorted(thresholds)[len(thresholds) // 2],
            "stand_ins": sum(rate is not None for rate in rates),
        }
        metrics.append(Metric("share", found.value, found.low, found.high, len(rows), parameters))
    return metrics


def _of(frame: pl.DataFrame, column: npt.NDArray[np.str_] | None, value: str | None) -> pl.DataFrame:
    """The rows of one group; all of them for None."""
    if column is None or value is None:
        return frame
    return frame.filter(column[frame["sample_id"].to_numpy()] == value)


def crossed_thresholds(reference: Sequence[tuple[Floats, Flags]]) -> list[float]:
    """For each stand-in (its scores, its membership) the best threshold of the others.

    A threshold that was chosen on a model does better on it than on the next: its TPR - FPR there is too great, and
    with a weak signal several times too great. A single stand-in has but its own.
    """
    found = []
    for number in range(len(reference)):
        others = [one for place, one in enumerate(reference) if place != number] or list(reference)
        score, member = (np.concatenate(side) for side in zip(*others, strict=True))
        found.append(best_threshold(score, member))
    return found


def best_threshold(score: Floats, member: Flags) -> float:
    """The score above which TPR - FPR is greatest; one above all scores where it is nowhere above 0."""
    # At a score that non-members alone have, FPR has risen and TPR has not: it is not looked at.
    members, others = split(score, member)
    first = np.flatnonzero(np.append(True, members[1:] != members[:-1])[: len(members)])[::-1]
    tpr = 1 - first / max(len(members), 1)
    fpr = 1 - np.searchsorted(others, members[first], "left") / max(len(others), 1)
    best = int(np.argmax(np.append(0.0, tpr - fpr)))
    # Whoever is at or above that score is named; a decision here is strictly above one.
    return float(np.nextafter(np.append(np.inf, members[first])[best], -np.inf))


def _rates(frame: pl.DataFrame, threshold: float) -> tuple[float, float, int, int] | None:
    """TPR, FPR, members and non-members of one stand-in; None where one of them has no records."""
    member, named = frame["member"].to_numpy(), (frame["score"] > threshold).to_numpy()
    inside, outside = int(member.sum()), int((~member).sum())
    if inside == 0 or outside == 0:
        return None
    return float(named[member].mean()), float(named[~member].mean()), inside, outside


def usage(named: Floats | Flags, rates: Floats) -> Usage:
    """The share of members among records of which ``named`` (n,) were called members, with its 95% interval.

    No value where TPR - FPR is not above 0 beyond chance, or the interval holds every share from 0 to 1.

    ``named`` is (n, K) where every stand-in has a threshold of its own, at which its rates were measured.

    ``rates`` is (K, 4): TPR, FPR, members and non-members of each of K stand-ins. With p the share, the target names a
    share q = p TPR + (1 - p) FPR, so that p is (q - FPR) / (TPR - FPR). The interval holds the shares p that a test at 5% does not refute: for which q lies no
    further from p TPR + (1 - p) FPR than Student's quantile times the root of

        [p TPR (1 - TPR) + (1 - p) FPR (1 - FPR)] / n     the target's single decisions
      + D                                                 how far models differ in p TPR + (1 - p) FPR
      + V / K                                             the same of the mean of the K stand-ins

    where V is the variance of p TPR + (1 - p) FPR over stand-ins and D what of it their own decisions do not explain.
    """
    if len(rates) == 0 or len(named) == 0:
        return Usage(None, 0.0, 1.0, math.nan, math.nan)
    tpr, fpr = float(rates[:, 0].mean()), float(rates[:, 1].mean())
    gap = tpr - fpr
    # A division by what may be 0 says nothing: no share, and an interval of everything.
    if gap <= float(ndtri((1 + CONFIDENCE) / 2)) * _gap_error(rates):
        return Usage(None, 0.0, 1.0, tpr, fpr)
    raw = (float(named.mean()) - fpr) / gap
    value = min(1.0, max(0.0, raw))
    count = len(rates)
    if count == 1:
        return Usage(value, None, None, tpr, fpr)
    low, high = _not_refuted(named, rates)
    # Where no share at all is refuted an estimate would be a number without a meaning, and cut to 0..1 a biased one.
    return Usage(None if low == 0 and high == 1 else value, low, high, tpr, fpr)


def _not_refuted(named: Floats | Flags, rates: Floats) -> tuple[float, float]:
    """The least and the greatest share, of a grid, that the test at 5% does not refute (Fieller's interval).

    Nothing is divided by TPR - FPR, whose own error would make the interval of the quotient too short.
    """
    share = np.linspace(0, 1, GRID)[:, None]
    mixed = share * rates[:, 0] + (1 - share) * rates[:, 1]
    # At one threshold with its own rates: how thresholds differ is in both, and falls out.
    off = (named.mean(axis=0) if named.ndim == 2 else named.mean()) - mixed
    between = off.var(axis=1, ddof=1)
    tpr, fpr = rates[:, 0].mean(), rates[:, 1].mean()
    of_members, of_others = tpr * (1 - tpr), fpr * (1 - fpr)
    explained = (share**2 * of_members / rates[:, 2] + (1 - share) ** 2 * of_others / rates[:, 3]).mean(
        axis=1
    )
    decisions = (share[:, 0] * of_members + (1 - share[:, 0]) * of_others) / len(named)
    count = len(rates)
    variance = decisions + np.maximum(0.0, between - explained) + np.maximum(between, explained) / count
    reach = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * np.sqrt(variance)
    away = np.abs(off.mean(axis=1))
    left = share[away <= reach, 0]
    if len(left) == 0:  # fewer or more are named than any share would explain: the nearest one
        left = share[[int(np.argmin(away - reach))], 0]
    return float(left[0]), float(left[-1])


def _gap_error(rates: Floats) -> float:
    """Standard error of the mean TPR - FPR: from how stand-ins differ, at least that of their single decisions."""
    tpr, fpr = rates[:, 0].mean(), rates[:, 1].mean()
    chance = (tpr * (1 - tpr) / rates[:, 2] + fpr * (1 - fpr) / rates[:, 3]).mean()
    seen = (rates[:, 0] - rates[:, 1]).var(ddof=1) if len(rates) > 1 else 0.0
    return math.sqrt(max(float(chance), float(seen)) / len(rates))
