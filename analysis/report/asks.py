"""What else can be asked of a lake: analyses that a report shows only once they were run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ...store.errors import NotEnoughData
from ...store.format.ranges import ranges_of
from ..attacks.logits import Lists, need_lists
from ..source import Source
from .data import Ask, Said, Scored

PER_MODEL = 4
"""Shadow runs from which on attacking each of them in turn says something."""


@dataclass(frozen=True)
class _Question:
    """An analysis or evaluation by name, what it adds to a report, and the kinds of data it needs."""

    name: str
    adds: str
    needs: frozenset[str]


def _question(name: str, adds: str, *needs: str) -> _Question:
    return _Question(name, adds, frozenset(needs))


QUESTIONS: tuple[_Question, ...] = (
    _question(
        "kde", "the attacker who knows some members: densities of the loss, confusion matrix", "signals"
    ),
    _question("entropy", "an attack on the spread of the whole prediction", "logits"),
    _question(
        "shadow-nn", "a network that learns from shadow models what members look like", "logits", "shadows"
    ),
    _question("ramia", "exposure of records that lie near a training record", "ranges", "shadows"),
    _question("attack-d", "an attack calibrated on distilled copies of the target", "signals", "distilled"),
    _question(
        "attack-l", "an attack calibrated on models that leave one record out", "signals", "leave-one-out"
    ),
    _question("shadow-curve", "how many shadow models the attack needs", "signals", "shadows"),
    _question("per-model", "how much the attack differs from one trained model to the next", "fleet"),
    _question("vulnerability", "how often each record is found, over models that trained on it", "fleet"),
    _question("dp-audit", "lower bounds on the epsilon of the training", "signals", "shadows"),
    _question("duci", "which share of the data set the model appears to have used", "signals", "fleet"),
    _question("hellinger", "how many shadow models each record calls for", "shadows"),
    _question(
        "influence", "which test records each record helps the model to get right", "shadows", "population"
    ),
    _question("subpopulation", "clusters of records, and the rarest of them", "features"),
    _question("ood", "which records look unlike the data", "logits"),
    _question(
        "quantile-ablation", "whether other quantiles than the quartiles would do better", "traces", "shadows"
    ),
)
"""In the order of the page."""


def asks(source: Source, shown: Iterable[Scored], findings: Sequence[Said]) -> tuple[Ask, ...]:
    """What the lake has the data for and the report does not show."""
    known = {one.name.partition("[")[0] for one in shown} | {said.evaluation for said in findings}
    there = _kinds(source)
    return tuple(Ask(one.name, one.adds) for one in QUESTIONS if one.name not in known and one.needs <= there)


def _kinds(source: Source) -> set[str]:
    """The kinds of data that an experiment holds; seen from its target, if it has one."""
    found: set[str] = set()
    shadows = [run for run in source.runs if run.info.role == "shadow" and "signals" in run.tables()]
    if shadows:
        found.add("shadows")
    if "population" in source.lake.samples(source.experiment)["pool"].unique().to_pylist():
        found.add("population")
    for role, name in (("distilled", "distilled"), ("leave_one_out", "leave-one-out")):
        if any(run.info.role == role for run in source.runs):
            found.add(name)
    if source.target is None:
        return found
    found |= source.target.tables()
    if len(shadows) >= PER_MODEL and "signals" in found:
        found.add("fleet")
    lists: tuple[Lists, ...] = ("logits", "features")
    for kind in lists:
        with suppress(NotEnoughData):
            need_lists(source, source.target, kind)
            found.add(kind)
    if ranges_of(source.target):
        found.add("ranges")
    return found
