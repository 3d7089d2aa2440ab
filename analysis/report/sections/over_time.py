"""The section on how risk moved from model to model."""

from __future__ import annotations

from collections.abc import Sequence

from ...charts.axes import percent
from ...charts.experiments import risk_of_models
from ...statistics.metric import Metric
from ..compared import MOST_LISTED, Compared, Model
from ..data import Report, label_of
from ..parts import Facts, Figure, Figures, Part, Section, Table, area, minus, rate

CHANGE = {True: "change, points", False: "change"}
"""The name of a change of a rate, and of an AUC."""


def over_time(report: Report) -> Section | None:
    """One attack on several models in turn: rates with intervals, who is newly named, what changed in the recipe."""
    compared = report.compared
    if compared is None:
        return None
    attack, fpr = label_of(compared.attack), compared.fpr
    rows = [
        (
            model.name,
            f"{model.attack.curve.members:,}",
            rate(model.tpr) if model.tpr is not None else "not resolved",
            _moved(model.moved, fpr is not None),
            f"{len(model.named):,}" if fpr is not None else "–",
            _newly(model, place),
            area(model.attack.auc),
        )
        for place, model in enumerate(compared.models)
    ]
    at = f" at FPR {percent(fpr)}" if fpr is not None else ""
    table = Table(
        ("model", "members", f"TPR{at}", CHANGE[fpr is not None], "named", "newly named", "AUC"),
        tuple(rows),
        (False, True, True, True, True, True, True),
        f"By {attack}{at}, the lowest rate that the non-members of all models resolve; 95% intervals in brackets, over records: the chance in training is not in them. "
        + _about_change("TPR", compared.models)
        + "Newly named: named here, and not in the model before it, in brackets how many of them that one was trained on as well; about as many as the rate says are named by luck, other ones in each model."
        if fpr is not None
        else f"By {attack}. No asked false-positive rate is resolved by the non-members of all models. 95% intervals in brackets. "
        + _about_change("AUC", compared.models),
    )
    told = [
        (
            model.name,
            ", ".join([*model.newly[:MOST_LISTED], *(["…"] if model.newly[MOST_LISTED:] else [])]),
        )
        for model in compared.models
        if model.newly
    ]
    chart = risk_of_models(
        [(model.name, model.tpr if fpr is not None else model.attack.auc) for model in compared.models], fpr
    )
    parts: list[Part] = [Figures((Figure("over-time", chart),)), table]
    parts.append(
        Facts(
            tuple(
                (
                    model.name,
                    "; ".join(f"{name}: {was} → {now}" for name, was, now in model.changed) or "nothing",
                )
                for model in compared.models[1:]
            ),
            "What changed in the recipe since the model before",
        )
    )
    if told:
        parts.append(Facts(tuple(told), "Who is newly named since the model before, the highest score first"))
    return Section(
        "over-time",
        "Over time",
        "How risk moved from model to model",
        "The same attack on each model in turn, in the order in which they were named."
        + _which_moved(compared.models[1:]),
        tuple(parts),
    )


def lines_over_time(compared: Compared) -> list[str]:
    """The same for a terminal, a line a model."""
    fpr = compared.fpr
    what = f"TPR at FPR {percent(fpr)}" if fpr is not None else "AUC"
    lines = []
    for model in compared.models:
        told = rate(model.tpr) if model.tpr is not None else area(model.attack.auc)
        line = f"{model.name}: {what} by {label_of(compared.attack)} {told}"
        if model.moved is not None:
            line += f", {CHANGE[fpr is not None]} {_moved(model.moved, fpr is not None)}"
        if model.newly is not None and model.also_members is not None:
            line += f", newly named {len(model.newly):,} ({model.also_members:,} of them trained on before as well)"
        lines.append(line)
    return lines


def _about_change(what: str, models: Sequence[Model]) -> str:
    """How to read the column of changes."""
    paired = {model.moved.parameters["paired"] for model in models if model.moved is not None}
    how = {
        (True,): "with the records that both were asked about paired",
        (False,): "as of other records, since nothing tells which are the same",
        (
            False,
            True,
        ): "with the records that both were asked about paired where it can be told which are the same",
    }.get(tuple(sorted(paired)))
    return (
        f"Change: of the {what} since the model before it{f', its interval {how}' if how else ''}; where the interval holds 0, "
        "chance may be all that moved. "
    )


def _newly(model: Model, place: int) -> str:
    if model.newly is None or model.also_members is None:
        return "–" if place == 0 else "records cannot be matched"
    return f"{len(model.newly):,} ({model.also_members:,} before)"


def _moved(moved: Metric | None, share: bool) -> str:
    if moved is None:
        return "–"
    told = [
        "–" if end is None else (f"{end:+.3f}" if not share else f"{100 * end:+.1f}")
        for end in (moved.value, moved.ci_low, moved.ci_high)
    ]
    return minus(f"{told[0]} ({told[1]} to {told[2]})")


def _which_moved(models: Sequence[Model]) -> str:
    """A sentence on the models whose change is more than chance over records explains."""
    clear = [
        f"{model.name} ({'higher' if (model.moved.value or 0) > 0 else 'lower'})"
        for model in models
        if model.moved is not None and _beyond(model.moved)
    ]
    if not clear:
        return " No model differs from the one before it by more than chance over records explains."
    return f" More than chance over records explains, these differ from the model before them: {', '.join(clear)}."


def _beyond(moved: Metric) -> bool:
    return (moved.ci_low is not None and moved.ci_low > 0) or (
        moved.ci_high is not None and moved.ci_high < 0
    )
