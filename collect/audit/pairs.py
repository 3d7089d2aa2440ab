"""What two things together are: (X, y), or two records; which of them is which; and mappings of several data sets."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...store.errors import InvalidInput


def is_pair(given: Any, what: str) -> bool:
    """Whether it is (X, y): a tuple of two, or a list of two that are not records themselves.

    Raises InvalidInput for two records in a tuple, which is for (X, y), and for a list of two tuples that may be either.
    """
    if not isinstance(given, (tuple, list)) or len(given) != 2 or isinstance(given[0], Mapping):
        return False
    if not all(map(_is_record, given)):
        return True
    if not _is_one(given[1][0]):  # the first of two labels would be one value
        if isinstance(given, tuple):
            raise InvalidInput(
                f"{what} are a tuple of two records (x, y), and a tuple of two is (X, y); give the records as a list, or (X, y)"
            )
        return False
    if isinstance(given, list):
        raise InvalidInput(
            f"{what} are a list of two tuples, which may be X and y or two records (x, y); give the tuple (X, y), or the records as a frame or in a "
            "torch data set"
        )
    return True


def _is_record(value: Any) -> bool:
    """Whether it may be (x, y) of one record."""
    return isinstance(value, tuple) and len(value) > 1 and _is_one(value[1])


def _is_one(value: Any) -> bool:
    """Whether it is one value, and not several."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return len(shape) == 0
    return isinstance(value, (str, bytes)) or not hasattr(value, "__len__")


def check_which(x: Any, y: Any, what: str) -> None:
    """Raises InvalidInput where y is no column of labels, and its shape and values beside X's say what it is."""
    of_x, of_y = map(_shape, (x, y))
    if of_x is None or of_y is None:
        return
    one_each = len(of_x) == 1 or of_x[1:] == (1,)
    swapped = "they seem to be swapped; give (X, y), the records first and the labels second"
    if len(of_y) < 2 or of_y[1] == 1:
        # One feature: no class is a fraction, and what is no text and may be classes all through is hardly one of the records.
        if one_each and _has_fractions(y) and not _has_fractions(x) and _numbers(x) is not None:
            raise InvalidInput(f"X of {what} has one whole number a record and y fractions: {swapped}")
        return
    if len(of_x) == 1 and not _has_fractions(x):
        raise InvalidInput(f"X of {what} has one value a record and y rows of {of_y[1]}: {swapped}")
    if tuple(of_x[1:]) == tuple(of_y[1:]):
        raise InvalidInput(
            f"y of {what} has rows of {of_y[1]} values, as X has, and not a label a record; where these are other records, give "
            "members=(X_train, y_train), nonmembers=(X_test, y_test); where they are probabilities of classes, the class: argmax(1)"
        )


def _shape(values: Any) -> tuple[int, ...] | None:
    """The shape of an array, or of a list of numbers or of rows of them; None of anything else."""
    found = getattr(values, "shape", None)
    if found is None and isinstance(values, list) and (numbers := _numbers(values)) is not None:
        found = numbers.shape
    return None if found is None else tuple(found)


def _numbers(values: Any) -> np.ndarray | None:
    """The values as an array, where they are numbers or truth values."""
    first = values
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    if isinstance(values, list) and not isinstance(first, (int, float, np.number)):
        return None  # texts would become an array that is as wide as the longest
    try:
        array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    except (TypeError, ValueError, RuntimeError):
        return None
    return array if array.dtype.kind in "biuf" else None


def _has_fractions(values: Any) -> bool:
    """Whether any of them is a number that is not whole."""
    array = _numbers(values)
    if array is None or array.dtype.kind != "f":
        return False
    there = array[np.isfinite(array)]
    return bool(np.any(there % 1 != 0))


def check_same_rows(x: Any, y: Any, what: str) -> None:
    """Raises InvalidInput for pandas rows whose index says that they are not the same."""
    pandas = sys.modules.get("pandas")
    if (
        pandas is None
        or not isinstance(x, pandas.DataFrame)
        or not isinstance(y, (pandas.Series, pandas.DataFrame))
    ):
        return
    if len(x) == len(y) and not x.index.equals(y.index):
        raise InvalidInput(
            f"X and y of {what} are pandas rows of another index each, so their rows are not the same records"
        )


def check_columns(given: Any, what: str) -> None:
    """Raises InvalidInput for a mapping that is no frame: of several data sets, as a DatasetDict, or of arrays with rows of several values."""
    if not isinstance(given, Mapping) or not given:
        return
    names = list(given)
    sets = [name for name in names if _is_set(given[name])]
    if sets:
        named = " and ".join(repr(name) for name in names[:2])
        other = names[1] if len(names) > 1 else "test"
        raise InvalidInput(
            f"{what} are a mapping of data sets ({', '.join(map(str, names[:5]))}), and no frame; give one of them on each side, such as "
            f"members=data[{names[0]!r}], nonmembers=data[{other!r}]"
            if len(names) > 1
            else f"{what} are a mapping of one data set, {named}; give it itself, data[{names[0]!r}]"
        )
    wide = [name for name in names if len(getattr(given[name], "shape", ())) > 1]
    if wide:
        beside = next((name for name in names if name not in wide), None)
        labels = "y" if beside is None else f"data[{beside!r}]"
        raise InvalidInput(
            f"{what} are a mapping whose {wide[0]!r} has rows of {given[wide[0]].shape[1]} values, and is no column; give the tuple (X, y), here "
            f"(data[{wide[0]!r}], {labels})"
        )


def _is_set(value: Any) -> bool:
    """Whether it is a data set of its own: a frame, records with columns, (X, y), a data set of torch's."""
    data = sys.modules.get("torch.utils.data")
    torch_set = data is not None and isinstance(value, (data.Dataset, data.DataLoader))
    rows = isinstance(value, list) and bool(value) and (isinstance(value[0], Mapping) or _is_record(value[0]))
    pair = isinstance(value, tuple) and len(value) == 2 and not _is_one(value[0])
    columns = hasattr(value, "columns") or hasattr(value, "column_names") or isinstance(value, Mapping)
    return bool(torch_set or rows or pair or columns) and not isinstance(value, np.ndarray)
