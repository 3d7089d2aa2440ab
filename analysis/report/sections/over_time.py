"""The section on how risk moved from model to model."""

from __future__ import annotations

from collections.abc import Sequence

from ...charts.axes import percent
from ...charts.experiments import risk_of_models
from ...statistics.metric import Metric
from ..compared import MOST_LISTED, Model
from ..data import Report, label_of
from ..parts import Facts, Figure, Figures, Part, Section, Table, area, rate


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
            "; ".join(f"{name}: {was} → {now}" for name, was, now in model.changed)
            or ("–" if place == 0 else "nothing"),
        )
        for place, model in enumerate(compared.models)
    ]
    at = f" at FPR {percent(fpr)}" if fpr is not None else ""
    table = Table(
        ("model", "members", f"TPR{at}", "change", "named", "newly named", "AUC", "changed in the recipe"),
        tuple(rows),
        (False, True, True, True, True, True, True, False),
        f"By {attack}{at}, the lowest rate that the non-members of all models resolve; 95% intervals in brackets, over records: the chance in training is not in them. "
        "Change: of the TPR since the model before it; where its interval holds 0, chance may be all that moved. "
        "Newly named: named here, and not in the model before it; about as many as the rate says are named by luck, other ones in each model."
        if fpr is not None
        else f"By {attack}. No asked false-positive rate is resolved by the non-members of all models. 95% intervals in brackets. "
        "Change: of the AUC since the model before it; where its interval holds 0, chance may be all that moved.",
    )
    told = [
        (
            f"newly named in {model.name}",
            ", ".join([*model.newly[:MOST_LISTED], *(["…"] if model.newly[MOST_LISTED:] else [])]),
        )
        for model in compared.models
        if model.newly
    ]
    chart = risk_of_models(
        [(model.name, model.tpr if fpr is not None else model.attack.auc) for model in compared.models], fpr
    )
    parts: list[Part] = [Figures((Figure("over-time", chart),)), table]
    if told:
        parts.append(Facts(tuple(told), "Who is newly named, the highest score first"))
    return Section(
        "over-time",
        "Over time",
        "How risk moved from model to model",
        "The same attack on each model in turn, in the order in which they were named."
        + _which_moved(compared.models[1:]),
        tuple(parts),
    )


def _newly(model: Model, place: int) -> str:
    if model.newly is None or model.also_members is None:
        return "–" if place == 0 else "records cannot be matched"
    return f"{len(model.newly):,}, of them {model.also_members:,} members before"


def _moved(moved: Metric | None, share: bool) -> str:
    if moved is None:
        return "–"
    told = [
        "–" if end is None else (f"{end:+.3f}" if not share else f"{100 * end:+.1f}")
        for end in (moved.value, moved.ci_low, moved.ci_high)
    ]
    return f"{told[0]} ({told[1]} to {told[2]})" + (" points" if share else "")


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
