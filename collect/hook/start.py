"""The hook for training loops of one's own: three added lines, and the run is in the lake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...store.format.records import ROLES, Role, RunInfo
from ...store.lake import Lake
from ..callables import unknown_choice
from ..signals.queries import parse_queries
from .inputs import free_run_name, read_members, recipe_mapping, samples_table
from .recorded_run import RecordedRun

__all__ = ["RecordedRun", "start_run"]


def start_run(
    lake: Lake,
    experiment: str,
    *,
    samples: Any = None,
    members: Any,
    role: Role = "target",
    run: str | None = None,
    recipe: Any = None,
    seed: int | None = None,
    model: str = "",
    dataset: str = "",
    queries: str | Sequence[str] = "original",
) -> RecordedRun:
    """Start recording one training run. Use it as ``with start_run(...) as run:``.

    samples   what the experiment consists of, in the order of sample ids: integer labels, or a table (Arrow,
              Polars, or a mapping of columns) with a column label. None where the experiment is there already
    members   who is trained on: a boolean mask over the samples, or sample ids in any order
    run       its name; by default the role, then role-2, role-3, ...
    recipe    how it is trained: a mapping, a dataclass or a namespace, stored as JSON
    queries   the views that `evaluate` asks for, such as "original,flip,crop:8"; see `queries.parse_queries`.
              noise:N:SIGMA is in units of what the model takes

    Leaving the block commits the run; an exception leaves nothing behind. Samples that the experiment has forgotten may
    stand in the data that the model is asked about, where nothing is recorded of them, but not in a batch. Raises
    InvalidInput for members that do not fit or were forgotten, NotFound, AlreadyExists, InvalidOption.
    """
    if role not in ROLES:
        raise unknown_choice("role", role, ROLES)
    if samples is not None:
        lake.create_experiment(
            experiment, samples_table(samples), dataset={"spec": dataset} if dataset else None
        )
    table = lake.samples(experiment)
    mask, order = read_members(members, len(table))
    name = run if run is not None else free_run_name(lake, experiment, role)
    writer = lake.write_run(experiment, name, members=mask)
    labels = table["label"].fill_null(-1).to_numpy().astype(np.int64)
    # Forgotten samples are as those of the population here: never trained on, and never audited.
    population = np.asarray(table["pool"].to_numpy(zero_copy_only=False) != "audit")
    info = RunInfo(role=role, seed=seed, dataset=dataset, model=model, recipe=recipe_mapping(recipe))
    return RecordedRun(writer, labels, population, order, info, parse_queries(queries, pictures=True))
