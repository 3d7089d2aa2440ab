"""The report in plain words: the verdict, its figures, and how far to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..attacks.lira import POOL_UNDER
from ..charts.axes import number, percent
from ..charts.scores import MEMORIZED
from .data import Headline, Report, beats_guessing, metric_of
from .parts import fixed, interval, plural

UNLIKE = 0.05
"""A difference in accuracy between target and shadow models from which they count as unlike."""


@dataclass(frozen=True)
class Figure:
    """One headline number: what it is, its value, its 95% interval, and a line that reads it."""

    name: str
    value: str
    interval: str
    reading: str


@dataclass(frozen=True)
class Trust:
    """A statement on how far the numbers go; ``caution`` marks what weakens them."""

    name: str
    text: str
    caution: bool = False


@dataclass(frozen=True)
class Verdict:
    """What the report says first."""

    title: str
    text: str
    figures: tuple[Figure, ...]
    trust: tuple[Trust, ...]


def verdict(report: Report) -> Verdict:
    """The verdict: what was measured, or what could not be."""
    if report.headline is not None:
        return _of_attack(report, report.headline)
    if report.lt_iqr is not None:
        return _of_ranking(report)
    return _of_samples(report)


def _of_attack(report: Report, headline: Headline) -> Verdict:
    attack, tpr, fpr = headline.attack, headline.tpr, headline.fpr
    means = f" with {plural(len(report.shadows), 'shadow model')}" if report.shadows else ""
    area = attack.auc
    even = f"Shown one member and one non-member, it tells which is which in {percent(area.value)} of cases (guessing: 50%)."
    auc = Figure(
        "AUC",
        fixed(area.value),
        f"95%: {fixed(area.ci_low)}–{fixed(area.ci_high)}",
        "0.5 is guessing, 1 is certainty; an average over all records, so it hides the few at risk",
    )
    trust = _trust(report, headline)
    if tpr is None or tpr.value is None or fpr is None:
        bounds = attack.tprs[-1]
        at = percent(float(bounds.parameters["fpr"]))
        unknown = Figure(
            f"TPR at FPR {at}", "not resolved", f"95%: {interval(bounds.ci_low, bounds.ci_high)}", ""
        )
        text = (
            f"With {plural(headline.non_members, 'non-member')} no false-positive rate up to {at} can be measured, so nobody "
            f"can say which records an attacker would name safely. {even}"
        )
        return Verdict("Too few non-members to tell who can be singled out", text, (unknown, auc), trust)
    found, members = len(headline.found), headline.members
    clear = headline.clear
    count = Figure(
        "Records that can be singled out" if clear else "Records named by the attack",
        f"{found:,}",
        f"95%: {_records(tpr.ci_low, members)}–{_records(tpr.ci_high, members)}",
        f"of {members:,} training records, at a false-positive rate of {percent(fpr)}",
    )
    rate = Figure(
        f"TPR at FPR {percent(fpr)}",
        percent(tpr.value),
        f"95%: {interval(tpr.ci_low, tpr.ci_high)}",
        f"guessing: {percent(fpr)}"
        + (f"; the attack does {number(tpr.value / fpr, 2)} times better" if clear else ""),
    )
    accused = (
        f"An attacker ({attack.label}{means}) correctly names {found:,} of the {members:,} training records while wrongly "
        f"accusing {headline.accused:,} of {headline.non_members:,} others: {percent(tpr.value)}, at a false-positive rate "
        f"where guessing names {percent(fpr)}."
    )
    coarser = next((metric for metric in attack.tprs if beats_guessing(metric)), None)
    if clear:
        title = f"{found:,} of {members:,} training records can be singled out"
        doubt = ""
    elif coarser is not None or (area.ci_low or 0) > 0.5:
        title = "The model gives training records away; how many can be singled out is not certain"
        doubt = f" With this few non-members the share may be anything within {interval(tpr.ci_low, tpr.ci_high)}."
        if coarser is not None:
            doubt += (
                f" At a false-positive rate of {percent(float(coarser.parameters['fpr']))} it is {percent(coarser.value)} "
                f"({interval(coarser.ci_low, coarser.ci_high)}), clearly more than guessing."
            )
    else:
        title = "No sign that training records can be singled out"
        doubt = f" Chance explains that; the data leave room for at most {percent(tpr.ci_high)}."
    text = f"{accused}{doubt} {even}"
    return Verdict(title, text, (count, rate, auc), trust)


def _of_ranking(report: Report) -> Verdict:
    """LT-IQR alone: an order of records, no attack to measure it by."""
    assert report.lt_iqr is not None
    frame = report.lt_iqr.scores.frame
    values = frame.filter(frame["member"].fill_null(value=False))["score"].drop_nulls().to_numpy()
    top = max(1, int(0.01 * len(values)))
    first = float(np.sort(values)[-top]) if len(values) else None
    middle = float(np.median(values)) if len(values) else None
    figures = (
        Figure(
            "Members ranked",
            f"{len(values):,}",
            "",
            "by LT-IQR, the spread of each record's loss over training",
        ),
        Figure("Median LT-IQR", number(middle), "", "nats; a typical record"),
        Figure(
            f"LT-IQR from the top {plural(top, 'record')} on",
            number(first),
            "",
            "the most exposed 1% lie here or above",
        ),
    )
    text = (
        "LT-IQR orders the training records by how exposed they are, from this one training run. Whether an attacker can "
        "in fact single them out takes shadow models: collect some with 'losslake collect shadows'."
    )
    return Verdict(
        "Records are ranked by exposure; no strong attack was measured", text, figures, _trust(report, None)
    )


def _of_samples(report: Report) -> Verdict:
    """Shadow runs without a target: what models like these memorize."""
    figures = []
    scored = report.memorization or report.privacy_score
    assert scored is not None
    known = scored.scores.frame["score"].drop_nulls().to_numpy()
    title = f"{plural(len(known), 'sample')} ranked by {scored.label}"
    if report.memorization is not None:
        share = next(
            (
                m
                for m in report.memorization.scores.metrics
                if m.metric == "share_above" and m.parameters.get("threshold") == MEMORIZED
            ),
            None,
        )
        if share is not None and share.value is not None:
            samples = plural(len(known), "sample")
            title = f"About {round(share.value * len(known)):,} of {samples} memorized"
            if not share.ci_low:
                title = f"None of {samples} can be said to be memorized"
            beside = "of the samples"
            if "by_chance" in share.parameters:
                estimates, chance = (percent(share.parameters[name]) for name in ("estimates", "by_chance"))
                beside += f"; {estimates} of the estimates are above it, by chance alone {chance} would be"
            figures.append(
                Figure(
                    f"Memorization above {MEMORIZED}",
                    percent(share.value),
                    f"95%: {interval(share.ci_low, share.ci_high)}",
                    beside,
                )
            )
    figures.append(
        Figure(
            f"Mean {scored.label}", number(float(known.mean())), "", f"over {plural(len(known), 'sample')}"
        )
    )
    missing = (
        "There is no target run"
        if report.target is None
        else f"Run {report.target.run} has no signals to attack"
    )
    text = (
        f"Over {plural(len(report.shadows), 'shadow model')}, trained with and without each sample. {missing}: nothing is said "
        "about one particular model. Collect one with 'losslake collect target'."
    )
    return Verdict(title, text, tuple(figures), _trust(report, None))


def _trust(report: Report, headline: Headline | None) -> tuple[Trust, ...]:
    found = []
    if headline is not None:
        found.append(_resolution(headline))
    if report.shadows:
        count = len(report.shadows)
        pooled = (
            f" Under {POOL_UNDER}, LiRA shares one variance among all records, and finds fewer."
            if count < POOL_UNDER
            else ""
        )
        found.append(
            Trust(
                plural(count, "shadow model"),
                f"A stronger attacker trains more of them.{pooled}",
                count < POOL_UNDER,
            )
        )
        found += _likeness(report)
    elif headline is None:
        found.append(
            Trust(
                "No shadow models",
                "No strong attack was measured; the ranking alone says nothing about how many.",
                True,
            )
        )
    if headline is not None:
        found.append(
            Trust(
                "A lower bound",
                f"This is what {headline.attack.label} finds. Another attack may find more records, or others.",
            )
        )
    if report.target is not None:
        duals = [run for run in report.of_role("target") if run.info.parent == report.target.run]
        more = (
            f" {plural(len(duals), 'dual')} of it were trained but are not part of these figures."
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
    finest = percent(headline.attack.curve.resolution)
    text = f"They resolve false-positive rates from {finest} up."
    coarse = headline.fpr is None or headline.fpr > headline.wanted
    if coarse:
        at = f"; the figures are at {percent(headline.fpr)}" if headline.fpr is not None else ""
        text += f" {percent(headline.wanted)} was asked for and cannot be measured{at}."
    else:
        text += f" The figures are at {percent(headline.fpr)}, where about {round(others * (headline.fpr or 0)):,} of them score higher."
    return Trust(plural(others, "non-member"), text, coarse)


def _likeness(report: Report) -> list[Trust]:
    target = report.target
    mean = mean_of([run.info.test_accuracy for run in report.shadows])
    if target is None or target.info.test_accuracy is None or mean is None:
        return []
    mine = target.info.test_accuracy
    if abs(mine - mean) <= UNLIKE:
        return []
    text = f"Test accuracy {percent(mine, 3)} against {percent(mean, 3)} on average: the attack was calibrated on other models."
    return [Trust("Shadow models unlike the target", text, True)]


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _records(share: float | None, members: int) -> str:
    return "–" if share is None else f"{round(share * members):,}"
