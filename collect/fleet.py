"""Collecting a target with its duals, and fleets of shadow models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..store.errors import InvalidOption, LosslakeError, NotFound
from ..store.lake import Lake
from ..store.records import Run
from .answers import Logits, Recording
from .experiment import Prepared, prepare_experiment
from .many_runs import train_fleet
from .membership import Design, design_members
from .progress import Progress, Silent
from .queries import parse_queries
from .recipe import Recipe, from_json
from .run_facts import choose_device
from .train import RunPlan

_DUALS, _SHADOWS, _BLOCKS = 11, 12, 13
SHADOW = "shadow"


def collect_target(
    lake: Lake,
    experiment: str,
    *,
    recipe: Recipe,
    prepared: Prepared | None = None,
    run: str = "target",
    duals: int = 0,
    fraction: float | None = None,
    seed: int | None = None,
    traces: bool = True,
    queries: str | Sequence[str] | None = None,
    logits: Logits = "float16",
    features: bool = False,
    device: str = "auto",
    jobs: int | None = None,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> list[Run]:
    """Train a target and ``duals`` more models on the same members with other seeds: [target, dual 1, ...].

    Members are a class-balanced ``fraction`` of the audit samples; fraction and seed are the experiment's by
    default. ``traces`` keeps the eval trace of every audit sample (epoch 0 = before training) and the free
    train trace of the members. ``prepared`` saves loading the data again.

    A run that is committed with the same options is not trained again. Raises AlreadyExists where it was
    made with others, TrainingFailed where training diverged.
    """
    prepared = prepared or prepare_experiment(lake, experiment, data_dir=data_dir)
    if duals < 0:
        raise InvalidOption(f"duals is {duals}; it must be 0 or more")
    fraction = prepared.options["fraction"] if fraction is None else fraction
    seed = prepared.options["seed"] if seed is None else seed
    members = prepared.target_members(fraction=fraction, seed=seed)
    extra = {"design": {"design": "target", "fraction": fraction, "seed": seed}}
    plans = [RunPlan(run, "target", seed, extra=extra)]
    for dual in range(1, duals + 1):
        plans.append(RunPlan(f"{run}-dual-{dual}", "target", _derived(seed, _DUALS, dual), run, extra))
    return train_fleet(
        prepared,
        recipe,
        plans,
        np.broadcast_to(members, (len(plans), len(members))),
        recording=_recording(prepared, queries, traces, logits, features),
        device=choose_device(device),
        jobs=jobs,
        progress=progress or Silent(),
    )


def collect_shadows(
    lake: Lake,
    experiment: str,
    *,
    count: int,
    design: Design = "balanced",
    probability: float = 0.5,
    recipe: Recipe | None = None,
    prepared: Prepared | None = None,
    seed: int | None = None,
    traces: bool = False,
    queries: str | Sequence[str] | None = None,
    logits: Logits = "float16",
    features: bool = False,
    device: str = "auto",
    jobs: int | None = None,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> list[Run]:
    """Train shadow models shadow-0000, ... until there are ``count``; all of them, in order.

    Who is in which run follows ``design`` (see `design_members`) over the audit samples, laid down in the lake
    before the first is trained. Calling again trains only what is not committed; a larger count adds a
    block of runs with a design of its own, so that each block is balanced in itself. ``recipe`` is the
    target's by default. Many processes, on many machines, may do this at once; what two of them train
    twice counts once.

    Raises InvalidOption where design or probability differ from those laid down, AlreadyExists where a
    committed run was made with other options, TrainingFailed where runs failed.
    """
    prepared = prepared or prepare_experiment(lake, experiment, data_dir=data_dir)
    if count < 1:
        raise InvalidOption(f"count is {count}; it must be 1 or more")
    recipe = recipe or target_recipe(lake, experiment)
    seed = prepared.options["seed"] if seed is None else seed
    blocks = lay_down(lake, experiment, count, design=design, probability=probability, seed=seed)
    audit = np.flatnonzero(~prepared.data.population)
    members = np.zeros((count, len(prepared.data)), dtype=bool)
    plans: list[RunPlan] = []
    for block in blocks:
        first, wanted = block["first"], min(block["count"], count - block["first"])
        if wanted <= 0:
            break
        chosen = design_members(
            len(audit),
            block["count"],
            design=block["design"],
            seed=block["seed"],
            probability=block["probability"],
        )
        members[first : first + wanted, audit] = chosen[:wanted]
        plans += [
            RunPlan(
                shadow_name(number),
                "shadow",
                _derived(block["seed"], _SHADOWS, number),
                extra={"design": block},
            )
            for number in range(first, first + wanted)
        ]
    return train_fleet(
        prepared,
        recipe,
        plans,
        members,
        recording=_recording(prepared, queries, traces, logits, features),
        device=choose_device(device),
        jobs=jobs,
        progress=progress or Silent(),
    )


def shadow_name(number: int) -> str:
    """The name of a shadow run: shadow-0000, shadow-0001, ..."""
    return f"{SHADOW}-{number:04d}"


def lay_down(
    lake: Lake, experiment: str, count: int, *, design: Design, probability: float, seed: int
) -> list[dict[str, Any]]:
    """The blocks of the shadow fleet, {design, count, first, seed, probability}, of at least ``count`` runs in all.

    A block that is missing is laid down in the lake for good. Raises InvalidOption where the blocks there
    have another design or probability.
    """
    while True:
        blocks = sorted(lake.designs(experiment, SHADOW), key=lambda block: int(block["first"]))
        for block in blocks:
            if (block["design"], block["probability"]) != (design, probability):
                raise InvalidOption(
                    f"the shadow runs of experiment {experiment!r} were laid out as {block['design']} with probability "
                    f"{block['probability']}, not {design} with {probability}; give these, or choose another experiment name"
                )
        first = sum(int(block["count"]) for block in blocks)
        if first >= count:
            return blocks
        block = {
            "design": design,
            "count": count - first,
            "first": first,
            "seed": seed if first == 0 else _derived(seed, _BLOCKS, first),
            "probability": probability,
        }
        # Tried out before it is written: it stays for good.
        design_members(1, block["count"], design=design, seed=block["seed"], probability=probability)
        # False when another process laid its block down first: look again at what there is.
        lake.add_design(experiment, SHADOW, len(blocks), block)


def target_recipe(lake: Lake, experiment: str) -> Recipe:
    """The recipe of the experiment's targets. Raises NotFound without one, InvalidOption where it cannot be told."""
    targets = [run for run in lake.runs(experiment, role="target") if run.info.parent is None]
    if not targets:
        raise NotFound(
            f"experiment {experiment!r} has no target whose recipe to use; train it first, or give a recipe"
        )
    recipes: list[Mapping[str, Any]] = []
    for run in targets:
        if run.info.recipe not in recipes:
            recipes.append(run.info.recipe)
    if len(recipes) > 1:
        raise InvalidOption(
            f"the {len(targets)} targets of experiment {experiment!r} have different recipes; give one"
        )
    try:
        return from_json(recipes[0])
    except (LosslakeError, TypeError) as error:
        raise InvalidOption(
            f"target {targets[0].run!r} was not trained by losslake's own trainer, so its recipe cannot be used; give one"
        ) from error


def _recording(
    prepared: Prepared, queries: str | Sequence[str] | None, traces: bool, logits: Logits, features: bool
) -> Recording:
    names = parse_queries(queries, pictures=prepared.data.pictures)
    return Recording(queries=names, traces=traces, logits=logits, features=features)


def _derived(seed: int, purpose: int, number: int) -> int:
    """A seed for each of many runs; the same for the same three numbers, different otherwise."""
    return int(np.random.SeedSequence([seed, purpose, number]).generate_state(1)[0] >> np.uint32(1))
