"""Sections on attacks: how well each does and what it proves, whether they name the same records, what a defence takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...charts.agreement import agreement_matrix
from ...charts.axes import number, percent
from ...charts.bounds import epsilon_bounds, tail_estimates, usage_shares
from ...charts.experiments import attacks_with_and_without
from ...charts.kde import confusion_matrix, loss_densities
from ...charts.roc import roc_chart, tpr_chart
from ...evaluations.agreement import TRUTH
from ...scores import Finding
from ...statistics.metric import Metric
from ...statistics.roc import RESOLVED_FROM, firm
from ..data import Attack, Report
from ..parts import Figure, Figures, Part, Section, Table, area, fixed, listed, rate
from ..verdict import resolves

IN_COLOUR = 4
"""Attacks that a chart draws in colour at once; the eye follows no more."""

_RATES = {"auc": "AUC", "tpr_at_fpr": "TPR"}


def attacks(report: Report) -> Section | None:
    """ROC curves, TPR at low FPR, and both in numbers."""
    if not report.attacks:
        return None
    leading = matter_most(report)
    order = {label: place for place, label in enumerate(leading)}
    shown = sorted(report.attacks, key=lambda attack: order.get(attack.label, len(order)))
    curves = [attack.curve for attack in shown]
    rates = _measurable(report)
    drawn = [
        (attack.label, [metric for metric in attack.metrics if metric.parameters.get("fpr") in rates])
        for attack in shown
        if attack.label in leading
    ]
    tip = "A click on a name under the curves brings it out." if len(curves) > 1 else ""
    parts: list[Part] = [
        Figures(
            (
                Figure("roc", roc_chart(curves, leading=leading, firm=True), tip=tip),
                Figure("roc-linear", roc_chart(curves, log=False, leading=leading), tip=tip),
            )
        ),
        _attacks_table(report, shown, rates),
    ]
    if rates:
        parts.append(Figures((Figure("tpr", tpr_chart(drawn)),)))
    tail = report.finding("tail")
    told = (
        []
        if tail is None
        else [one for one in tail.metrics if firm(one.parameters["fnr"], one.parameters["members"])]
    )
    if tail is not None and told:
        parts.append(Figures((Figure("tail", tail_estimates(replace(tail, metrics=tuple(told)))),)))
    return Section(
        "attacks",
        "Attacks",
        "How well attacks tell members from non-members",
        "The left end of the curve matters: an attack that is right about a few records without accusing others is a "
        "leak, however poor it is on average.",
        tuple(parts),
    )


def matter_most(report: Report) -> tuple[str, ...]:
    """Labels of the attacks that are drawn in colour: that of the verdict, then those that count for it whose AUC is surest to be above guessing."""
    judged = report.judgement
    lead = [judged.attack] if judged.attack is not None else []
    others = [
        one
        for one in report.attacks
        if one not in lead and judged.counts(one) and (one.auc.ci_low or 0) > 0.5
    ]
    others.sort(key=lambda one: -(one.auc.ci_low or 0))
    return tuple(one.label for one in [*lead, *others][:IN_COLOUR])


def _measurable(report: Report) -> tuple[float, ...]:
    """The asked FPRs that the non-members of some attack resolve; nothing is shown at the others."""
    asked = sorted({float(metric.parameters["fpr"]) for one in report.attacks for metric in one.tprs})
    most = max(one.curve.non_members for one in report.attacks)
    return tuple(fpr for fpr in asked if firm(fpr, most))


def agreement(report: Report) -> Section | None:
    """Which attacks give the same answers."""
    finding = report.finding("agreement")
    if finding is None or _says_nothing(report, finding):
        return None
    return Section(
        "agreement",
        "Agreement",
        "Whether attacks name the same records",
        "Attacks that answer alike bring little beside each other; where they differ, a record that one misses may be "
        "found by another. The first row is the truth: the share of members that an attack names; the first column, that of non-members that it rightly does not.",
        (Figures((Figure("agreement", agreement_matrix(finding)),)),),
    )


def _says_nothing(report: Report, finding: Finding) -> bool:
    """Whether its FPR is one that the non-members do not resolve, or the attacks name no member there: a matrix of zeros."""
    rates = [m for m in finding.metrics if m.parameters.get("among") == "members"]
    if not any(
        firm(float(m.parameters["fpr"]), one.curve.non_members) for m in rates for one in report.attacks
    ):
        return True
    return not any(m.value for m in rates if m.parameters.get("first") == TRUTH)


def known_losses(report: Report) -> Section | None:
    """The densities that the KDE attack compares, and how often it is right."""
    attack = report.attack("kde")
    if attack is None:
        return None
    scores = attack.scored.scores
    return Section(
        "kde",
        "Losses of known records",
        "An attacker who knows some of the members",
        "The KDE attack needs no shadow model: it learns from records whose membership it knows what losses members have, "
        "and asks of every other record which of the two densities its loss fits better.",
        (
            Figures(
                (
                    Figure("kde-densities", loss_densities(scores)),
                    Figure("kde-confusion", confusion_matrix(scores)),
                )
            ),
        ),
    )


def bounds(report: Report) -> Section | None:
    """What attacks prove of the training's epsilon, and what they tell of the share of data used."""
    audit, usage = report.finding("dp-audit"), report.finding("duci")
    parts: list[Part] = []
    if audit is not None:
        parts.append(Figures((Figure("dp-audit", epsilon_bounds(audit)),)))
        parts.append(_bounds_table(audit))
    if usage is not None:
        parts.append(Figures((Figure("duci", usage_shares(usage)),)))
    if not parts:
        return None
    title = "What the attack proves" if audit is not None else "Which share of the data was used"
    return Section(
        "bounds",
        "Bounds",
        title,
        "An attack that does well proves that the training cannot have been private beyond a bound; what such a bound "
        "rests on stands in the notes."
        if audit is not None
        else "",
        tuple(parts),
    )


