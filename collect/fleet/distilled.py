"""The fleet of models distilled from a target: as near to it as can be without its training set."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Unpack, get_args

import numpy as np

from ...store.errors import InvalidInput, InvalidOption, NotEnoughData
from ...store.format.records import Run, pack_samples
from ...store.lake import Lake
from ..callables import unknown_choice
from ..estimators.named import with_estimator
from ..experiment.membership import random_subset
from ..recipe import Recipe
from ..signals.queries import PLAIN
from ..train.run import RunPlan
from .design import derived, lay_down, numbered
from .estimators import refuse_soft_labels
from .running import Running
from .setup import choose_target, open_fleet, recipe_of_run

_DISTILLED = 15
_FLEET = "distilled"
_ROWS = 32_768
"""Logits turned into soft labels at a time: float64 copies of all would take twice the memory of the result."""

Pool = Literal["population", "audit"]


def collect_distilled(
    lake: Lake,
    experiment: str,
    *,
    count: int,
    on: Pool | None = None,
    size: int | None = None,
    temperature: float = 1.0,
    target: str | None = None,
    recipe: Recipe | None = None,
    **running: Unpack[Running],
) -> list[Run]:
    """Train models distilled-0000, ... until there are ``count`` distilled from the target; all of these, in order.

    Each trains on a class-balanced random choice of ``size`` records (default: half) of one pool, ``on`` the population
    where there is one, else the audit samples, and learns the target's softmax probabilities instead of labels: what
    Attack D compares with (Ye et al. 2022, eq. 37). These are made from the logits that the lake keeps; of the flip
    query, too, where the recipe flips and the lake has it. ``temperature`` divides the logits on both sides. None of the
    records is a member of the run, which never saw a label; ``extra`` says what it was distilled on, and Attack D leaves
    a run out for these samples.

    Laid down in the lake as shadows are, ``running`` likewise. ``recipe`` is the target's by default, without label
    smoothing: it is in the target's probabilities already.

    Raises NotEnoughData where the target's logits of these records are not kept or the pool is empty, InvalidOption
    where options are out of range or differ from those laid down, and what `collect_shadows` raises.
    """
    if on is not None and on not in get_args(Pool):
        raise unknown_choice("pool to distil on", on, get_args(Pool))
    if not 0 < temperature < float("inf"):
        raise InvalidOption(f"temperature is {temperature}; it must be above 0")
    teacher = choose_target(lake, experiment, target)
    recipe = replace(recipe or recipe_of_run(teacher), label_smoothing=0.0)
    refuse_soft_labels(with_estimator(recipe))
    fleet = open_fleet(lake, experiment, recipe, running, about=[teacher])
    data = fleet.prepared.data
    # Not candidates of canaries: a model that was taught what the target says of them would be no stranger to them.
    outsiders = data.population & ~data.candidates
    on = on or ("population" if outsiders.any() else "audit")
    pool = outsiders if on == "population" else ~data.population
    there = int(pool.sum())
    if there == 0:
        raise NotEnoughData(
            f"experiment {experiment!r} has no population to distil on; distil on audit records, or set some aside with "
            "--population when making the experiment"
        )
    size = max(1, there // 2) if size is None else size
    if not 1 <= size <= there:
        raise InvalidOption(
            f"size is {size}; the {on} pool of experiment {experiment!r} has {there} records: give 1 to {there}"
        )
    views = ("original", "flip") if recipe.flip and data.pictures else ("original",)
    needed = pool & ~data.forgotten
    soft = soft_labels(lake, teacher, needed, data.classes, views=views, temperature=temperature)
    fleet = replace(
        fleet,
        prepared=replace(fleet.prepared, data=replace(data, soft=soft, temperature=float(temperature))),
    )
    options = {"on": on, "size": size, "temperature": float(temperature)}
    blocks = lay_down(lake, experiment, _FLEET, count, seed=fleet.seed, options=options, target=teacher.run)
    plans, records = [], []
    for name, number, block in numbered(_FLEET, blocks, count):
        taught = random_subset(data.y, pool, size, seed=block["seed"], number=number)
        samples = pack_samples(taught & ~data.forgotten)
        extra = {"design": block, "distilled_on": {"pool": on, "records": size, "samples": samples}}
        seed = derived(block["seed"], _DISTILLED, number)
        plans.append(RunPlan(name, "distilled", seed, teacher.run, extra))
        records.append(taught)
    return fleet.train(plans, records.__getitem__)


def soft_labels(
    lake: Lake,
    teacher: Run,
    needed: np.ndarray,
    classes: int,
    *,
    views: tuple[str, ...] = ("original",),
    temperature: float = 1.0,
) -> np.ndarray:
    """softmax(logits / temperature) of the teacher from the logits that the lake keeps: float32 (V, N, classes).

    One row of V for each of ``views`` that the teacher has signals of; of the samples that ``needed``, bool (N,), does
    not mark, it may be 0. Raises NotEnoughData where logits of needed samples are missing as they are ("original"),
    InvalidInput where they are of another number of classes or not finite.
    """
    found = [_soft_view(lake, teacher, PLAIN[view], len(needed), classes, temperature) for view in views]
    original, there = found[0]
    missing = np.flatnonzero(needed & ~there)
    if len(missing):
        raise NotEnoughData(
            f"run {teacher.run!r} of experiment {teacher.experiment!r} keeps no logits of {len(missing)} of the "
            f"{int(needed.sum())} records to distil on; collect a target with --logits float16 and distil from that"
        )
    others = [soft for soft, known in found[1:] if not (needed & ~known).any()]
    return np.stack([original, *others])


def _soft_view(
    lake: Lake, teacher: Run, query: int, samples: int, classes: int, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """(soft labels float32 (N, C), which samples have them bool (N,)) of one query."""
    soft = np.zeros((samples, classes), dtype=np.float32)
    there = np.zeros(samples, dtype=np.bool_)
    for table in lake.run_rows(
        teacher, "signals", columns=["sample_id", "logits"], filters=[("query", "==", query)]
    ):
        for batch in table.filter(table["logits"].is_valid()).to_batches(max_chunksize=_ROWS):
            ids, logits = batch["sample_id"].to_numpy(), batch["logits"]
            z = logits.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
            if len(z) != len(ids) * classes or (logits.value_lengths().to_numpy() != classes).any():
                raise InvalidInput(f"logits of run {teacher.run!r} are not of {classes} classes")
            if not np.isfinite(z).all():
                raise InvalidInput(f"logits of run {teacher.run!r} are not finite; distil from another run")
            z = z.reshape(-1, classes) / temperature
            p = np.exp(z - z.max(axis=1, keepdims=True))
            soft[ids] = p / p.sum(axis=1, keepdims=True)
            there[ids] = True
    return soft, there
