"""Collecting a target with its duals, and the fleet of shadow models."""

from __future__ import annotations

from typing import Unpack

import numpy as np

from ...store.errors import InvalidOption
from ...store.format.records import Run
from ...store.lake import Lake
from ..experiment.membership import Design, design_members
from ..recipe import Recipe
from ..train.checkpoint import Checkpointing
from ..train.run import RunPlan
from .design import Block, derived, lay_down, numbered
from .estimators import refuse_checkpoints
from .running import Running
from .setup import open_fleet, target_recipe, targets_of

_DUALS, _SHADOWS = 11, 12
_FLEET = "shadow"


def collect_target(
    lake: Lake,
    experiment: str,
    *,
    recipe: Recipe,
    run: str = "target",
    duals: int = 0,
    fraction: float | None = None,
    checkpoint_every: int | None = None,
    restart: bool = False,
    **running: Unpack[Running],
) -> list[Run]:
    """Train a target and ``duals`` more models on the same members with other seeds: [target, dual 1, ...].

    Members are a class-balanced ``fraction`` of the audit samples; fraction and seed are the experiment's by
    default. Traces are recorded unless ``traces`` is False. ``running`` as in `Running`.

    A run that is committed with the same options is not trained again. One that was stopped goes on from its last
    checkpoint when the call is repeated, with the same values on a CPU; ``checkpoint_every`` and ``restart`` as in
    `Checkpointing`. Raises AlreadyExists where it was made with others, TrainingFailed where training diverged.
    """
    fleet = open_fleet(lake, experiment, recipe, running, traces=True)
    refuse_checkpoints(fleet.recipe, checkpoint_every, restart=restart)
    if duals < 0:
        raise InvalidOption(f"duals is {duals}; it must be 0 or more")
    fraction = fleet.prepared.options["fraction"] if fraction is None else fraction
    members = fleet.prepared.target_members(fraction=fraction, seed=fleet.seed)
    extra = {"design": {"design": "target", "fraction": fraction, "seed": fleet.seed}}
    plans = [RunPlan(run, "target", fleet.seed, extra=extra)]
    for dual in range(1, duals + 1):
        seed = derived(fleet.seed, _DUALS, dual)
        plans.append(RunPlan(f"{run}-dual-{dual}", "target", seed, run, extra))
    return fleet.train(plans, lambda number: members, checkpointing=Checkpointing(checkpoint_every, restart))


def collect_shadows(
    lake: Lake,
    experiment: str,
    *,
    count: int,
    design: Design = "balanced",
    probability: float = 0.5,
    recipe: Recipe | None = None,
    **running: Unpack[Running],
) -> list[Run]:
    """Train shadow models shadow-0000, ... until there are ``count``; all of them, in order.

    Who is in which run follows ``design`` (see `design_members`) over the audit samples, laid down in the lake
    before the first is trained. Calling again trains only what is not committed; a larger count adds a
    block of runs with a design of its own, so that each block is balanced in itself. ``recipe`` and queries are the
    target's by default, ``running`` as in `Running`. Many processes, on many machines, may do this at once;
    what two of them train twice counts once.

    Raises InvalidOption where design or probability differ from those laid down, AlreadyExists where a
    committed run was made with other options, TrainingFailed where runs failed.
    """
    fleet = open_fleet(
        lake,
        experiment,
        recipe or target_recipe(lake, experiment),
        running,
        about=targets_of(lake, experiment),
    )
    audit = np.flatnonzero(~fleet.prepared.data.population)

    def chosen(block: Block, samples: int) -> np.ndarray:
        return design_members(
            samples, block["count"], design=design, seed=block["seed"], probability=probability
        )

    options = {"design": design, "probability": probability}
    check = lambda block: chosen(block, 1)  # noqa: E731
    blocks = lay_down(lake, experiment, _FLEET, count, seed=fleet.seed, options=options, check=check)
    members = np.zeros((count, len(fleet.prepared.data)), dtype=bool)
    for block in blocks:
        rows = members[block["first"] : block["first"] + block["count"]]
        if len(rows) == 0:
            break  # laid down by a call for more
        rows[:, audit] = chosen(block, len(audit))[: len(rows)]
    plans = [
        RunPlan(name, "shadow", derived(block["seed"], _SHADOWS, number), extra={"design": block})
        for name, number, block in numbered(_FLEET, blocks, count)
    ]
    return fleet.train(plans, members.__getitem__)