def defended(report: Report) -> Section | None:
    """Attacks and costs of the experiment beside those of another one, which was trained with a defence."""
    finding = report.finding("defences")
    if finding is None:
        return None
    areas = [m for m in finding.metrics if m.metric == "auc"]
    experiments = list(dict.fromkeys(str(m.parameters["experiment"]) for m in areas))
    return Section(
        "defences",
        "Defence",
        "What the defence is worth",
        f"The same records in two experiments: {experiments[0]}, and {experiments[-1]} with the defence. A change whose interval "
        "holds 0 may be chance.",
        (
            Figures((Figure("defences", attacks_with_and_without(finding)),)),
            _changes(finding, experiments),
            _costs(finding, experiments),
        ),
    )


def _changes(finding: Finding, experiments: list[str]) -> Table:
    """AUC and TPR at each FPR of every score in both experiments, and the change."""
    changes = {_key(m, str(m.parameters["of"])): m for m in finding.metrics if m.metric == "difference"}
    sides = [
        {_key(m): m for m in finding.metrics if m.parameters.get("experiment") == name and m.metric in _RATES}
        for name in experiments
    ]
    rows = [
        (f"{key[0]}, {_named(key)}", *(_told(side.get(key)) for side in sides), _told(changes.get(key)))
        for key in sides[0]
    ]
    return Table(
        ("attack", *experiments, "change"),
        tuple(rows),
        (False, *[True] * (len(experiments) + 1)),
        "95% intervals in brackets, over records: another training of the same two recipes may differ by more.",
    )


def _key(metric: Metric, of: str | None = None) -> tuple[str, str, float | None]:
    return str(metric.parameters["score"]), of or metric.metric, metric.parameters.get("fpr")


def _named(key: tuple[str, str, float | None]) -> str:
    at = f" at FPR {percent(key[2])}" if key[2] is not None else ""
    return f"{_RATES[key[1]]}{at}"


