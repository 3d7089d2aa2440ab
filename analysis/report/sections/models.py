"""Sections on models: how many the attack needs, how much it differs between them, and what was trained."""

from __future__ import annotations

from ...charts import models as charts_models
from ...charts import shadows as charts_shadows
from ..data import Report
from ..names import labelled
from ..parts import Facts, Figure, Figures, Part, Section, Table
from ..runs import recipe_facts, run_rows


def fleets(report: Report) -> Section | None:
    """The attack against the number of shadow models, and on each model in turn."""
    drawn = []
    curve = next(iter(report.said("shadow-curve")), None)
    if curve is not None:
        drawn.append(Figure("shadow-curve", charts_shadows.shadow_curve_chart(labelled(curve.finding))))
    each = next(iter(report.said("per-model")), None)
    if each is not None:
        drawn.append(Figure("per-model", charts_models.auc_of_each(labelled(each.finding))))
    often = report.other("vulnerability")
    if often is not None:
        drawn.append(Figure("vulnerability", charts_models.found_histogram(often.scores)))
    if not drawn:
        return None
    return Section(
        "models",
        "Across models",
        "How much hangs on the models",
        "The figures above are of one trained model and of the shadow models at hand. With more of these the attack may do "
        "better, and on the next model that is trained alike it may do better or worse.",
        (Figures(tuple(drawn)),),
    )


def trained(report: Report) -> Section:
    """The runs and the recipe."""
    columns, rows, numeric = run_rows(report)
    parts: list[Part] = [
        Table(columns, rows, numeric, "Accuracies of several runs: mean, and lowest to highest.")
    ]
    facts = recipe_facts(report)
    if facts:
        parts.append(Facts(facts, "Recipe of the target" if report.target else "Recipe of the runs"))
    return Section("runs", "Runs", "What was trained", "", tuple(parts))
