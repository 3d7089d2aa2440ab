"""What a defence takes from attacks, and what it costs: two experiments of the same records side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidOption, NotEnoughData
from ..scores import Finding, Scores
from ..scoring.run import FPRS
from ..scoring.stored import keep_scores
from ..source import Source
from ..statistics.metric import Metric
from ..statistics.roc import evaluate
from .compare import check_fprs

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def defences(
    source: Source,
    scores: tuple[str, ...],
    *,
    with_: Annotated[
        str | None, "the experiment with the defence; default: the only other one of the same records"
    ] = None,
    with_target: Annotated[str | None, "the run to look at there; default: the only target"] = None,
    fpr: Annotated[tuple[float, ...], "false-positive rates of the TPR"] = FPRS,
) -> Finding:
    """Attacks, accuracy and epsilon of two experiments of the same records, one trained with a defence.

    auc and tpr_at_fpr of each target under each score; difference is the second experiment's minus the first's, so below
    0 where the defence helps. Its interval is put together from those of the two (Zou 2007, "MOVER"). Where the targets
    have the same members, the two AUCs are correlated as DeLong et al. (1988) estimate it; TPRs, and targets with different
    members, are taken for independent, which makes the interval too wide rather than too narrow as long as the same
    records are hard in both. Intervals are over records: another training of the same two recipes may differ by more.

    test_accuracy and train_accuracy are those of the targets, epsilon that of a target trained by DP-SGD. An adversary
    who knows the defence trains his shadow models by it: a note says where an experiment's do not have its target's recipe.

    Needs: two experiments of the same records; what the scores need, in both.
    """
    check_fprs(*fpr)
    source.need_target()
    names = tuple(dict.fromkeys(scores))
    other = _same_records(source) if with_ is None else _checked(source, with_)
    with source.beside(with_target, experiment=other) as defended:
        defended.need_target()
        sides = (source, defended)
        kept = [keep_scores(side, names) for side in sides]
        metrics = [metric for side in sides for metric in _costs(side)]
        notes = [note for side in sides for note in (*_other_recipes(side), *_tested_on(side))]
    for name in names:
        found = [one[name].scores for one in kept]
        for side, one in zip(sides, found, strict=True):
            notes += [f"{name} in {side.experiment}: {note}" for note in one.notes]
        pair, correlation, said = _paired(*found)
        notes += [f"{name}: {note}" for note in said]
        about = [{"score": name, "experiment": side.experiment} for side in sides]
        judged = [evaluate(score, member, fpr) for score, member in pair]
        if not all(judged):
            raise NotEnoughData(f"{name} has no scores of both members and non-members in both experiments")
        for which, side_metrics in zip(about, judged, strict=True):
            metrics += [replace(m, parameters={**which, **m.parameters}) for m in side_metrics]
        metrics += [
            _difference(first, second, correlation if first.metric == "auc" else 0.0, about[1])
            for first, second in zip(*judged, strict=True)
        ]
    return Finding(tuple(metrics), tuple(dict.fromkeys(notes)))


def _paired(first: Scores, second: Scores) -> tuple[list[tuple[Floats, Flags]], float, list[str]]:
    """Score and membership of each side, how their AUCs are correlated, and notes.

    The correlation is 0 where the sides have not the same members.
    """
    known = [
        one.frame.select("sample_id", "member", pl.col("score").cast(pl.Float64)).filter(
            pl.col("score").is_not_null() & pl.col("member").is_not_null()
        )
        for one in (first, second)
    ]
    both = known[0].join(known[1], on="sample_id", suffix="_second").sort("sample_id")
    if not (both["member"] == both["member_second"]).all() or both.is_empty():
        sides = [(one["score"].to_numpy(), one["member"].to_numpy()) for one in known]
        return sides, 0.0, ["the two targets have different members; their figures are taken for independent"]
    notes = []
    most = max(map(len, known))
    if len(both) < most:
        notes.append(f"{len(both)} of {most} samples have a score in both experiments; the rest is left out")
    member = both["member"].to_numpy()
    one, other = both["score"].to_numpy(), both["score_second"].to_numpy()
    return [(one, member), (other, member)], auc_correlation(one, other, member), notes


def auc_correlation(first: Floats, second: Floats, member: Flags) -> float:
    """Correlation of the AUCs of two scores of the same records, by their structural components (DeLong et al. 1988).

    0 where it cannot be said: an AUC that does not vary, or fewer than two members or non-members.
    """
    if min(member.sum(), (~member).sum()) < 2:
        return 0.0
    covariance = np.zeros((2, 2))
    for side, rest in ((member, ~member), (~member, member)):
        components = [_share_below(score[rest], score[side]) for score in (first, second)]
        covariance += np.cov(components) / side.sum()
    spread = float(np.sqrt(covariance[0, 0] * covariance[1, 1]))
    return float(np.clip(covariance[0, 1] / spread, -1, 1)) if spread > 0 else 0.0


def _share_below(others: Floats, values: Floats) -> Floats:
    """The share of ``others`` below each of ``values``, ties half."""
    ranked = np.sort(others)
    places = np.searchsorted(ranked, values, "left") + np.searchsorted(ranked, values, "right")
    return np.asarray(places / (2 * len(ranked)), dtype=np.float64)


def _difference(first: Metric, second: Metric, correlation: float, about: dict[str, str]) -> Metric:
    """The second minus the first. Where a value is not resolved, only what their intervals leave is given."""
    parameters: dict[str, Any] = {**about, "of": first.metric}
    if "fpr" in first.parameters:
        resolved = first.value is not None and second.value is not None
        parameters |= {"fpr": first.parameters["fpr"], "resolved": resolved}
    (low, high), (low_2, high_2) = (
        (0.0 if m.ci_low is None else m.ci_low, 1.0 if m.ci_high is None else m.ci_high)
        for m in (first, second)
    )
    n = min(first.n or 0, second.n or 0)
    if first.value is None or second.value is None:
        return Metric("difference", None, low_2 - high, high_2 - low, n, parameters)
    value = second.value - first.value
    down = _reach(second.value - low_2, high - first.value, correlation)
    up = _reach(high_2 - second.value, first.value - low, correlation)
    return Metric("difference", value, value - down, value + up, n, parameters)


def _reach(one: float, other: float, correlation: float) -> float:
    """How far the interval of a difference goes to one side: MOVER, from the two that make it."""
    return float(np.sqrt(max(one * one + other * other - 2 * correlation * one * other, 0.0)))


def _costs(side: Source) -> list[Metric]:
    """Accuracies of a target, and what it spent of privacy by its training."""
    target = side.need_target()
    where = {"experiment": side.experiment, "run": target.run}
    accuracies = (
        ("test_accuracy", target.info.test_accuracy),
        ("train_accuracy", target.info.train_accuracy),
    )
    metrics = [Metric(name, value, parameters=where) for name, value in accuracies if value is not None]
    budget = target.info.extra.get("dp")
    if isinstance(budget, dict) and budget.get("epsilon") is not None:
        told = {name: budget[name] for name in ("delta", "noise", "clip", "accountant") if name in budget}
        metrics.append(Metric("epsilon", float(budget["epsilon"]), parameters={**where, **told}))
    return metrics


def _other_recipes(side: Source) -> Sequence[str]:
    recipe = side.need_target().info.recipe
    shadows = [run for run in side.runs if run.info.role == "shadow"]
    others = sum(run.info.recipe != recipe for run in shadows)
    if not others:
        return ()
    return (
        f"{others} of {len(shadows)} shadow runs of {side.experiment} have another recipe than its target; an adversary who "
        "knows the defence trains his by it",
    )


def _tested_on(side: Source) -> Sequence[str]:
    target = side.need_target()
    told = target.info.extra.get("tested_on")
    return (f"test accuracy of {target.run} in {side.experiment} is on: {told}",) if told else ()


def _same_records(source: Source) -> str:
    """The only other experiment with this one's digest."""
    own = source.lake.experiment(source.experiment).digest
    names = [name for name in source.lake.experiments() if name != source.experiment]
    found = [name for name in names if source.lake.experiment(name).digest == own]
    if not found:
        raise NotEnoughData(
            f"no other experiment in {source.lake.path} holds the records of {source.experiment!r}; train one with a "
            "defence: 'losslake collect target --experiment NEW', with the same data and seed"
        )
    if len(found) > 1:
        raise InvalidOption(
            f"several experiments hold the records of {source.experiment!r} ({', '.join(found[:5])}); name one with --with"
        )
    return found[0]


def _checked(source: Source, name: str) -> str:
    if name == source.experiment:
        raise InvalidOption(
            f"experiment {name!r} cannot be compared with itself; name the other one with --with"
        )
    if source.lake.experiment(name).digest != source.lake.experiment(source.experiment).digest:
        raise InvalidOption(
            f"experiment {name!r} holds other records than {source.experiment!r}; a comparison would say nothing of a defence"
        )
    return name
