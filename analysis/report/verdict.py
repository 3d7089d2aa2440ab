"""The level of a verdict: clear leak, signs, none found or cannot tell, by rules that are fixed before any score is seen.

The first screen of the report, its JSON and the terminal all say what `judge` finds. docs/words.md tells the same in words.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from ..charts.roc import curve
from ..evaluations.likeness import SHIFTED, UNLIKE
from ..evaluations.shifted_members import VOID, compares_with_itself
from ..scores import Scores
from ..statistics.intervals import CONFIDENCE
from ..statistics.metric import Metric
from ..statistics.roc import RESOLVED_FROM, auc, firm, split, threshold_at_fpr, tpr_at_fpr
from .data import Attack, Headline, Scored, beats_guessing, label_of

Level = Literal["clear leak", "signs", "none found", "cannot tell"]

Rule = Literal[
    "more than twice guessing",
    "more than guessing",
    "another attack",
    "members differ",
    "worse than guessing",
    "too few records",
    "one score",
    "no shadow models",
    "ties",
    "models unlike",
    "no better than guessing",
    "no attack",
]

CLEAR = 2
"""How many times the FPR the TPR's whole interval exceeds in a clear leak: most of those named are then named for cause."""

FEWEST_MEMBERS = 50
"""Members from which the absence of a leak can be said; the non-members must resolve one of the asked rates."""

CHOSEN = ("lira", "lira[mode=offline]", "rmia", "calibrated", "residual", "loss", "attack-p")
"""The attack that a verdict rests on is the first of these that there is, whatever it finds."""

AGAINST_SHADOWS = ("lira", "rmia")
"""Attacks that compare a record with itself in other models. Others may mistake easy records for members."""


@dataclass(frozen=True)
class Better:
    """An attack's number that chance does not explain, though many were looked at."""

    label: str
    strong: bool
    metric: Metric


@dataclass(frozen=True)
class Judgement:
    """What the numbers allow to be said.

    ``attack`` was chosen beforehand. ``tpr`` is its rate at the lowest asked FPR that the non-members resolve, None where
    they resolve none. ``named`` members and ``accused`` non-members lie above the threshold there; ``by_luck`` members
    would by chance alone. ``better`` is what else does better than guessing, once the number of looks is allowed for;
    ``by_chance`` names what does so only where it is looked at alone. Members and non-members ``without_score`` are no part of the rates.
    ``warned`` are the names of `cautions` that held.
    """

    level: Level
    rule: Rule
    attack: Attack | None = None
    tpr: Metric | None = None
    named: frozenset[int] = frozenset()
    accused: int = 0
    better: tuple[Better, ...] = ()
    by_chance: tuple[Better, ...] = ()
    members_without_score: int = 0
    non_members_without_score: int = 0
    warned: frozenset[str] = frozenset()

    @property
    def fpr(self) -> float | None:
        return None if self.tpr is None else float(self.tpr.parameters["fpr"])

    @property
    def reached(self) -> float | None:
        """The FPR at the threshold: less than the one asked for where no threshold comes near it, as many records have the same score."""
        fpr, attack = self.fpr, self.attack
        if fpr is None or attack is None or not attack.curve.non_members:
            return fpr
        return self.accused / attack.curve.non_members if tied(attack, fpr, self.accused) else fpr

    @property
    def by_luck(self) -> float | None:
        """How many of the members that have a score guessing would name at the FPR that is reached."""
        return (
            None if self.attack is None or self.reached is None else self.reached * self.attack.curve.members
        )

    def counts(self, attack: Attack) -> bool:
        """Whether what this attack finds is taken for a leak; not where members and non-members differ by themselves and it takes in that difference."""
        return _counts(attack, self.warned)

    @property
    def members(self) -> int:
        """All members of the target, with a score or without."""
        return 0 if self.attack is None else self.attack.curve.members + self.members_without_score


def as_attack(name: str, scores: Scores, metrics: Sequence[Metric]) -> Attack | None:
    """A score with its metrics as an attack to judge; None without members or non-members."""
    steps = curve(label_of(name), *scores.arrays())
    return None if steps is None else Attack(Scored(name, label_of(name), scores), tuple(metrics), steps)


def chosen(attacks: Sequence[Attack]) -> Attack | None:
    """The attack that the verdict rests on: by its name, never by how well it does."""
    by_name = {attack.scored.name: attack for attack in attacks}
    return next((by_name[name] for name in CHOSEN if name in by_name), next(iter(attacks), None))


def resolves(tpr: Metric) -> bool:
    """Whether about `RESOLVED_FROM` non-members or more are expected above the threshold of this rate."""
    return tpr.value is not None and firm(tpr.parameters["fpr"], tpr.parameters["non_members"])


