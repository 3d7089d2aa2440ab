"""The fleet of reference models, which know nothing of the target's members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from ...store.errors import InvalidOption
from ...store.format.records import Run
from ...store.lake import Lake
from ..experiment.membership import random_subset
from ..recipe import Recipe
from ..train.run import RunPlan
from .design import derived, lay_down, numbered
from .running import Running
from .setup import choose_target, members_of, open_fleet, recipe_of_run

_REFERENCES = 14
_FLEET = "reference"
_CROWDED = 0.9


def collect_references(
    lake: Lake,
    experiment: str,
    *,
    count: int,
    target: str | None = None,
    size: int | None = None,
    recipe: Recipe | None = None,
    **running: Unpack[Running],
) -> list[Run]:
    """Train reference models reference-0000, ... until there are ``count`` for the target; all of these, in order.

    Each trains on a class-balanced random choice of ``size`` audit samples that are no members of the target: what
    Attack R compares with (Ye et al. 2022, eq. 26). By default as many as the target has members, or half of what there
    is where that is fewer, so that each sample is left out of models to compare with. Laid down in the lake as shadows are, ``recipe`` (the target's by default) and ``running`` likewise.

    Raises InvalidOption where size is more than there is or differs from what was laid down, and what
    `collect_shadows` raises.
    """
    about = choose_target(lake, experiment, target)
    fleet = open_fleet(lake, experiment, recipe or recipe_of_run(about), running, about=[about])
    data = fleet.prepared.data
    others = ~members_of(lake, about) & ~data.population
    there = int(others.sum())
    size = min(about.members, max(1, there // 2)) if size is None else size
    if not 1 <= size <= there:
        raise InvalidOption(
            f"size is {size}; {there} audit samples of experiment {experiment!r} are no members of {about.run!r}"
            + (f": give 1 to {there}" if there else ", and reference models need some")
        )
    options = {"size": size}
    blocks = lay_down(lake, experiment, _FLEET, count, seed=fleet.seed, options=options, target=about.run)
    plans, records = [], []
    for name, number, block in numbered(_FLEET, blocks, count):
        seed = derived(block["seed"], _REFERENCES, number)
        extra = {"design": block, "drawn_from": there}
        plans.append(RunPlan(name, "reference", seed, extra=extra))
        records.append(random_subset(data.y, others, size, seed=block["seed"], number=number))
    return fleet.train(plans, records.__getitem__)


def crowded(runs: Sequence[Run]) -> str | None:
    """What to know of reference models that each train on nearly all there is: Attack R needs some without a sample."""
    if not runs:
        return None
    design, there = runs[0].info.extra["design"], runs[0].info.extra["drawn_from"]
    if design["size"] <= _CROWDED * there:
        return None
    return (
        f"each of them trains on {design['size']} of the {there} records that {design['target']!r} did not train on, so "
        f"that attack-r has hardly any model without one of these; --size {there // 2} leaves each out of half"
    )
