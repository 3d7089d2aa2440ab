"""How risk moved from one model to the next: the same attack on several targets, who is newly named, what changed in the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from ...store.errors import InvalidOption, NotEnoughData, NotFound
from ...store.format.records import Experiment, Run
from ...store.lake import Lake
from ..scoring.catalogue import open_source
from ..scoring.stored import SCORE, keep_scores
from ..statistics.change import Ids, added_to_auc, added_to_tpr, change, correlation_of_errors
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
        # Duals name the target as their parent.
        targets = [
            run.run
            for run in (lake.runs(called) if wanted is None else ())
            if run.info.role == "target" and run.info.parent is None
        ]
        if len(targets) > 1:
            raise NotFound(
                f"experiment {called!r} has several targets; name the one to compare with, as in --compare {called}/{targets[0]} "
                f"(targets: {', '.join(targets)})"
            )
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
        newly, also, moved = None, None, None
        if place:
            before = models[-1]
            same = _same_records(lake, experiment, found[place - 1][0])
            moved = _moved(before, judged, tpr, same)
            if fpr is not None and same is not None:
                newly, also = _newly(same, (judged, named), (before.attack, before.named))
        models.append(
            Model(
                experiment.name,
                run.run,
                run.created,
                data,
                judged,
                tpr,
                moved,
                named,
                newly,
                also,
                changes(found[place - 1][1], run) if place else (),
            )
        )
    return Compared(attack, fpr, tuple(models))


@dataclass(frozen=True)
class _Same:
    """Which records of two experiments are the same: a number for each sample id here and ``before``, the same for the same record.

    ``names`` is what to call each sample here.
    """

    here: Ids
    before: Ids
    names: Sequence[str] | None

    def name(self, sample: int) -> str:
        return f"sample {sample}" if self.names is None else self.names[sample]


def _moved(before: Model, now: Attack, tpr: Metric | None, same: _Same | None) -> Metric | None:
    """How much higher the rate, or the AUC without one, is than in the model before; the records that both were asked about are paired."""
    together = None
    if same is not None:
        ids, added = [], []
        for attack, codes in ((before.attack, same.before), (now, same.here)):
            arrays = attack.scored.scores.arrays()
            added.append(
                added_to_auc(*arrays) if tpr is None else added_to_tpr(*arrays, float(tpr.parameters["fpr"]))
            )
            frame = attack.scored.scores.frame
            ids.append(codes[frame.filter(pl.col("member").is_not_null())["sample_id"].to_numpy()])
        _, places, more = np.intersect1d(ids[0], ids[1], assume_unique=True, return_indices=True)
        together = correlation_of_errors(added[0], added[1], (places, more))
    return change(before.tpr or before.attack.auc, tpr or now.auc, together)


def _newly(
    same: _Same, here: tuple[Attack, frozenset[int]], before: tuple[Attack, frozenset[int]]
) -> tuple[tuple[str, ...], int]:
    """Who is named here and was not before, the highest score first, and how many of them were members before."""
    known = set(same.before[list(before[1])].tolist())
    frame = before[0].scored.scores.frame
    trained = set(same.before[frame.filter(pl.col("member"))["sample_id"].to_numpy()].tolist())
    scores = here[0].scored.by_sample()
    order = sorted(here[1], key=lambda sample: (-scores[sample], sample))
    newly = [sample for sample in order if same.here[sample] not in known]
    return tuple(map(same.name, newly)), sum(same.here[sample] in trained for sample in newly)


def _same_records(lake: Lake, here: Experiment, before: Experiment) -> _Same | None:
    """By their places where the two experiments have the same samples, else by keys; None where nothing tells which are the same."""
    if here.digest == before.digest:
        same = np.arange(here.samples)
        return _Same(same, same, None)
    where = [here.dataset.get("spec"), before.dataset.get("spec")]
    if where[0] is None or where[0] != where[1]:
        return None
    told: list[list[str]] = []
    for side, each in (("here", here), ("before", before)):
        keys = lake.samples(each.name)["key"].to_pylist()
        known = [key for key in keys if key is not None]
        numbered = all(key == str(sample) for sample, key in enumerate(keys) if key is not None)
        if numbered or len(keys) - len(known) > len(each.forgotten) or len(set(known)) < len(known):
            return None
        # A forgotten sample has no key, nor any score; it is no other one.
        told.append([f"{side}\0{sample}" if key is None else key for sample, key in enumerate(keys)])
    number = {key: place for place, key in enumerate(dict.fromkeys((*told[0], *told[1])))}
    mine, theirs = (np.array([number[key] for key in keys], np.int64) for keys in told)
    return _Same(mine, theirs, told[0])


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
