"""A gate: does a model keep limits on what it exposes? For a pipeline that must stop where it does not.

A gate fails closed: a limit that the data cannot tell about is not kept. By default the upper end of a metric's 95%
interval is held against the limit, so that passing is evidence and not luck of a small experiment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidOption, LosslakeError, NotEnoughData
from ..evaluations.dp_audit import dp_audit
from ..evaluations.tail import tnr_at_fnr
from ..measures.memorization import shares_above
from ..scores import Scores
from ..scoring.stored import keep_scores
from ..source import Source
from ..statistics.intervals import CONFIDENCE, clopper_pearson
from ..statistics.metric import Metric
from ..statistics.roc import RESOLVED_FROM, auc, firm, split, tpr_at_fpr
from .rules import Rule

Status = Literal["pass", "FAIL", "UNRESOLVED"]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


_ESTIMATE = (
    "the tail of the losses estimates what LiRA finds, for want of shadow models; its interval is not how far off that is, and a limit "
    "of tpr with shadow models is the surer one"
)


@dataclass(frozen=True)
class Verdict:
    """What became of a rule. ``compared`` is the number held against the limit; ``metric`` None where there is none.

    ``reason`` says why a rule was not kept; ``notes`` are sentences a reader must know.
    """

    rule: Rule
    status: Status
    metric: Metric | None
    compared: float | None
    reason: str = ""
    notes: tuple[str, ...] = ()


def check_rules(source: Source, rules: Sequence[Rule]) -> tuple[Verdict, ...]:
    """Hold every rule against the target, in order. Scores are computed and kept unless the lake holds fresh ones.

    Raises InvalidOption for options that a score does not take; whatever else keeps a rule from being told makes it
    UNRESOLVED.
    """
    return tuple(_check(source, rule) for rule in rules)


def _check(source: Source, rule: Rule) -> Verdict:
    try:
        metric, notes = _epsilon(source, rule) if rule.metric == "epsilon" else _measured(source, rule)
    except InvalidOption:
        raise
    except LosslakeError as error:
        return Verdict(rule, "UNRESOLVED", None, None, str(error))
    return _judge(rule, metric, notes)


def _judge(rule: Rule, metric: Metric, notes: tuple[str, ...]) -> Verdict:
    if rule.compare == "value":
        compared, what = metric.value, "value"
    elif rule.metric == "epsilon":
        compared, what = metric.ci_low, "lower bound"
    else:
        compared, what = metric.ci_high, "upper end of the interval"
    doubt = _doubt(rule, metric)
    if not doubt and (compared is None or not math.isfinite(compared)):
        doubt = f"there is no {what}"
    if doubt or compared is None:
        return Verdict(rule, "UNRESOLVED", metric, compared, doubt, notes)
    if compared <= rule.max:
        return Verdict(rule, "pass", metric, compared, "", notes)
    reason = f"the {what}, {compared:.4g}, is above {rule.max:g}"
    if what.startswith("upper") and metric.value is not None and metric.value <= rule.max:
        reason += ", though the value is not: more records would tell"
    return Verdict(rule, "FAIL", metric, compared, reason, notes)


def _doubt(rule: Rule, metric: Metric) -> str:
    """Why a metric says nothing about the limit; empty where it does."""
    told = metric.parameters
    if rule.metric == "tpr" and not firm(told["fpr"], told["non_members"]):
        expected = told["fpr"] * told["non_members"]
        return (
            f"{told['non_members']} non-members cannot resolve an FPR of {rule.fpr:g}: {expected:.3g} are expected above the "
            f"threshold, {RESOLVED_FROM} are needed"
        )
    if rule.metric == "tail" and not firm(told["fnr"], told["members"]):
        expected = told["fnr"] * told["members"]
        return (
            f"{told['members']} members cannot resolve an FNR of {rule.fpr:g}: {expected:.3g} are expected beyond the threshold, "
            f"{RESOLVED_FROM} are needed"
        )
    if rule.metric == "auc" and metric.ci_high is not None and metric.ci_high < 0.5:
        return "the score ranks members below non-members, so it is no attack to pass"
    if rule.metric == "epsilon" and told["most"] <= rule.max:
        return f"an audit of {metric.n} {'pairs of records' if told['inclusion'] == 'random' else 'records'} shows no epsilon above {told['most']:.3g}, whatever the model exposes"
    return ""


def _measured(source: Source, rule: Rule) -> tuple[Metric, tuple[str, ...]]:
    """The metric of a score. A record without a score counts as it would hurt most; the low end as it would least."""
    scores = keep_scores(source, (rule.score,))[rule.score].scores
    if rule.metric == "share":
        analysis, options = source.analysis(rule.score)
        if analysis.name == "memorization":
            return _share_memorized(scores, rule, str(options.get("of", "correct")))
        return _share(scores, rule)
    score, member = scores.arrays()
    notes = scores.notes
    if not source.analysis(rule.score)[0].attack:
        notes = (
            *notes,
            f"{rule.score} ranks records by exposure and claims no membership: its {rule.metric} says little",
        )
    if rule.metric == "tail":
        notes = (*notes, _ESTIMATE)
    for side, flags in (("members", member), ("non-members", ~member)):
        if not (flags & ~np.isnan(score)).any():
            raise NotEnoughData(
                f"{rule.score} has no score of any of the {side} of run {source.target_name!r}"
            )
    known = _of(rule, score, member)
    unknown = int(np.isnan(score).sum())
    if not unknown:
        return known, notes
    worst, best = (_of(rule, _filled(score, high), member) for high in (member, ~member))
    filled = Metric(known.metric, worst.value, best.ci_low, worst.ci_high, worst.n, known.parameters)
    return filled, (*notes, f"{unknown} records without a score count as if they were told apart")


def _of(rule: Rule, score: Floats, member: Flags) -> Metric:
    members, others = split(score, member)
    if rule.metric == "tail":
        assert rule.fpr is not None
        return tnr_at_fnr(members, others, rule.fpr)
    return auc(members, others) if rule.fpr is None else tpr_at_fpr(members, others, rule.fpr)


def _filled(score: Floats, high: Flags) -> Floats:
    """Ranks of the scores, with those that are NaN above all others where ``high``, else below."""
    ranks = np.unique(score, return_inverse=True)[1].astype(np.float64)
    return np.where(np.isnan(score), np.where(high, np.inf, -np.inf), ranks)


def _share_memorized(scores: Scores, rule: Rule, of: str) -> tuple[Metric, tuple[str, ...]]:
    """`shares_above` as memorization has it; records without a score count as above at the upper end, as not at the lower."""
    assert rule.above is not None
    known = scores.frame.filter(pl.col("score").is_not_null())
    n, unknown = len(scores.frame), len(scores.frame) - len(known)
    if not len(known):
        raise NotEnoughData(f"no record has a score of {rule.score}")
    (found,) = shares_above(known, of, [rule.above])
    if not unknown:
        return found, scores.notes
    low, value, high = (
        None if one is None else (one * len(known) + more) / n
        for one, more in ((found.ci_low, 0), (found.value, unknown), (found.ci_high, unknown))
    )
    note = f"{unknown} records without a score count as if they lay above {rule.above:g}"
    return Metric("share_above", value, low, high, n, found.parameters), (*scores.notes, note)


def _share(scores: Scores, rule: Rule) -> tuple[Metric, tuple[str, ...]]:
    """The share of records whose score lies above a threshold, with Clopper & Pearson's interval."""
    assert rule.above is not None
    score = scores.frame["score"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    unknown, hits, n = int(np.isnan(score).sum()), int((score > rule.above).sum()), len(score)
    if unknown == n:
        raise NotEnoughData(f"no record has a score of {rule.score}")
    low, high = clopper_pearson(hits, n)[0], clopper_pearson(hits + unknown, n)[1]
    notes = scores.notes
    if unknown:
        notes = (*notes, f"{unknown} records without a score count as if they lay above {rule.above:g}")
    return Metric("share_above", (hits + unknown) / n, low, high, n, {"threshold": rule.above}), notes


def _epsilon(source: Source, rule: Rule) -> tuple[Metric, tuple[str, ...]]:
    """The one-run bound of `dp_audit`, or its estimate where the rule compares the value."""
    assert rule.delta is not None
    finding = dp_audit(
        source,
        (rule.score,),
        delta=rule.delta,
        confidence=CONFIDENCE,
        inclusion=rule.inclusion or "auto",
        probability=rule.probability,
    )
    # Notes on the other methods would be about numbers that are not shown here.
    told = [note for note in finding.notes if not note.startswith("clopper-pearson")]
    notes = tuple(note.removeprefix(f"{rule.score}: ") for note in told)
    by_name = {one.metric: one for one in finding.metrics if one.parameters["method"] == "one-run"}
    bound = by_name["epsilon_lower"]
    if bound.value is None:
        # The first note says why nothing is claimed.
        raise NotEnoughData(notes[0])
    found = by_name["epsilon_estimate"] if rule.compare == "value" else bound
    return replace(found, ci_high=None), (
        *notes,
        "an audit bounds epsilon from below: passing says that this one found no more",
    )
