"""Rows of a run as a collector gives them: are they of its samples, each once, finite, and all there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import InvalidInput, InvalidOption
from ..format.contents import INFO, check_said
from ..format.records import ROLES, RunInfo
from ..format.schema import RUN, SIGNALS, TOKENS
from ..format.tables import with_run
from .token_lists import token_array

Ids = npt.NDArray[np.integer]
Values = npt.NDArray[np.floating]

_ROWS = 32_768
"""Signals are looked at and taken in by so many rows at a time: copies of wide logits stay small."""


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


def epoch_values(
    values: Mapping[str, Values | None], ids: npt.NDArray[np.int64], what: str
) -> dict[str, npt.NDArray[np.float32]]:
    """What was given of one epoch of a trace, as float32. Raises InvalidInput for other shapes than (ids,)."""
    given = {name: _floats(v, f"{name} of {what}") for name, v in values.items() if v is not None}
    for name, value in given.items():
        if value.shape != ids.shape:
            raise InvalidInput(
                f"{name} of {what} has shape {value.shape}, its sample ids have shape {ids.shape}"
            )
    return given


def whole_traces(values: Mapping[str, Values | None], rows: int, what: str) -> dict[str, Values]:
    """What was given of a trace. Raises InvalidInput where not all of it are numbers of one shape (rows, epochs)."""
    traces = {name: np.asanyarray(given) for name, given in values.items() if given is not None}
    shapes = {name: given.shape for name, given in traces.items()}
    if any(len(shape) != 2 or shape[0] != rows or not shape[1] for shape in shapes.values()) or (
        len(set(shapes.values())) > 1
    ):
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise InvalidInput(
            f"shapes of {what}: {listed}; each must be ({rows}, epochs), with a row a sample id"
        )
    for name, given in traces.items():
        if given.dtype.kind not in "fiu":
            raise InvalidInput(f"{name} of {what} is {given.dtype}; it must be numbers")
    return traces


def signal_columns(
    ids: npt.NDArray[np.int64],
    query: Ids,
    label: Ids | None,
    loss: Values,
    phi: Values | None,
    correct: npt.NDArray[np.bool_] | None,
    logits: Values | None,
    features: Values | None,
) -> dict[str, npt.NDArray]:
    """Those columns of signals that were given, of the lake's types. Raises InvalidInput for what does not fit ``ids``."""
    columns: dict[str, npt.NDArray] = {
        "query": _integers(query, "query of the signals", np.int16),
        "loss": _floats(loss, "loss of the signals"),
    }
    if phi is not None:
        columns["phi"] = _floats(phi, "phi of the signals")
    if label is not None:
        columns["label"] = _integers(label, "label of the signals", np.int32)
    if correct is not None:
        columns["correct"] = np.asarray(correct, dtype=bool)
    for name, values in columns.items():
        if values.shape != ids.shape:
            raise InvalidInput(
                f"{name} of the signals has shape {values.shape}, the sample ids have shape {ids.shape}"
            )
    wide = {"logits": logits, "features": features}
    return columns | {name: _matrix(v, len(ids), name) for name, v in wide.items() if v is not None}


def check_finite(run: str, ids: npt.NDArray[np.int64], columns: Mapping[str, npt.NDArray]) -> None:
    """Raises InvalidInput where a loss, phi or logit is NaN, or a phi infinite."""
    advice = "the model has probably diverged: lower the learning rate"
    loss, phi, logits = columns["loss"], columns.get("phi"), columns.get("logits")
    bad = np.isnan(loss) if phi is None else np.isnan(loss) | ~np.isfinite(phi)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise InvalidInput(
            f"run {run!r}: {int(bad.sum())} signals are not finite, first sample {ids[first]} "
            f"(loss {loss[first]}, phi {'NULL' if phi is None else phi[first]}); {advice}"
        )
    if logits is not None:
        for start in range(0, len(ids), _ROWS):
            rows = np.flatnonzero(np.isnan(logits[start : start + _ROWS]).any(axis=1))
            if len(rows):
                raise InvalidInput(f"run {run!r}: logits of sample {ids[start + rows[0]]} are NaN; {advice}")


