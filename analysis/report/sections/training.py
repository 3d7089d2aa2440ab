"""Sections on the training: traces of single records, how the risk grew, how much hangs on the models, what was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ....store.format.records import ROLES, Run
from ...charts.axes import number, percent
from ...charts.models import auc_of_each, found_histogram, likeness_of_models, shadow_curve_chart
from ...charts.traces import Line, ablation_map, evolution_chart, traces_chart
from ...remedies import of_audit
from ..audit import covers
from ..data import Report, Traces
from ..parts import Facts, Figure, Figures, Part, Section, Table

if TYPE_CHECKING:
    import altair as alt

LINES = 8
"""Traces of single records drawn in one chart; more cannot be told apart."""

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

RECORDED = {
    "eval": "Measured by a pass over un-augmented data after each epoch.",
    "train": "Recorded inside the training steps, on augmented data.",
}


def traces(report: Report) -> Section | None:
    """Loss and gradient norm of the most exposed records beside all members'."""
    drawn = []
    lead = ""
    if report.traces is not None:
        drawn.append(Figure("traces", _traces(report, report.traces, "loss")))
        lead = f"{_learnt(report, report.traces)} {_recorded(report, report.traces.source)}"
    if report.grad_norms is not None:
        drawn.append(Figure("grad-norms", _traces(report, report.grad_norms, "gradient norm")))
        lead += " A large gradient of a record is one that pulls the model its way."
    if not drawn:
        return None
    what = " and ".join(
        filter(None, ("loss" * bool(report.traces), "gradient norm" * bool(report.grad_norms)))
    )
    title = f"{what[:1].upper()}{what[1:]} over training"
    return Section("traces", "Traces", title, lead.strip(), (Figures(tuple(drawn)),))


def evolution(report: Report) -> Section | None:
    """How LT-IQR grew over the training, and whether other quantiles would have done better."""
    grown, other = report.finding("evolution"), report.finding("quantile-ablation")
    drawn = []
    if grown is not None:
        drawn.append(Figure("evolution", evolution_chart(grown)))
    if other is not None:
        drawn.append(Figure("quantiles", ablation_map(other)))
    if not drawn:
        return None
    return Section(
        "evolution",
        "Risk over training",
        "How the risk grew over training",
        "LT-IQR of the training so far, as it could have been read off at each of these epochs: quantiles that still rise "
        "at the end are of losses that still move.",
        (Figures(tuple(drawn)),),
    )


def fleets(report: Report) -> Section | None:
    """The attack against the number of shadow models, and on each model in turn."""
    drawn = []
    curve, each, often = (
        report.finding("shadow-curve"),
        report.finding("per-model"),
        report.other("vulnerability"),
    )
    alike = report.finding("likeness")
    if alike is not None:
        drawn.append(Figure("likeness", likeness_of_models(alike)))
    if curve is not None:
        drawn.append(Figure("shadow-curve", shadow_curve_chart(curve)))
    if each is not None:
        drawn.append(Figure("per-model", auc_of_each(each)))
    if often is not None:
        drawn.append(Figure("vulnerability", found_histogram(often.scores)))
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
    rows = _runs(report)
    accurate = len(report.runs) > 1 and any(
        known is not None
        for run in report.runs
        for known in (run.info.train_accuracy, run.info.test_accuracy)
    )
    parts: list[Part] = [
        Table(
            COLUMNS,
            rows,
            NUMERIC,
            "Accuracies of several runs: mean, and lowest to highest." if accurate else "",
        )
    ]
    facts = _recipe(report)
    if facts:
        parts.append(Facts(facts, "Recipe of the target" if report.target else "Recipe of the runs"))
    parts.append(Facts(_audit(report), "What identifies this audit"))
    return Section("runs", "Runs", "What was trained", "", tuple(parts))


def _recorded(report: Report, source: str) -> str:
    """How the traces were recorded; of an estimator, what its epochs are and what stands in the place of before training."""
    epochs_are = None if report.target is None else report.target.info.extra.get("epochs_are")
    if source == "eval" and isinstance(epochs_are, str):
        return (
            f"Epochs are the model's {epochs_are}: what it says after each of them. Epoch 0 is what the shares of the classes among its members "
            "say, before anything is learnt of a record."
        )
    return RECORDED.get(source, "")


