"""The hook for training loops of one's own: three added lines, and the run is in the lake."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ...store.errors import InvalidInput, InvalidOption
from ...store.format.records import ROLES, Role, RunInfo
from ...store.lake import Lake
from ..callables import unknown_choice
from ..signals.calls import Forward
from ..signals.queries import parse_queries
from .recorded_run import RecordedRun


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
    forward: Forward | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
) -> RecordedRun:
    """Start recording one training run. Use it as ``with start_run(...) as run:``.

    samples   what the experiment consists of, in the order of sample ids: integer labels, or a table (Arrow,
              Polars, or a mapping of columns) with a column label. None where the experiment is there already
    members   who is trained on: a boolean mask over the samples, or sample ids in any order
    run       its name; by default the role, then role-2, role-3, ...
    recipe    how it is trained: a mapping, a dataclass or a namespace, stored as JSON
    queries   the views that `evaluate` asks for, such as "original,flip,crop:8"; see `queries.parse_queries`.
              noise:N:SIGMA is in units of what the model takes
    forward   how the loop calls the model, where it is not model(x) of records (x, y), as for several inputs, dict records and
              texts: forward(model, batch) -> (outputs, targets), what the criterion is called with. `trace_eval` and
              `evaluate` use it on batches made as the loop's own, on the model's device
    collate   records -> batch for them; by default that of the watched loader. Give one where the loop's draws at random (mixup)

    Leaving the block commits the run; an exception leaves nothing behind. Samples that the experiment has forgotten may
    stand in the data that the model is asked about, where nothing is recorded of them, but not in a batch. Raises
    InvalidInput for members that do not fit or were forgotten, NotFound, AlreadyExists, InvalidOption.
    """
    if role not in ROLES:
        raise unknown_choice("role", role, ROLES)
    views = parse_queries(queries, pictures=True)
    if forward is not None and views != ("original",):
        raise InvalidOption(
            "queries are views of x in records (x, y): leave queries out where forward= is given"
        )
    if collate is not None and forward is None:
        raise InvalidOption("collate makes the batches that forward= takes: give both")
    info = RunInfo(role=role, seed=seed, dataset=dataset, model=model, recipe=_recipe_mapping(recipe))
    if samples is not None:
        lake.create_experiment(
            experiment, _samples_table(samples), dataset={"spec": dataset} if dataset else None
        )
    table = lake.samples(experiment)
    mask, order = _read_members(members, len(table))
    name = run if run is not None else _free_run_name(lake, experiment, role)
    writer = lake.write_run(experiment, name, members=mask)
    labels = table["label"].fill_null(-1).to_numpy().astype(np.int64)
    # Forgotten samples are as those of the population here: never trained on, and never audited.
    population = np.asarray(table["pool"].to_numpy(zero_copy_only=False) != "audit")
    return RecordedRun(writer, labels, population, order, info, views, forward, collate)


def _samples_table(samples: Any) -> pa.Table:
    """A table of samples from labels (N,), an Arrow or Polars table, or a mapping of columns."""
    if isinstance(samples, pa.Table):
        return samples
    if hasattr(samples, "to_arrow"):
        return samples.to_arrow()
    if isinstance(samples, Mapping):
        return pa.table({str(name): _on_host(column) for name, column in samples.items()})
    labels = np.asarray(_on_host(samples))
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidInput(
            f"samples are {labels.dtype} {labels.shape}; give integer labels (samples,), or a table with a column label"
        )
    return pa.table({"label": labels})


def _read_members(members: Any, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """A mask (samples,) bool, and the members' ids int64 in the order given (ascending for a mask).

    Raises InvalidInput for a mask of another length, an id out of range and an id given twice.
    """
    array = np.asarray(_on_host(members))
    if array.dtype == bool:
        if array.shape != (samples,):
            raise InvalidInput(
                f"members are a mask of shape {array.shape}; the experiment has {samples} samples"
            )
        return array, np.flatnonzero(array)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer) or len(array) == 0:
        raise InvalidInput(
            f"members are {array.dtype} {array.shape}; give a boolean mask or integer sample ids"
        )
    bad = array[(array < 0) | (array >= samples)]
    if len(bad):
        raise InvalidInput(f"member {bad[0]} is not a sample of the experiment (0 to {samples - 1})")
    mask = np.zeros(samples, dtype=bool)
    mask[array] = True
    if mask.sum() != len(array):
        values, counts = np.unique(array, return_counts=True)
        raise InvalidInput(f"member {values[counts > 1][0]} is given twice")
    return mask, array.astype(np.int64)


def _on_host(values: Any) -> Any:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values


def _free_run_name(lake: Lake, experiment: str, role: str) -> str:
    """The role, or role-2, role-3, ...: the first that no committed run has."""
    names = itertools.chain([role], (f"{role}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not lake.has_run(experiment, name))


def _recipe_mapping(recipe: Any) -> dict[str, Any]:
    """A recipe (mapping, dataclass or namespace) as JSON values; what JSON cannot hold becomes its text."""
    if recipe is None:
        return {}
    if dataclasses.is_dataclass(recipe) and not isinstance(recipe, type):
        recipe = dataclasses.asdict(recipe)
    elif not isinstance(recipe, Mapping) and hasattr(recipe, "__dict__"):
        recipe = vars(recipe)
    if not isinstance(recipe, Mapping):
        raise InvalidInput(f"recipe is a {type(recipe).__name__}; give a mapping, a dataclass or a namespace")
    by_name = {str(key): value for key, value in recipe.items()}
    return dict(json.loads(json.dumps(by_name, default=str)))