def _told(metric: Metric | None) -> str:
    if metric is None:
        return "–"
    value = "not resolved" if metric.value is None else fixed(metric.value)
    return f"{value} ({fixed(metric.ci_low)} to {fixed(metric.ci_high)})"


def _costs(finding: Finding, experiments: list[str]) -> Table:
    """Accuracies and epsilon of the two targets."""
    rows = []
    for name in experiments:
        own = {m.metric: m for m in finding.metrics if m.parameters.get("experiment") == name}
        accuracies = [own.get("test_accuracy"), own.get("train_accuracy")]
        epsilon = own.get("epsilon")
        rows.append(
            (
                name,
                *(percent(m.value, 3) if m and m.value is not None else "–" for m in accuracies),
                "none promised"
                if epsilon is None
                else f"{number(epsilon.value)} at delta {float(epsilon.parameters['delta']):g}",
            )
        )
    return Table(
        ("experiment", "test accuracy", "train accuracy", "epsilon"),
        tuple(rows),
        (False, True, True, True),
        "What the defence costs. Epsilon is what a training with DP-SGD promises.",
    )


def _attacks_table(report: Report, attacks: Sequence[Attack], rates: Sequence[float]) -> Table:
    """AUC, and TPR at each FPR that is resolved, of every attack, with intervals."""
    rows = []
    for attack in attacks:
        sizes = (f"{attack.curve.members:,}", f"{attack.curve.non_members:,}")
        tprs = [
            rate(metric) if resolves(metric) else "not resolved"
            for metric in attack.tprs
            if metric.parameters["fpr"] in rates
        ]
        rows.append((attack.label, area(attack.auc), *tprs, *sizes))
    left = [
        percent(float(metric.parameters["fpr"]))
        for metric in report.attacks[0].tprs
        if metric.parameters["fpr"] not in rates
    ]
    caption = (
        "95% intervals in brackets: of the AUC by DeLong; of the TPR exact, with the choice of the threshold."
    )
    if left:
        caption += (
            f" TPR at FPR {listed(left)}: not resolved (about {RESOLVED_FROM} non-members have to lie above the threshold; "
            "with fewer, an interval reaches down to 0 whatever was found)."
        )
    aside = [attack.label for attack in attacks if not report.judgement.counts(attack)]
    if aside:
        caption += f" Members and non-members differ by themselves, and what these show is that difference, or partly: {', '.join(aside)}."
    return Table(
        ("attack", "AUC", *(f"TPR at FPR {percent(fpr)}" for fpr in rates), "members", "non-members"),
        tuple(rows),
        (False, *[True] * (len(rates) + 3)),
        caption,
    )


def _bounds_table(finding: Finding) -> Table:
    """Lower bounds on epsilon: the method, the score it rests on, bound and estimate."""
    found = [metric for metric in finding.metrics if metric.metric == "epsilon_lower"]
    estimates = {
        (metric.parameters["method"], metric.parameters["score"]): metric.value
        for metric in finding.metrics
        if metric.metric == "epsilon_estimate"
    }
    rows = tuple(
        (
            str(metric.parameters["method"]),
            str(metric.parameters["score"]),
            "not claimed" if metric.value is None else number(metric.value),
            number(estimates.get((metric.parameters["method"], metric.parameters["score"]))),
            f"{metric.n or 0:,}",
        )
        for metric in found
    )
    at = next((metric.parameters for metric in found), {"confidence": 0.0, "delta": 0.0})
    return Table(
        ("method", "score", "epsilon at least", "estimate", "records or pairs"),
        rows,
        (False, False, True, True, True),
        f"At a one-sided confidence of {percent(float(at['confidence']))} and a delta of {float(at['delta']):g}. A lower bound near "
        "0 shows no leak and proves no privacy: no audit bounds epsilon from above.",
    )
