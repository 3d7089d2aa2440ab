"""Rows of a run as a collector gives them: are they of its samples, each once, finite, and all there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import InvalidInput, InvalidOption
from ..format import manifest
from ..format.records import ROLES, RunInfo

_CHECKED_ROWS = 32_768
"""Wide logits are looked at by so many rows at a time."""


def checked_ids(sample_id: Ids, samples: int, what: str, experiment: str) -> npt.NDArray[np.int64]:
    """Sample ids as int64. Raises InvalidInput, naming ``what``, for others than 0 to ``samples`` - 1."""
    given = np.asarray(sample_id)
    if given.ndim != 1 or (len(given) and not np.issubdtype(given.dtype, np.integer)):
        raise InvalidInput(
            f"sample ids of {what} must be a one-dimensional integer array, not {given.dtype}{given.shape}"
        )
    ids: npt.NDArray[np.int64] = given.astype(np.int64)
    if len(ids) and (ids.min() < 0 or ids.max() >= samples):
        bad = ids[(ids < 0) | (ids >= samples)][0]
        raise InvalidInput(
            f"sample id {bad} of {what} is not in experiment {experiment!r} (0 to {samples - 1})"
        )
    return ids


def distinct(ids: npt.NDArray[np.int64], samples: int, what: str) -> npt.NDArray[np.bool_]:
    """Which samples the ids are of, (samples,). Raises InvalidInput where one comes twice."""
    seen = np.zeros(samples, dtype=bool)
    seen[ids] = True
    if np.count_nonzero(seen) != len(ids):
        twice = np.flatnonzero(np.bincount(ids) > 1)[0]
        raise InvalidInput(f"sample id {twice} comes twice in {what}")
    return seen


def added_rows(
    run: str,
    ids: npt.NDArray[np.int64],
    queries: npt.NDArray,
    samples: int,
    before: Mapping[int, npt.NDArray[np.bool_]],
) -> dict[int, npt.NDArray[np.bool_]]:
    """The samples that come in, by query. Raises InvalidInput where one is there ``before``, or comes twice."""
    added = {}
    for number in np.unique(queries):
        rows = ids[queries == number]
        seen = np.zeros(samples, dtype=bool)
        seen[rows] = True
        known = before.get(int(number))
        if np.count_nonzero(seen) != len(rows) or (known is not None and (known & seen).any()):
            counts = np.bincount(rows, minlength=len(seen)) + (0 if known is None else known)
            twice = np.flatnonzero(counts > 1)[0]
            raise InvalidInput(f"run {run!r} has two rows for sample {twice} and query {int(number)}")
        added[int(number)] = seen
    return added


def check_finite(
    run: str,
    ids: npt.NDArray[np.int64],
    loss: npt.NDArray,
    phi: npt.NDArray | None,
    logits: npt.NDArray | None,
) -> None:
    """Raises InvalidInput where a loss, phi or logit is NaN, or a phi infinite."""
    advice = "the model has probably diverged: lower the learning rate"
    bad = np.isnan(loss) if phi is None else np.isnan(loss) | ~np.isfinite(phi)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise InvalidInput(
            f"run {run!r}: {int(bad.sum())} signals are not finite, first sample {ids[first]} "
            f"(loss {loss[first]}, phi {'NULL' if phi is None else phi[first]}); {advice}"
        )
    if logits is not None:
        for start in range(0, len(ids), _CHECKED_ROWS):
            rows = np.flatnonzero(np.isnan(logits[start : start + _CHECKED_ROWS]).any(axis=1))
            if len(rows):
                raise InvalidInput(f"run {run!r}: logits of sample {ids[start + rows[0]]} are NaN; {advice}")


def check_complete(
    run: str, seen: Mapping[int, npt.NDArray[np.bool_]], epochs: Iterable[tuple[str, Iterable[int]]]
) -> None:
    """Raises InvalidInput where queries have unequal numbers of samples, or a source's ``epochs`` have a gap."""
    sizes = {number: int(of_query.sum()) for number, of_query in seen.items()}
    if len(set(sizes.values())) > 1:
        raise InvalidInput(f"run {run!r} has unequal numbers of samples by query: {sizes}")
    for source, given in epochs:
        there = set(given)
        # Only the train trace has no value before training: it is recorded inside the steps.
        start = 1 if source == "train" and 0 not in there else 0
        if len(there) <= max(there) - start:
            missing = next(epoch for epoch in range(start, max(there)) if epoch not in there)
            raise InvalidInput(f"the {source} trace of run {run!r} lacks epoch {missing} of {max(there)}")