def finest(attack: Attack) -> Metric | None:
    """The TPR at the lowest asked FPR that the non-members resolve; None where they resolve none."""
    return next(filter(resolves, attack.tprs), None)


def named_at(attack: Attack, fpr: float) -> tuple[frozenset[int], int]:
    """Ids of the members above the threshold of this FPR, and how many non-members are above it."""
    score, member = attack.scored.scores.arrays()
    threshold = threshold_at_fpr(split(score, member)[1], fpr)
    known = attack.scored.scores.frame.select("sample_id", "member").filter(pl.col("member").is_not_null())
    above = np.nan_to_num(score, nan=-np.inf) > threshold
    return frozenset(known["sample_id"].to_numpy()[above & member].tolist()), int((above & ~member).sum())


def judge(
    attacks: Sequence[Attack], leading: Attack | None = None, warned: Collection[str] = ()
) -> Judgement:
    """The verdict on a target by these attacks, of which ``leading``, or else the `chosen`, was chosen beforehand.

    ``warned`` names the `cautions` of this target. Where members and non-members differ by themselves, only attacks that compare a
    record with itself count for anything, and for signs of a leak or of that difference at most: a target that was trained on one kind of
    records knows that kind, and shadow models, which were trained on both, are no measure of it.

    The rules, in order; the first that holds decides:

    1. clear leak: it compares with shadow models, and its TPR at the lowest resolved FPR is more than twice that FPR, its whole 95% interval; and members and
       non-members are alike.
    2. signs: the whole interval of that TPR lies above the FPR, or that of its AUC above 0.5.
    3. signs: another rate or another attack does better than guessing, in intervals widened for their number (Bonferroni).
    4. cannot tell: members and non-members differ, and the attack takes such a difference for a leak.
    5. cannot tell: the whole interval of the AUC lies below 0.5, so the attack's assumptions do not hold.
    6. cannot tell: the non-members resolve none of the asked rates, or there are fewer than 50 members.
    7. cannot tell: all records have one and the same score.
    8. cannot tell: the attack does without shadow models.
    9. cannot tell: so many records have the same score that fewer non-members lie above the threshold than resolve a rate.
    10. cannot tell: the shadow models are unlike the target, so an attack calibrated on them may miss what there is.
    11. none found.
    """
    lead = leading or chosen(attacks)
    if lead is None:
        return Judgement("cannot tell", "no attack")
    tpr = finest(lead)
    counting = [one for one in attacks if _counts(one, warned)]
    better, by_chance = _others(counting, lead, tpr)
    named, accused = named_at(lead, float(tpr.parameters["fpr"])) if tpr is not None else (frozenset(), 0)
    score, member = lead.scored.scores.arrays()
    level, rule = _level(lead, tpr, accused, better, lead in counting, frozenset(warned))
    missing = np.isnan(score)
    return Judgement(
        level,
        rule,
        lead,
        tpr,
        named,
        accused,
        better,
        by_chance,
        int((missing & member).sum()),
        int((missing & ~member).sum()),
        frozenset(warned),
    )


def _counts(attack: Attack, warned: Collection[str]) -> bool:
    return SHIFTED not in warned or compares_with_itself(attack.scored.name)


def easy_first(score: str) -> bool:
    """Whether this score, NAME or NAME[option=value,...], is highest for records that are easy for the target.

    It sees one answer to a record, and no other model's: what stands out by it is what a model is sure of, trained on it or not, and seldom what
    it gives away. The records at risk are hard ones that the model learnt all the same.
    """
    return score.partition("[")[0] in VOID


def headline_of(judged: Judgement, wanted: float) -> Headline | None:
    """The attack that a verdict rests on as the one that a report leads with; ``wanted`` is the lowest FPR that was asked for."""
    if judged.attack is None:
        return None
    return Headline(judged.attack, wanted, judged.fpr, judged.tpr, judged.named, judged.accused)


def explanation(judged: Judgement) -> str | None:
    """What explains the highest scores of an attack that gives nobody away; None where only what the model learnt does."""
    if judged.level in ("clear leak", "signs"):
        return None
    if judged.rule == "one score":
        return "the order of the records, as all have the same score"
    return "chance" if judged.rule != "members differ" else "how members and non-members differ by themselves"


def chance_explains(metrics: Sequence[Metric]) -> bool:
    """Whether a memorization's metrics leave room for no record at all above a level: then chance explains the highest."""
    above = [metric for metric in metrics if metric.metric == "share_above" and metric.ci_low is not None]
    return bool(above) and all(metric.ci_low == 0 for metric in above)


