"""Sections on attacks: how well each does, whether they name the same records, and the KDE attack's densities."""

from __future__ import annotations

from ...charts import kde as charts_kde
from ...charts import pairs as charts_agreement
from ...charts import roc as charts_roc
from ..data import Report
from ..names import labelled
from ..parts import Figure, Figures, Section
from ..tables import attacks_table


def attacks(report: Report) -> Section | None:
    """ROC curves, TPR at low FPR, and both in numbers."""
    if not report.attacks:
        return None
    curves = [attack.curve for attack in report.attacks]
    return Section(
        "attacks",
        "Attacks",
        "How well attacks tell members from non-members",
        "The left end of the curve matters: an attack that is right about a few records without accusing others is a "
        "leak, however poor it is on average."
        + (" A click on a name under a curve brings it out." if len(curves) > 1 else ""),
        (
            Figures(
                (
                    Figure("roc", charts_roc.roc_chart(curves)),
                    Figure("roc-linear", charts_roc.roc_chart(curves, log=False)),
                )
            ),
            attacks_table(report),
            Figures(
                (
                    Figure(
                        "tpr",
                        charts_roc.tpr_chart([(attack.label, attack.metrics) for attack in report.attacks]),
                    ),
                )
            ),
        ),
    )


def agreement(report: Report) -> Section | None:
    """Which attacks give the same answers."""
    said = next(iter(report.said("agreement")), None)
    if said is None:
        return None
    return Section(
        "agreement",
        "Agreement",
        "Whether attacks name the same records",
        "Attacks that answer alike bring little beside each other; where they differ, a record that one misses may be "
        "found by another. The first row is the truth: the share of members that an attack names; the first column, that of non-members that it rightly does not.",
        (Figures((Figure("agreement", charts_agreement.agreement_matrix(labelled(said.finding))),)),),
    )


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
                    Figure("kde-densities", charts_kde.loss_densities(scores)),
                    Figure("kde-confusion", charts_kde.confusion_matrix(scores)),
                )
            ),
        ),
    )
