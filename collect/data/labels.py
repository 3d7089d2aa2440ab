"""Labels: from what a file says to 0..C-1 and class names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...store.errors import InvalidInput

MAX_LABEL = 1_000_000


def encode_labels(
    values: np.ndarray, *, where: str, names: Sequence[str] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N,) as int64 class numbers (N,), and the class names.

    Integers (and floats that are whole numbers) are used as they are: there are max + 1 classes, or as many
    as `names`; classes that never occur are fine. Strings are numbered in sorted order, as objects too, which is how
    Pandas and Polars hand them to NumPy. `where` says in errors where the labels came from.

    Raises InvalidInput for a label that is negative, not whole, or beyond `names` or MAX_LABEL, with its row.
    """
    if values.ndim != 1:
        raise InvalidInput(f"{where}: labels have shape {values.shape}; they must have one dimension")
    if values.dtype.kind == "O":
        values = _from_objects(values, where)
    if values.dtype.kind in "US":
        classes, numbers = np.unique(values.astype(np.str_), return_inverse=True)
        if names is not None and set(classes.tolist()) <= set(names):
            at = {name: number for number, name in enumerate(names)}
            remapped = np.array([at[name] for name in classes.tolist()], dtype=np.int64)
            return remapped[numbers], tuple(names)
        return numbers.astype(np.int64), tuple(str(name) for name in classes)
    if values.dtype.kind not in "biuf":
        raise InvalidInput(f"{where}: labels are {values.dtype}; they must be integers or strings")
    if values.dtype.kind == "f":
        _refuse_first(
            ~np.isfinite(values) | (values != np.floor(values)), values, where, "is not a whole number"
        )
    if values.dtype.kind in "if":
        _refuse_first(values < 0, values, where, "is negative; labels run from 0")
    _refuse_first(
        values > MAX_LABEL, values, where, f"is above {MAX_LABEL:,}; is this an id rather than a class?"
    )
    labels = values.astype(np.int64)
    if names is not None:
        _refuse_first(labels >= len(names), values, where, f"has no name: {len(names)} classes are declared")
        return labels, tuple(names)
    return labels, tuple(str(number) for number in range(int(labels.max(initial=-1)) + 1))


def label_values(column: pa.ChunkedArray, *, where: str) -> np.ndarray:
    """A label column (N,) as a NumPy array of numbers or strings.

    Raises InvalidInput for a null (with its row) and for types that cannot be labels.
    """
    if column.null_count:
        row = int(pc.index(column.is_null(), True).as_py())
        raise InvalidInput(f"{where}: the label of row {row} is missing")
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return np.array(column.to_pylist(), dtype=np.str_)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return np.asarray(column.to_numpy())
    raise InvalidInput(f"{where}: labels are {kind}; they must be integers or strings")


def _from_objects(values: np.ndarray, where: str) -> np.ndarray:
    try:
        column = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InvalidInput(
            f"{where}: labels are objects of several kinds ({error}); they must be integers or strings"
        ) from error
    return label_values(pa.chunked_array([column]), where=where)


def _refuse_first(wrong: np.ndarray, values: np.ndarray, where: str, why: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InvalidInput(f"{where}: label {values[row].item()} of row {row} {why}")