def tied(attack: Attack, fpr: float, accused: int) -> bool:
    """Whether so many records have the same score that no threshold comes near this FPR, and so few non-members lie above it.

    Without ties as many do as may; one fewer is not worth a word.
    """
    return accused + 2 <= fpr * attack.curve.non_members


def _level(
    lead: Attack,
    tpr: Metric | None,
    accused: int,
    better: tuple[Better, ...],
    counts: bool,
    warned: frozenset[str],
) -> tuple[Level, Rule]:
    low, high = lead.auc.ci_low or 0.0, 1.0 if lead.auc.ci_high is None else lead.auc.ci_high
    if (
        counts
        and SHIFTED not in warned
        and tpr is not None
        and is_strong(lead)
        and (tpr.ci_low or 0) > CLEAR * float(tpr.parameters["fpr"])
    ):
        return "clear leak", "more than twice guessing"
    if counts and ((tpr is not None and beats_guessing(tpr)) or low > 0.5):
        return "signs", "more than guessing"
    if better:
        return "signs", "another attack"
    if not counts:
        return "cannot tell", "members differ"
    if high < 0.5:
        return "cannot tell", "worse than guessing"
    if tpr is None or lead.curve.members < FEWEST_MEMBERS:
        return "cannot tell", "too few records"
    scores = lead.scored.scores.arrays()[0]
    if np.nanmin(scores) == np.nanmax(scores):
        return "cannot tell", "one score"
    if not is_strong(lead):
        return "cannot tell", "no shadow models"
    if accused < RESOLVED_FROM and tied(lead, float(tpr.parameters["fpr"]), accused):
        return "cannot tell", "ties"
    if UNLIKE in warned:
        return "cannot tell", "models unlike"
    return "none found", "no better than guessing"


def rests_on_likeness(judged: Judgement) -> bool:
    """Whether members that differ by themselves would look the same: they do, or nothing that is better compares with shadow models."""
    if SHIFTED in judged.warned:
        return True
    if judged.rule == "another attack":
        return not any(one.strong for one in judged.better)
    return judged.attack is not None and not is_strong(judged.attack)


def is_strong(attack: Attack) -> bool:
    """Whether the attack compares with shadow models, so that finding nothing says something."""
    return attack.scored.name.partition("[")[0] in AGAINST_SHADOWS


def _others(
    attacks: Sequence[Attack], lead: Attack, tpr: Metric | None
) -> tuple[tuple[Better, ...], tuple[Better, ...]]:
    """Of all numbers but the leading two: those above guessing whatever their number, and those that only seem so."""
    looks = [
        (attack, metric)
        for attack in attacks
        for metric in (attack.auc, *(one for one in attack.tprs if one.value is not None))
        if attack is not lead or not (metric is tpr or metric is lead.auc)
    ]
    confidence = 1 - (1 - CONFIDENCE) / max(len(looks), 1)
    better: list[Better] = []
    by_chance: list[Better] = []
    for attack, metric in looks:
        if not _above(metric):
            continue
        members, others = split(*attack.scored.scores.arrays())
        wider = (
            auc(members, others, confidence)
            if metric.metric == "auc"
            else tpr_at_fpr(members, others, float(metric.parameters["fpr"]), confidence)
        )
        (better if _above(wider) else by_chance).append(Better(attack.label, is_strong(attack), metric))
    return tuple(better), tuple(by_chance)


def _above(metric: Metric) -> bool:
    return (metric.ci_low or 0) > 0.5 if metric.metric == "auc" else beats_guessing(metric)


def judged_json(judged: Judgement) -> dict[str, Any]:
    """A verdict for programs: level, the rule that decided, the attack, and the counts at the resolved FPR."""
    tpr, attack = judged.tpr, judged.attack
    return {
        "level": judged.level,
        "rule": judged.rule,
        "attack": attack.scored.name if attack else None,
        "resolved_fpr": judged.fpr,
        "tpr": tpr.to_json() if tpr else None,
        "auc": attack.auc.to_json() if attack else None,
        "named": len(judged.named) if tpr else None,
        "expected_by_luck": judged.by_luck,
        "members": judged.members if attack else None,
        "accused": judged.accused if tpr else None,
        "non_members": attack.curve.non_members + judged.non_members_without_score if attack else None,
        "without_score": {
            "members": judged.members_without_score,
            "non_members": judged.non_members_without_score,
        },
        "warned": sorted(judged.warned),
        "better_than_guessing": [{"attack": one.label, **one.metric.to_json()} for one in judged.better],
    }
