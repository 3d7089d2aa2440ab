"""Arrays as a collector gives them, checked and turned into the types of the lake's columns."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import InvalidInput

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
