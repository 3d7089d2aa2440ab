"""The runs of a report, condensed: the target in a row of its own, its shadow models in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...store.format.records import ROLES, Run
from ..charts.axes import number, percent
from .data import Report
from .words import mean_of

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
