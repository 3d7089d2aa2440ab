"""How risk moved from one model to the next: the same attack on several targets, who is newly named, what changed in the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from ...store.errors import InvalidOption, NotEnoughData, NotFound
from ...store.format.records import Experiment, Run
from ...store.lake import Lake
from ..scoring.catalogue import open_source
from ..scoring.stored import SCORE, keep_scores
from ..statistics.intervals import difference_interval
from ..statistics.metric import Metric
from ..statistics.roc import evaluate, firm
from .audit import data_digest
from .data import Attack
from .verdict import as_attack, named_at

MOST_LISTED = 12
"""Newly named records that are listed of each model; all are counted."""


@dataclass(frozen=True)
class Model:
    """One model of a comparison. ``tpr`` is at the comparison's FPR, None where none is resolved by all of them; ``data`` the
    digest of its experiment.

    ``moved`` is how much that rate, or the AUC where no FPR is resolved by all, is higher than in the model before; None for the first.
    ``newly`` are the records that the attack names here and did not name in the model before, of which ``also_members`` were
    trained on there as well; None for the first model, and where the records of the two cannot be matched. ``changed`` are (name, before,
    now) of what is another in the recipe than in the model before.
    """

    experiment: str
    target: str
    created: str
    data: str
    attack: Attack
    tpr: Metric | None
    moved: Metric | None
    named: frozenset[int]
    newly: tuple[str, ...] | None
    also_members: int | None
    changed: tuple[tuple[str, str, str], ...]

    @property
    def name(self) -> str:
        return f"{self.experiment}/{self.target}"


@dataclass(frozen=True)
class Compared:
    """Models in the order in which they were named, the report's own first, by one attack at one FPR (None: none is resolved by all)."""

    attack: str
    fpr: float | None
    models: tuple[Model, ...]


def models_named(lake: Lake, experiment: str, names: Sequence[str]) -> list[tuple[str, str | None]]:
    """The models that ``names`` mean, as experiment and target: EXPERIMENT (its only target), EXPERIMENT/RUN, or a RUN of this experiment.

    Raises NotFound for anything else.
    """
    known = lake.experiments()
    found: list[tuple[str, str | None]] = []
    for name in names:
        first, slash, run = name.partition("/")
        if slash:
            found.append((first, run))
        elif first in known:
            found.append((first, None))
        elif lake.has_run(experiment, first):
            found.append((experiment, first))
        else:
            raise NotFound(
                f"there is no experiment and no run of experiment {experiment!r} called {name!r} to compare with "
                f"(experiments: {', '.join(known)})"
            )
    return found


def compare_models(
    lake: Lake, own: tuple[str, str], names: Sequence[str], attack: str, fprs: Sequence[float]
) -> Compared:
    """The attack on the target ``own`` (experiment, run) and on those of `models_named`, in this order.

    Raises NotFound for a model that is not there, NotEnoughData where the attack cannot be made on one, InvalidOption where one is named twice.
    """
    found: list[tuple[Experiment, Run, str, Attack]] = []
    for called, wanted in [own, *models_named(lake, own[0], names)]:
        with open_source(lake, called, wanted) as source:
            target = source.need_target()
            try:
                scores = keep_scores(source, [attack], SCORE)[attack].scores
            except NotEnoughData as error:
                raise NotEnoughData(
                    f"{called}/{target.run} cannot be compared by {attack}: {error}"
                ) from None
            judged = as_attack(attack, scores, evaluate(*scores.arrays(), tuple(fprs)))
            if judged is None:
                raise NotEnoughData(
                    f"{called}/{target.run} cannot be compared by {attack}: it has no members or no non-members with a score"
                )
            known = lake.experiment(called)
            found.append((known, target, data_digest(known, source.runs), judged))
    places = [(experiment.name, run.run) for experiment, run, _, _ in found]
    if len(set(places)) < len(places):
        raise InvalidOption("a model is compared with itself; name each one once, and not the report's own")
    fewest = min(judged.curve.non_members for *_, judged in found)
    fpr = next((fpr for fpr in sorted(fprs) if firm(fpr, fewest)), None)
    models: list[Model] = []
    for place, (experiment, run, data, judged) in enumerate(found):
        named = named_at(judged, fpr)[0] if fpr is not None else frozenset()
        tpr = next((m for m in judged.tprs if m.parameters["fpr"] == fpr), None)
        newly, also = None, None
        if place and fpr is not None:
            before, _, _, before_judged = found[place - 1]
            newly, also = _newly(lake, (experiment, judged, named), (before, before_judged, models[-1].named))
        models.append(
            Model(
                experiment.name,
                run.run,
                run.created,
                data,
                judged,
                tpr,
                change_of(models[-1].tpr or models[-1].attack.auc, tpr or judged.auc) if place else None,
                named,
                newly,
                also,
                changes(found[place - 1][1], run) if place else (),
            )
        )
    return Compared(attack, fpr, tuple(models))


