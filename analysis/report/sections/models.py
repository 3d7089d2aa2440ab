"""Sections on models: how many the attack needs, how much it differs between them, and what was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....store.format.records import ROLES, Run
from ...charts import models as charts_models
from ...charts import models as charts_shadows
from ...charts.axes import number, percent
from ..data import Report
from ..names import labelled
from ..parts import Facts, Figure, Figures, Part, Section, Table
from ..words import mean_of


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


COLUMNS = (
    "role",
    "runs",
    "model",
    "epochs",
    "members",
    "train accuracy",
    "test accuracy",
    "training time",
    "device",
)
NUMERIC = (False, True, False, True, True, True, True, True, False)


def run_rows(report: Report) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...], tuple[bool, ...]]:
    """Columns, rows and which columns are numbers: the target, then one row a role."""
    rows = []
    if report.target is not None:
        rows.append(
            _row(
                f"target: {report.target.run}" if report.target.run != "target" else "target", [report.target]
            )
        )
    names = {"target": "other targets", "shadow": "shadow models", "leave_one_out": "leave-one-out"}
    for role in ROLES:
        runs = report.of_role(role)
        if runs:
            rows.append(_row(names.get(role, role), runs))
    return COLUMNS, tuple(rows), NUMERIC


def recipe_facts(report: Report) -> tuple[tuple[str, str], ...]:
    """How the target was trained, name by name; of the first shadow model where there is no target."""
    run = report.target or next(iter(report.runs), None)
    if run is None:
        return ()
    facts = [
        (name.replace("_", " "), _text(value))
        for name, value in run.info.recipe.items()
        if value not in (None, "", {}, [], ())
    ]
    if run.info.seed is not None:
        facts.append(("seed", str(run.info.seed)))
    facts += [(f"{name} version", str(version)) for name, version in run.info.versions.items()]
    return tuple(facts)


def _row(role: str, runs: Sequence[Run]) -> tuple[str, ...]:
    seconds = [run.info.seconds for run in runs if run.info.seconds is not None]
    return (
        role,
        f"{len(runs):,}",
        _same([run.info.model for run in runs]),
        _same([run.info.epochs for run in runs]),
        _range([run.members for run in runs]),
        _accuracy([run.info.train_accuracy for run in runs]),
        _accuracy([run.info.test_accuracy for run in runs]),
        _duration(sum(seconds)) if seconds else "–",
        _same([run.info.device for run in runs]),
    )


def _same(values: Sequence[Any]) -> str:
    told = list(dict.fromkeys(str(value) for value in values if value not in (None, "")))
    if len(told) > 2:
        return f"{told[0]}, {told[1]}, …"
    return ", ".join(told) or "–"


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _accuracy(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return percent(known[0], 3) if known else "–"
    return f"{percent(mean_of(known), 3)} ({number(100 * min(known))}–{number(100 * max(known))}%)"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{number(seconds)} s"
    if seconds < 5400:
        return f"{number(seconds / 60)} min"
    return f"{number(seconds / 3600)} h"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value, 4)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_text(inner) for inner in value)
    return str(value)
