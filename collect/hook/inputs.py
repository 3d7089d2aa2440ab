"""What a user hands to `start_run`, in the forms it comes in, as the forms the lake takes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ...store.errors import InvalidInput
from ...store.lake import Lake


def samples_table(samples: Any) -> pa.Table:
    """A table of samples from labels (N,), an Arrow or Polars table, or a mapping of columns."""
    if isinstance(samples, pa.Table):
        return samples
    if hasattr(samples, "to_arrow"):
        return samples.to_arrow()
    if isinstance(samples, Mapping):
        return pa.table({str(name): _column(column) for name, column in samples.items()})
    if hasattr(samples, "numpy"):
        samples = samples.detach().cpu().numpy()
    labels = np.asarray(samples)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidInput(
            f"samples are {labels.dtype} {labels.shape}; give integer labels (samples,), or a table with a column label"
        )
    return pa.table({"label": labels})


def _column(column: Any) -> Any:
    return column.detach().cpu().numpy() if hasattr(column, "detach") else column


def read_members(members: Any, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """A mask (samples,) bool, and the members' ids int64 in the order given (ascending for a mask).

    Raises InvalidInput for a mask of another length, an id out of range and an id given twice.
    """
    array = np.asarray(members.detach().cpu() if hasattr(members, "detach") else members)
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
    if array.min() < 0 or array.max() >= samples:
        bad = array[(array < 0) | (array >= samples)][0]
        raise InvalidInput(f"member {bad} is not a sample of the experiment (0 to {samples - 1})")
    mask = np.zeros(samples, dtype=bool)
    mask[array] = True
    if mask.sum() != len(array):
        values, counts = np.unique(array, return_counts=True)
        raise InvalidInput(f"member {values[counts > 1][0]} is given twice")
    return mask, array.astype(np.int64)


def read_positions(ids: Any, length: int, order: np.ndarray, samples: int) -> np.ndarray:
    """The sample id at each of the ``length`` positions of a loader's data set: int64 (length,).

    ``ids`` where given; else the members in their ``order`` where there are as many, or all samples. Raises
    InvalidInput where none of it fits.
    """
    if ids is not None:
        array = np.asarray(ids)
        if array.shape != (length,) or not np.issubdtype(array.dtype, np.integer):
            raise InvalidInput(
                f"ids are {array.dtype} {array.shape}; they must be integers, one for each of the {length} records "
                "of the loader's data set"
            )
        _refuse_unknown(array, samples)
        return array.astype(np.int64)
    if length == len(order):
        return order
    if length == samples:
        return np.arange(length)
    raise InvalidInput(
        f"the loader's data set has {length} records, the run {len(order)} members and the experiment {samples} "
        "samples; pass ids=, the sample id of each record, to watch_loader"
    )


def read_batch_ids(ids: Any, samples: int) -> np.ndarray:
    """The sample ids of one batch: int64 (B,). Raises InvalidInput for what they cannot be."""
    array = np.asarray(ids)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise InvalidInput(
            f"the ids of a batch are {array.dtype} {array.shape}; they must be integers (batch,)"
        )
    _refuse_unknown(array, samples)
    return array.astype(np.int64)


def _refuse_unknown(ids: np.ndarray, samples: int) -> None:
    wrong = (ids < 0) | (ids >= samples)
    if wrong.any():
        raise InvalidInput(f"id {ids[wrong][0]} is no sample of the experiment (0 to {samples - 1})")


def free_run_name(lake: Lake, experiment: str, role: str) -> str:
    """The role, or role-2, role-3, ...: the first that no committed run has."""
    number = 1
    while lake.has_run(experiment, name := role if number == 1 else f"{role}-{number}"):
        number += 1
    return name


def recipe_mapping(recipe: Any) -> dict[str, Any]:
    """A recipe (mapping, dataclass or namespace) as JSON values; what JSON cannot hold becomes its text."""
    if recipe is None:
        return {}
    if dataclasses.is_dataclass(recipe) and not isinstance(recipe, type):
        recipe = dataclasses.asdict(recipe)
    elif not isinstance(recipe, Mapping) and hasattr(recipe, "__dict__"):
        recipe = vars(recipe)
    if not isinstance(recipe, Mapping):
        raise InvalidInput(f"recipe is a {type(recipe).__name__}; give a mapping, a dataclass or a namespace")
    plain: dict[str, Any] = json.loads(
        json.dumps({str(key): value for key, value in recipe.items()}, default=str)
    )
    return plain