def _learnt(report: Report, found: Traces) -> str:
    """By which epoch the losses of the records shown, and the median member's, have fallen to half of where they began."""
    shown = [
        epoch
        for record in report.exposed
        if record.trace is not None and (epoch := _half(record.trace)) is not None
    ]
    among = sum(record.trace is not None for record in report.exposed)
    typical = _half(found.band.median)
    first = (
        "The median loss of the members does not fall to half of where it began"
        if typical is None
        else f"The median loss of the members has fallen to half of where it began by epoch {typical}"
    )
    if not among:
        return f"{first}."
    if not shown:
        return f"{first}; that of none of the {among} records shown on this page does."
    middle = sorted(shown)[(len(shown) - 1) // 2]
    told = "by then or earlier" if middle == typical else f"by epoch {middle}"
    if among == 1:
        return f"{first}; that of the record shown on this page {told}."
    who = (
        f"all {among} records shown on this page"
        if len(shown) == among
        else f"{len(shown)} of the {among} records shown on this page"
    )
    return f"{first}; {who} get there, half of these {told}."


def _half(trace: npt.NDArray[np.float64]) -> int | None:
    """The first epoch at which a trace is at half of its first value or under it; None where it never is."""
    known = np.flatnonzero(np.isfinite(trace))
    if not len(known):
        return None
    below = known[trace[known] <= trace[known[0]] / 2]
    return int(below[0]) if len(below) else None


def _traces(report: Report, found: Traces, signal: str) -> alt.Chart | alt.LayerChart:
    lines = [
        Line(f"{record.name}, {record.class_name}" if record.class_name else record.name, values)
        for record in report.exposed
        if (values := record.trace if signal == "loss" else record.grad_norms) is not None
    ][:LINES]
    return traces_chart(
        lines, found.band, signal=signal, lines_name=f"highest {report.ranked_by}", unit=report.loss_is
    )


def _runs(report: Report) -> tuple[tuple[str, ...], ...]:
    """The target, then one row a role."""
    rows = []
    if report.target is not None:
        name = report.target.run
        rows.append(_row(f"target: {name}" if name != "target" else name, [report.target]))
    names = {"target": "other targets", "shadow": "shadow models", "leave_one_out": "leave-one-out"}
    for role in ROLES:
        runs = report.of_role(role)
        if runs:
            rows.append(_row(names.get(role, role), runs))
    return tuple(rows)


def _recipe(report: Report) -> tuple[tuple[str, str], ...]:
    """How the target was trained, name by name; of the first shadow model where there is no target."""
    run = report.target or next(iter(report.runs), None)
    if run is None:
        return ()
    facts = [
        (name.replace("_", " "), _text(value))
        for name, value in run.info.recipe.items()
        if value not in (None, "", {}, [], ())
    ]
    if of_audit(report.experiment):
        unknown = (
            "seed, sample weights and early stopping"
            if facts
            else "how it was trained, as it was given finished"
        )
        versions = ", ".join(f"{name} {version}" for name, version in run.info.versions.items())
        return (
            *facts,
            ("not known", unknown),
            ("versions when it was asked", versions),
        )
    if run.info.seed is not None:
        facts.append(("seed", str(run.info.seed)))
    facts += [(f"{name} version", str(version)) for name, version in run.info.versions.items()]
    return tuple(facts)


def _audit(report: Report) -> tuple[tuple[str, str], ...]:
    audit = report.audit
    beside = [("digest of the data beside it", audit.beside[1])] if audit.beside is not None else []
    return (
        ("digest of the data", audit.data),
        *beside,
        ("digest of the recipe", audit.recipe),
        ("what they cover", covers(report.experiment)),
    )


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
    return f"{percent(sum(known) / len(known), 3)} ({number(100 * min(known))}–{number(100 * max(known))}%)"


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