def samples_seen(
    run: str,
    ids: npt.NDArray[np.int64],
    queries: npt.NDArray,
    samples: int,
    before: Mapping[int, npt.NDArray[np.bool_]],
) -> dict[int, npt.NDArray[np.bool_]]:
    """Which samples have a row by query, with these ``ids``. Raises InvalidInput where one has two."""
    seen = dict(before)
    for number in np.unique(queries).tolist():
        rows = ids[queries == number]
        known = before.get(number, np.zeros(samples, dtype=bool))
        seen[number] = known.copy()
        seen[number][rows] = True
        if np.count_nonzero(seen[number]) != np.count_nonzero(known) + len(rows):
            twice = np.flatnonzero(np.bincount(rows, minlength=samples) + known > 1)[0]
            raise InvalidInput(f"run {run!r} has two rows for sample {twice} and query {number}")
    return seen


def signal_schema(columns: Mapping[str, npt.NDArray]) -> pa.Schema:
    """The schema of signals whose wide columns are of the type that they were given; of tokens only what was given. In a run's file."""
    types = {name: pa.list_(pa.from_numpy_dtype(v.dtype)) for name, v in columns.items() if v.ndim == 2}
    there = [field for field in SIGNALS if field.name in columns or field.name not in TOKENS]
    return pa.schema([RUN, *(field.with_type(types.get(field.name, field.type)) for field in there)])


def signal_tables(
    run: str,
    ids: npt.NDArray[np.int64],
    member: npt.NDArray[np.bool_],
    columns: Mapping[str, npt.NDArray],
    schema: pa.Schema,
) -> Iterator[pa.Table]:
    """Signals of a run as tables of the lake, some rows at a time."""
    columns = {"sample_id": ids.astype(np.int32), "member": member, **columns}
    for start in range(0, len(ids), _ROWS):
        rows = slice(start, min(start + _ROWS, len(ids)))
        arrays = {name: _copied(values, rows) for name, values in columns.items()}
        absent = rows.stop - rows.start
        own = [field for field in schema if field != RUN]
        yield with_run(
            pa.table([arrays.get(field.name, pa.nulls(absent, field.type)) for field in own], pa.schema(own)),
            run,
        )


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
    try:
        check_said(INFO, asdict(info))
    except ValueError as error:
        raise InvalidInput(f"what is said of run {run!r} cannot be stored: {error}") from error


def _floats(values: Values, what: str) -> npt.NDArray[np.float32]:
    """Numbers as float32. Raises InvalidInput, naming ``what``, for anything else."""
    try:
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and told apart where that matters
            return np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{what} are not numbers: {error}") from error


def _integers(values: Ids, what: str, kind: type[np.integer]) -> npt.NDArray[np.integer]:
    """Whole numbers as ``kind``. Raises InvalidInput for others and for those that do not fit."""
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise InvalidInput(f"{what} must be integers, not {array.dtype}")
    limits = np.iinfo(kind)
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        worst = array.max() if array.max() > limits.max else array.min()
        raise InvalidInput(f"{what}: {worst} does not fit {np.dtype(kind)} ({limits.min} to {limits.max})")
    return array.astype(kind)


def _matrix(values: Values, rows: int, name: str) -> Values:
    """Values of shape (rows, width), float16 or float32. Raises InvalidInput for any other."""
    values = np.asarray(values)
    wide = values.ndim == 2 and len(values) == rows and values.shape[1]
    if not wide or values.dtype not in (np.float16, np.float32):
        raise InvalidInput(
            f"{name} must be float16 or float32 of shape ({rows}, width), not {values.dtype}{values.shape}"
        )
    return values


def _copied(values: npt.NDArray, rows: slice) -> pa.Array:
    """Some rows as Arrow values of their own: the caller may use the array again before they are written."""
    if values.dtype == object:
        return token_array(values[rows])
    part = np.array(values[rows], order="C")
    if part.ndim == 1:
        return pa.array(part)
    offsets = np.arange(0, part.size + 1, part.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(part.ravel()))