def check_info(info: RunInfo, run: str) -> None:
    """Raises InvalidOption for an unknown role, InvalidInput for what cannot be stored."""
    if info.role not in ROLES:
        raise InvalidOption(f"run {run!r}: there is no role {info.role!r} (roles: {', '.join(ROLES)})")
    for name, most in (("seed", 2**63), ("epochs", 2**31)):
        value = getattr(info, name)
        if value is not None and not -most <= value < most:
            raise InvalidInput(
                f"{name} {value} of run {run!r} is too large to be stored; it fits below {most}"
            )
    try:
        manifest.dump(asdict(info))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"what is said of run {run!r} cannot be written as JSON: {error}") from error


Ids = npt.NDArray[np.integer]
Values = npt.NDArray[np.floating]


def as_floats(values: Values, what: str) -> npt.NDArray[np.float32]:
    """Numbers as float32. Raises InvalidInput, naming ``what``, for anything else."""
    try:
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and told apart where that matters
            return np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{what} are not numbers: {error}") from error


def as_integers(values: Ids, what: str, kind: type[np.integer]) -> npt.NDArray[np.integer]:
    """Whole numbers as ``kind``. Raises InvalidInput for others and for those that do not fit."""
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise InvalidInput(f"{what} must be integers, not {array.dtype}")
    limits = np.iinfo(kind)
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        worst = array.max() if array.max() > limits.max else array.min()
        raise InvalidInput(f"{what}: {worst} does not fit {np.dtype(kind)} ({limits.min} to {limits.max})")
    return array.astype(kind)


def as_matrix(values: Values, rows: int, name: str) -> Values:
    """Values of shape (rows, width), float16 or float32. Raises InvalidInput for any other."""
    values = np.asarray(values)
    if (
        values.ndim != 2
        or len(values) != rows
        or not values.shape[1]
        or values.dtype not in (np.float16, np.float32)
    ):
        raise InvalidInput(
            f"{name} must be float16 or float32 of shape ({rows}, width), not {values.dtype}{values.shape}"
        )
    return values


def as_traces(traces: Mapping[str, Values], rows: int, what: str) -> int:
    """The number of epochs of traces of shape (rows, epochs). Raises InvalidInput where they are not all of one."""
    shapes = {name: values.shape for name, values in traces.items()}
    (first, *others) = shapes.values()
    if len(first) != 2 or first[0] != rows or not first[1] or any(other != first for other in others):
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise InvalidInput(
            f"shapes of {what}: {listed}; each must be ({rows}, epochs), with a row a sample id"
        )
    for name, values in traces.items():
        if values.dtype.kind not in "fiu":
            raise InvalidInput(f"{name} of {what} is {values.dtype}; it must be numbers")
    return int(first[1])


def copied(values: npt.NDArray, rows: slice) -> pa.Array:
    """Some rows as Arrow values of their own: the caller may use the array again before they are written."""
    part = np.array(values[rows], order="C")
    if part.ndim == 1:
        return pa.array(part)
    offsets = np.arange(0, part.size + 1, part.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(part.ravel()))


def lists_with_gaps(values: npt.NDArray[np.float32], there: npt.NDArray[np.bool_] | None) -> pa.Array:
    """A list a row; elements that are not there are NULL. None: all are there."""
    bits = None
    if there is not None and not there.all():
        bits = pa.py_buffer(np.packbits(there.ravel(), bitorder="little"))
    flat = pa.Array.from_buffers(pa.float32(), values.size, [bits, pa.py_buffer(values)])
    return pa.ListArray.from_arrays(np.arange(0, values.size + 1, values.shape[1], dtype=np.int32), flat)
