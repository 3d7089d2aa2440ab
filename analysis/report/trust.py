"""How far to trust a report: what weakens its numbers, and what they do not cover."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..charts.axes import percent
from ..evaluations.likeness import CAUTIONS
from ..evaluations.shifted_members import ITSELF, LEANING, VOID
from ..statistics.roc import RESOLVED_FROM
from .data import Headline, Report, label_of, metric_of
from .parts import fixed, plural
from .verdict import tied

FEW_SHADOWS = 64
"""Under this many shadow models a report says that the attack is not the strongest there is."""


@dataclass(frozen=True)
class Trust:
    """A statement on how far the numbers go; ``caution`` marks what weakens them."""

    name: str
    text: str
    caution: bool = False


def trust(report: Report, headline: Headline | None) -> tuple[Trust, ...]:
    """Statements on the numbers of a report, the warnings first; without a headline nothing is said of an attack."""
    found = [Trust(name, f"{_in_words(text)}.", True) for name, text in report.notes if name in CAUTIONS]
    if headline is not None:
        found.append(_resolution(headline))
    if report.shadows:
        count = len(report.shadows)
        found.append(
            Trust(
                plural(count, "shadow model"),
                "A stronger attacker trains more of them.",
                count < FEW_SHADOWS,
            )
        )
    else:
        found.append(
            Trust(
                "No shadow models",
                "No attack that compares with other models was measured: what is shown here says little of what one would find.",
                True,
            )
        )
    if headline is not None:
        found.append(
            Trust(
                "One attack",
                f"This is what {with_article(headline.attack.label)} finds. Another attack may find more records, or others.",
            )
        )
    if report.target is not None:
        duals = [run for run in report.of_role("target") if run.info.parent == report.target.run]
        more = (
            f" {plural(len(duals), 'dual')} of it were trained but are not part of these figures.{_again(report)}"
            if duals
            else ""
        )
        found.append(
            Trust(
                "One trained model",
                f"Intervals cover the choice of records, not the chance in training: trained again, the model would expose "
                f"partly other records.{_spread(report, headline)}{more}",
            )
        )
    return tuple(found)


def _again(report: Report) -> str:
    """How often a record that is found in one of the target and its duals is found in another one."""
    for metric in report.again.scores.metrics if report.again is not None else ():
        if metric.metric == "found_again" and metric.value is not None:
            return (
                f" Over these {metric.parameters['targets']} models a record that the attack finds in one is found in another with "
                f"probability {fixed(metric.value)} ({fixed(metric.ci_low)} to {fixed(metric.ci_high)})."
            )
    return ""


def _spread(report: Report, headline: Headline | None) -> str:
    """What the same attack reaches on the other models, where that was asked for."""
    if headline is None:
        return ""
    for said in report.said("per-model"):
        mean = metric_of(said.finding, "mean_over_runs", of="auc", score=headline.attack.scored.name)
        if mean is not None and mean.value is not None and mean.n and mean.n > 1:
            low, high = (fixed(mean.parameters[end]) for end in ("min", "max"))
            return f" Over {plural(mean.n, 'model')} trained alike, its AUC lies from {low} to {high}."
    return ""


def _resolution(headline: Headline) -> Trust:
    others = headline.non_members
    text = f"They resolve false-positive rates from {percent(min(1.0, RESOLVED_FROM / max(others, 1)))} up, where about {RESOLVED_FROM} of them score higher."
    coarse = headline.fpr is None or headline.fpr > headline.wanted
    if headline.fpr is None:
        text += " None of the asked rates can be resolved."
    elif coarse:
        text += f" {percent(headline.wanted)} cannot be resolved; the figures are at {percent(headline.fpr)}."
    else:
        text += f" The figures are at {percent(headline.fpr)}."
    same = headline.fpr is not None and tied(headline.attack, headline.fpr, headline.accused)
    if same:
        text += f" Because so many records have the same score, only {percent(headline.accused / others)} of non-members lie above the threshold."
    return Trust(plural(others, "non-member"), text, coarse or same)


def _in_words(caution: str) -> str:
    """A caution with attacks called as people call them."""
    return _NAMES.sub(lambda name: label_of(name[0]), caution)


_NAMES = re.compile(
    rf"(?<![\w-])(?:{'|'.join(sorted(map(re.escape, (*VOID, *LEANING, *ITSELF)), reverse=True))})(?![\w-])(?=[,;.]| with)"
)


def with_article(label: str) -> str:
    """An attack within a sentence: LiRA, the loss attack."""
    return f"the {label}" if label.endswith(" attack") else label
