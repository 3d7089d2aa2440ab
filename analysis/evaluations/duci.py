"""Data-set usage inference: which share of the records the target was trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import ndtri, stdtrit

from ...store.errors import InvalidOption, NotEnoughData
from ...store.format.records import Run
from ..scores import Finding, Scores
from ..scoring.stored import keep_scores
from ..source import Source
from ..statistics.intervals import CONFIDENCE
from ..statistics.metric import Metric
from ..statistics.roc import roc, split

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
    with the others for its shadows; TPR and FPR are theirs. The target's own membership plays no part; true_share beside
    the estimate is what the lake knows of it.

    The interval is Student's, with variance by the delta method: the chance of single decisions, how far the rates of one
    model differ from another's, and how well few stand-ins tell their mean. It holds as far as shadow runs were
    trained as the target was. Where TPR and FPR cannot be told apart no share is given.

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
            f"{name}: on the stand-ins it names as many non-members as members"
            f"{f' of {by} {metric.parameters[by]}' if by in metric.parameters else ''}, within chance; it says nothing of the share"
            for metric in found
            if metric.value is None
        ]
    if all(metric.value is None for metric in metrics):
        raise NotEnoughData(f"no share can be estimated: {'; '.join(notes)}")
    if len(runs) == 1:
        notes.append(
            "one stand-in cannot say how much models differ, so there is no interval; give --stand-ins 2 or more"
        )
    return Finding(tuple(metrics), tuple(notes))


def _stand_ins(source: Source, count: int) -> list[Run]:
    """``count`` shadow runs with members and non-members, evenly over the fleet."""
    audit = sum(pool == "audit" for pool in source.lake.samples(source.experiment)["pool"].to_pylist())
    usable = [run for run in source.need_shadows() if 0 < run.members < audit]
    if not usable:
        raise NotEnoughData(
            f"no shadow run of experiment {source.experiment!r} trained on some of the samples and left out others; "
            "collect more with 'losslake collect shadows'"
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
    threshold = best_threshold(
        np.concatenate([frame["score"].to_numpy() for frame in reference]),
        np.concatenate([frame["member"].to_numpy() for frame in reference]),
    )
    present = [] if column is None else np.unique(column[attacked["sample_id"].to_numpy()]).tolist()
    metrics = []
    for value in (None, *filter(None, present)):
        rows, *others = (_of(frame, column, value) for frame in (attacked, *reference))
        rates = [_rates(frame, threshold) for frame in others]
        named = (rows["score"] > threshold).to_numpy()
        found = usage(named, np.array([rate for rate in rates if rate is not None]).reshape(-1, 4))
        parameters = {
            "score": name,
            **({} if value is None else {by: value}),
            "true_share": float(rows["member"].to_numpy().mean()),
            "tpr": found.tpr,
            "fpr": found.fpr,
            "threshold": threshold,
            "stand_ins": sum(rate is not None for rate in rates),
        }
        metrics.append(Metric("share", found.value, found.low, found.high, len(named), parameters))
    return metrics


def _of(frame: pl.DataFrame, column: npt.NDArray[np.str_] | None, value: str | None) -> pl.DataFrame:
    """The rows of one group; all of them for None."""
    if column is None or value is None:
        return frame
    return frame.filter(column[frame["sample_id"].to_numpy()] == value)


def best_threshold(score: Floats, member: Flags) -> float:
    """The score above which TPR - FPR is greatest; one above all scores where it is nowhere above 0."""
    curve = roc(*split(score, member))
    best = int(np.argmax(curve.tpr - curve.fpr))
    # The curve names records at or above its threshold; a decision here is strictly above one.
    return float(np.nextafter(curve.threshold[best], -np.inf))


def _rates(frame: pl.DataFrame, threshold: float) -> tuple[float, float, int, int] | None:
    """TPR, FPR, members and non-members of one stand-in; None where one of them has no records."""
    member, named = frame["member"].to_numpy(), (frame["score"] > threshold).to_numpy()
    inside, outside = int(member.sum()), int((~member).sum())
    if inside == 0 or outside == 0:
        return None
    return float(named[member].mean()), float(named[~member].mean()), inside, outside


def usage(named: Flags, rates: Floats) -> Usage:
    """The share of members among records of which ``named`` (n,) were called members, with its 95% interval.

    ``rates`` is (K, 4): TPR, FPR, members and non-members of each of K stand-ins. With p the share, the target names a
    share q = p TPR + (1 - p) FPR, so that p is (q - FPR) / (TPR - FPR), and its variance is, over (TPR - FPR)^2,

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
    mixed = value * rates[:, 0] + (1 - value) * rates[:, 1]
    between = float(mixed.var(ddof=1))
    of_members, of_others = tpr * (1 - tpr), fpr * (1 - fpr)
    explained = float(
        (value**2 * of_members / rates[:, 2] + (1 - value) ** 2 * of_others / rates[:, 3]).mean()
    )
    decisions = (value * of_members + (1 - value) * of_others) / len(named)
    variance = decisions + max(0.0, between - explained) + max(between, explained) / count
    reach = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * math.sqrt(variance) / gap
    low, high = (min(1.0, max(0.0, raw + side * reach)) for side in (-1, 1))
    return Usage(value, low, high, tpr, fpr)


def _gap_error(rates: Floats) -> float:
    """Standard error of the mean TPR - FPR: from how stand-ins differ, at least that of their single decisions."""
    tpr, fpr = rates[:, 0].mean(), rates[:, 1].mean()
    chance = (tpr * (1 - tpr) / rates[:, 2] + fpr * (1 - fpr) / rates[:, 3]).mean()
    seen = (rates[:, 0] - rates[:, 1]).var(ddof=1) if len(rates) > 1 else 0.0
    return math.sqrt(max(float(chance), float(seen)) / len(rates))
