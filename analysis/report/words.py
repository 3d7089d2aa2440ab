"""The report in plain words: the verdict and its figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..charts.axes import number, percent
from ..charts.scores import MEMORIZED
from ..evaluations.likeness import SHIFTED
from ..remedies import of_own_loop
from ..statistics.metric import Metric
from ..statistics.roc import RESOLVED_FROM, firm
from .data import Attack, Report, beats_guessing, label_of
from .next_steps import Step, steps
from .parts import fixed, interval, plural
from .trust import Trust, trust
from .verdict import Better, Judgement, headline_of, is_strong, rests_on_likeness


@dataclass(frozen=True)
class Figure:
    """One headline number: what it is, its value, its 95% interval, and a line that reads it."""

    name: str
    value: str
    interval: str
    reading: str


@dataclass(frozen=True)
class Verdict:
    """What the report says first."""

    title: str
    text: str
    figures: tuple[Figure, ...]
    trust: tuple[Trust, ...]
    next_steps: tuple[Step, ...]


def verdict(report: Report) -> Verdict:
    """The verdict: what was measured, or what could not be."""
    if report.judgement.attack is not None:
        return _of_attack(report, report.judgement, report.judgement.attack)
    if report.lt_iqr is not None:
        return _of_ranking(report)
    return _of_samples(report)


def title_of(judged: Judgement, shadows: int) -> str:
    """The verdict in one line, its level first."""
    attack = judged.attack
    if attack is None:
        return "Cannot tell: no attack on a target was measured"
    by = attack_name(attack, shadows)
    if judged.level == "clear leak":
        return f"Clear leak: {len(judged.named):,} of {plural(judged.members, 'training record')} named, {luck(judged)}"
    if judged.level == "signs":
        if rests_on_likeness(judged):
            return "Signs of a leak, or of members that are unlike the others"
        return "Signs that the model gives training records away"
    if judged.level == "none found":
        return f"No leak found by {by}"
    why = {
        "members differ": "members differ from non-members for models that were trained on neither, too",
        "worse than guessing": f"{by} does worse than guessing",
        "too few records": f"{plural(attack.curve.members, 'member')} with a score {_are(attack.curve.members)} too few"
        if judged.tpr is not None
        else f"{plural(attack.curve.non_members, 'non-member')} {_are(attack.curve.non_members)} too few for a false-positive rate of "
        + percent(float(attack.tprs[-1].parameters["fpr"])),
        "one score": f"{by} gives all records the same score",
        "ties": f"{by} gives too many records the same score for a false-positive rate of {percent(judged.fpr)}",
        "no shadow models": f"{by} makes no use of the {plural(shadows, 'shadow model')}"
        if shadows
        else "no attack with shadow models was made",
        "models unlike": "the shadow models are unlike the target",
    }
    return f"Cannot tell: {why[judged.rule]}"


def luck(judged: Judgement) -> str:
    """How many members an attack at the FPR that is reached names by chance."""
    count = judged.by_luck or 0.0
    if count >= 0.5:
        return f"about {round(count):,} of them by luck"
    return (
        "hardly any of them by luck"
        if judged.named and judged.reached != judged.fpr
        else "none of them by luck"
    )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def attack_name(attack: Attack, shadows: int) -> str:
    """The attack with the shadow models that it had, as a bound holds of no other."""
    return (
        f"{attack.label} with {plural(shadows, 'shadow model')}"
        if shadows and is_strong(attack)
        else attack.label
    )


def _of_attack(report: Report, judged: Judgement, attack: Attack) -> Verdict:
    area, tpr, fpr = attack.auc, judged.tpr, judged.fpr
    by = attack_name(attack, len(report.shadows))
    auc = Figure(
        "AUC",
        fixed(area.value),
        f"95%: {fixed(area.ci_low)}–{fixed(area.ci_high)}",
        "0.5 is guessing, 1 is certainty; an average over all records, so it hides the few at risk",
    )
    figures: tuple[Figure, ...]
    at = judged.reached
    if tpr is None or tpr.value is None or fpr is None:
        bounds = attack.tprs[-1]
        asked = percent(float(bounds.parameters["fpr"]))
        spread = f"95%: {interval(bounds.ci_low, bounds.ci_high)}"
        figures = (Figure(f"TPR at FPR {asked}", "not resolved", spread, ""), auc)
    else:
        figures = (
            Figure(
                "Records named by the attack",
                f"{len(judged.named):,}",
                f"95%: {_records(tpr.ci_low, attack.curve.members)}–{_records(tpr.ci_high, attack.curve.members)}",
                f"of {plural(judged.members, 'training record')}, at a false-positive rate of {percent(at)}; {luck(judged)}",
            ),
            Figure(
                f"TPR at FPR {percent(fpr)}",
                percent(tpr.value),
                f"95%: {interval(tpr.ci_low, tpr.ci_high)}",
                f"guessing: {percent(at)}"
                + (
                    f"; the attack does {number(tpr.value / at, 2)} times better"
                    if at and beats_guessing(tpr)
                    else ""
                ),
            ),
            auc,
        )
    text = " ".join(
        filter(
            None,
            (_measured(judged, attack, by), _meaning(judged, attack, by), _area(area), _tail(report, judged)),
        )
    )
    return Verdict(
        title_of(judged, len(report.shadows)),
        text,
        figures,
        trust(report, headline_of(judged, report.fprs[0])),
        steps(report),
    )


def _measured(judged: Judgement, attack: Attack, by: str) -> str:
    """What the attack did at the lowest rate that can be resolved."""
    tpr, fpr = judged.tpr, judged.fpr
    if tpr is None or fpr is None:
        return (
            f"With {plural(attack.curve.non_members, 'non-member')} none of the asked false-positive rates can be resolved; the lowest "
            f"that could be is {percent(RESOLVED_FROM / max(attack.curve.non_members, RESOLVED_FROM))}. So nobody can say which records an attacker would name safely."
        )
    at = judged.reached
    rate = f"{percent(at)}, where guessing names {percent(at)}"
    if at != fpr:
        rate += f": so many others have the same score that no threshold comes nearer to the {percent(fpr)} asked for"
    told = (
        f"An attacker ({by}) names {len(judged.named):,} of the {plural(judged.members, 'training record')} while wrongly "
        f"accusing {judged.accused:,} of {attack.curve.non_members:,} others: {percent(tpr.value)} "
        f"({interval(tpr.ci_low, tpr.ci_high)}), at a false-positive rate of {rate}."
    )
    without = judged.members_without_score
    if without:
        told += f" Of the training records {without:,} {'has' if without == 1 else 'have'} no score and cannot be named; the rates leave them out."
    return told


def _meaning(judged: Judgement, attack: Attack, by: str) -> str:
    """What the numbers allow to be said, and what they do not."""
    tpr = judged.tpr
    most = tpr.ci_high if tpr is not None else None
    said = []
    if judged.rule == "another attack":
        first = judged.better[0]
        said.append(
            f"That alone is no better than guessing, but {_told(first)}, which chance does not explain among all that was looked at."
        )
        if rests_on_likeness(judged):
            said.append(_UNLIKE_KIND if SHIFTED in judged.warned else _DIFFERENT)
    elif judged.level == "signs":
        better = (
            "This rate is better than guessing"
            if tpr is not None and beats_guessing(tpr)
            else "The AUC is better than guessing"
        )
        if SHIFTED in judged.warned:
            said.append(f"{better}. {_UNLIKE_KIND}")
        elif is_strong(attack):
            said.append(f"{better}, too little for a count of records that stand out for sure.")
        else:
            said.append(f"{better}. {_DIFFERENT}")
    elif judged.level == "none found":
        said.append(
            f"That is no better than guessing. {by[:1].upper()}{by[1:]} names at most {percent(most)} of the members at this false-positive rate "
            "(95%); a stronger attack may name more."
        )
    elif judged.rule == "members differ":
        said.append(
            "Models that were trained on neither find members and non-members unlike, and this attack takes that for a leak: neither a leak nor "
            "its absence is shown."
        )
    elif judged.rule == "models unlike":
        said.append(
            f"That is no better than guessing, but {by} is calibrated on models unlike the target, and may miss what the target gives away."
        )
    elif judged.rule == "worse than guessing":
        said.append(
            "Its AUC lies below 0.5: the fleet or the memberships are not what the attack takes them for, so neither a leak nor its absence is shown."
        )
    elif judged.rule == "too few records":
        said.append(
            "So few records can show the absence of nothing at these rates: this is neither a sign of a leak nor of its absence."
        )
    elif judged.rule == "one score":
        said.append("So it tells nobody from anybody: neither a leak nor its absence is shown.")
    elif judged.rule == "ties":
        said.append(
            "That is no better than guessing, but whoever parts records with the same score by other means may name more: neither a leak nor its "
            "absence is shown."
        )
    elif judged.rule == "no shadow models":
        said.append(
            "That is no better than guessing, but an attack without shadow models can miss what one with them finds."
        )
    if SHIFTED in judged.warned and judged.rule != "members differ":
        said.append(
            "Members and non-members differ by themselves, so attacks that take that for a leak are left out of this verdict."
        )
    if judged.by_chance and not judged.better and judged.level != "clear leak":
        said.append(
            f"{_told(judged.by_chance[0])[:1].upper()}{_told(judged.by_chance[0])[1:]}: among so many numbers, chance explains that."
        )
    return " ".join(said)


def _tail(report: Report, judged: Judgement) -> str:
    """What the tail of the losses lets expect of LiRA, where there are no shadow models; at the lowest rate that the members resolve."""
    finding = report.finding("tail")
    # One that is kept may be from before there were shadow models, or of another score's tail.
    if finding is None or SHIFTED in judged.warned or any(map(is_strong, report.attacks)):
        return ""
    for metric in finding.metrics:
        fnr = float(metric.parameters["fnr"])
        if (
            metric.parameters["score"] == label_of("loss")
            and metric.value is not None
            and (metric.ci_low, metric.ci_high) != (0.0, 1.0)
            and firm(fnr, metric.parameters["members"])
        ):
            return (
                f"By the tail of its losses, LiRA with shadow models would name about {percent(metric.value)} ({interval(metric.ci_low, metric.ci_high)}) "
                f"of the members at a false-positive rate of {percent(fnr)} (guessing: {percent(fnr)}), if members are drawn like the others: a rough estimate "
                "for the model as a whole, on small models mostly right within a factor of two."
            )
    return ""


_DIFFERENT = (
    "No attack that is better compares with shadow models: were the members easier records than the others, or from another source, it "
    "would look the same."
)


_UNLIKE_KIND = (
    "Models that were trained on neither find members and non-members unlike, too: a target that knows the kind of its members, and none of "
    "them, would look the same."
)


def _told(better: Better) -> str:
    metric = better.metric
    if metric.metric == "auc":
        return f"the AUC of {better.label} is {fixed(metric.value)} ({fixed(metric.ci_low)}–{fixed(metric.ci_high)})"
    at = percent(float(metric.parameters["fpr"]))
    return f"{better.label} names {percent(metric.value)} ({interval(metric.ci_low, metric.ci_high)}) at a false-positive rate of {at}"


def _area(area: Metric) -> str:
    right = percent(area.value)
    if right == "100%" and area.value != 1:
        right = "over 99.9%"
    return (
        f"Shown one member and one non-member, it tells which is which in {right} of cases (guessing: 50%)."
    )


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
        Figure(f"Median LT-IQR{report.nats}", number(middle), "", "a typical record"),
        Figure(
            f"LT-IQR from the top {plural(top, 'record')} on",
            number(first),
            "",
            "the highest 1% lie here or above",
        ),
    )
    text = (
        "LT-IQR orders the training records by how far their loss moved over this one training run. Whether an attacker can "
        "in fact single them out takes shadow models: "
        + (
            f"train some with your own loop, lake.shadow_runs({report.experiment.name!r}, count=32)."
            if of_own_loop(report.experiment)
            else "collect some with 'losslake collect shadows'."
        )
    )
    return Verdict(
        "Cannot tell: records are ranked by exposure, no attack was measured",
        text,
        figures,
        trust(report, None),
        steps(report),
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
        "about one particular model. "
        + (
            f"Record one with lake.start_run({report.experiment.name!r}, ...)."
            if of_own_loop(report.experiment)
            else "Collect one with 'losslake collect target'."
        )
    )
    return Verdict(title, text, tuple(figures), trust(report, None), steps(report))


def _records(share: float | None, members: int) -> str:
    return "–" if share is None else f"{round(share * members):,}"