def change_of(before: Metric, now: Metric) -> Metric | None:
    """How much higher a metric is than it was, as `difference_interval` says; None where either has no value."""
    was, value = _with_ends(before), _with_ends(now)
    if was is None or value is None:
        return None
    low, high = difference_interval(was, value)
    return Metric(f"{now.metric}_change", value[0] - was[0], low, high, now.n, now.parameters)


def _with_ends(metric: Metric) -> tuple[float, float, float] | None:
    if metric.value is None or metric.ci_low is None or metric.ci_high is None:
        return None
    return metric.value, metric.ci_low, metric.ci_high


def _newly(
    lake: Lake,
    here: tuple[Experiment, Attack, frozenset[int]],
    before: tuple[Experiment, Attack, frozenset[int]],
) -> tuple[tuple[str, ...] | None, int | None]:
    """Who is named here and was not before, by key, and how many of them were members before; None where records cannot be matched."""
    mine, theirs = _identities(lake, here[0], before[0])
    if mine is None or theirs is None:
        return None, None
    known = {theirs[sample] for sample in before[2]}
    frame = before[1].scored.scores.frame
    trained = {theirs[sample] for sample in frame.filter(pl.col("member"))["sample_id"].to_list()}
    scores = here[1].scored.by_sample()
    order = sorted(here[2], key=lambda sample: (-scores[sample], sample))
    newly = [mine[sample] for sample in order if mine[sample] not in known]
    return tuple(newly), sum(name in trained for name in newly)


def _identities(
    lake: Lake, one: Experiment, other: Experiment
) -> tuple[Mapping[int, str] | None, Mapping[int, str] | None]:
    """What to call a record by its sample id, the same in both experiments; None where nothing tells which are the same."""
    if one.digest == other.digest:
        same = {sample: f"sample {sample}" for sample in range(one.samples)}
        return same, same
    where = [one.dataset.get("spec"), other.dataset.get("spec")]
    if where[0] is None or where[0] != where[1]:
        return None, None
    told = []
    for each in (one, other):
        keys = lake.samples(each.name)["key"].to_pylist()
        numbered = all(key == str(sample) for sample, key in enumerate(keys))
        if numbered or None in keys or len(set(keys)) < len(keys):
            return None, None
        told.append(dict(enumerate(keys)))
    return told[0], told[1]


def changes(before: Run, now: Run) -> tuple[tuple[str, str, str], ...]:
    """What is another in the recipe, model, epochs, seed and number of members of one run than in those of another."""
    was, is_now = _recipe(before), _recipe(now)
    return tuple(
        (name.replace("_", " "), _word(was.get(name)), _word(is_now.get(name)))
        for name in dict.fromkeys((*was, *is_now))
        if was.get(name) != is_now.get(name)
    )


def _recipe(run: Run) -> dict[str, Any]:
    about = {"model": run.info.model or None, "epochs": run.info.epochs, "seed": run.info.seed}
    return {**run.info.recipe, **about, "members": run.members}


def _word(value: Any) -> str:
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_word(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def compared_json(compared: Compared) -> dict[str, Any]:
    """A comparison for programs."""
    return {
        "attack": compared.attack,
        "fpr": compared.fpr,
        "models": [
            {
                "experiment": model.experiment,
                "target": model.target,
                "created": model.created,
                "data_sha256": model.data,
                "members": model.attack.curve.members,
                "non_members": model.attack.curve.non_members,
                "auc": model.attack.auc.to_json(),
                "tpr": model.tpr.to_json() if model.tpr else None,
                "change": model.moved.to_json() if model.moved else None,
                "named": len(model.named) if compared.fpr is not None else None,
                "newly_named": None if model.newly is None else list(model.newly),
                "of_them_members_before": model.also_members,
                "changed": [{"name": name, "before": was, "now": now} for name, was, now in model.changed],
            }
            for model in compared.models
        ],
    }
