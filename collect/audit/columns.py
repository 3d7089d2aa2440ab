"""The columns of a frame of records: which are features, which names, label and group, and which the lake keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ...store.errors import InvalidInput, InvalidOption
from ...store.format.schema import SAMPLES
from ..callables import unknown_choice
from ..data.tables import encode_keys, is_category, is_number
from ..hook.given import is_text

MOST_COLUMNS = 100
"""A frame's columns are kept beside the records, for the report, where they are no more than this."""

_TAKEN = {name.casefold() for name in (*SAMPLES.names, "experiment", "run")}


@dataclass(frozen=True)
class Columns:
    """Which columns of a frame are what. ``features`` None: those that the model names, or else all that are nothing else.

    Raises InvalidOption for a label, key or group that is no name of a column.
    """

    label: str = "label"
    key: str | None = None
    group: str | None = None
    features: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        for option in ("label", "key", "group"):
            value = getattr(self, option)
            if not isinstance(value, str) and not (value is None and option != "label"):
                raise InvalidOption(
                    f"{option} is a {type(value).__name__}; it is the name of a column: give the records as a frame that has it"
                )

    def check_unused(self, what: str, kind: str) -> None:
        """Raises InvalidOption where columns are named, and the records have none."""
        for option in ("key", "group", "features"):
            if getattr(self, option) is not None:
                raise InvalidOption(
                    f"{option} names columns, and {what} are {kind}, which has no columns: leave {option}= out, or give a frame"
                )


def is_frame(given: Any) -> bool:
    """Whether it has columns with names: a frame, a table, a mapping of columns or a list of mappings.

    Mappings that hold tensors or arrays are no rows of a table, but the records of a data set.
    """
    rows = (
        isinstance(given, (list, tuple))
        and len(given)
        and isinstance(given[0], Mapping)
        and not any(getattr(value, "ndim", 0) for value in given[0].values())
    )
    lazy = hasattr(
        given, "collect_schema"
    )  # asked first: Polars warns of a lazy frame that is asked for its columns
    return bool(
        rows or lazy or isinstance(given, (Mapping, pa.Table, pa.RecordBatch)) or hasattr(given, "columns")
    )


def features_of(
    frame: Any,
    what: str,
    columns: Columns,
    expected: Sequence[str] | None,
    *,
    besides: tuple[str | None, ...],
) -> Any:
    """The columns that the model takes, or the one column, as it is, where ``features`` is its name."""
    names = list(frame.columns)
    wanted = columns.features if columns.features is not None else expected
    if wanted is None:
        wanted = [name for name in names if str(name) not in besides]
    missing = [name for name in ([wanted] if isinstance(wanted, str) else wanted) if name not in names]
    if missing:
        said = "features= names" if columns.features is not None else "the model was fitted on"
        raise InvalidInput(
            f"{what} have no column {', '.join(map(repr, missing[:5]))}, which {said}; they have: {', '.join(map(str, names[:20]))}"
        )
    if not len(wanted):
        raise InvalidInput(f"{what} have no feature columns beside the label")
    return frame[wanted] if isinstance(wanted, str) else frame[list(wanted)]


def renumbered(frame: Any) -> Any:
    """A pandas frame whose rows are numbered by their place, so that an index of numbers is no obstacle; an index of text stays."""
    if not hasattr(frame, "iloc") or frame.index.dtype.kind not in "iu":
        return frame
    return frame.reset_index(drop=True)


def keys_of(frame: Any, table: pa.Table, what: str, columns: Columns) -> tuple[list[str] | None, bool]:
    """Names of the records, and whether somebody gave them as names, rather than as the numbers of a pandas index."""
    if columns.key is not None:
        if columns.key not in table.column_names:
            raise unknown_choice(f"key column of {what}", columns.key, table.column_names)
        return encode_keys(table[columns.key], where=what, name=columns.key).tolist(), True
    if "key" in table.column_names and "key" not in list(map(str, frame.columns)):
        return list(map(str, table["key"].to_pylist())), True  # an index of text
    index = getattr(frame, "index", None)
    if index is None or getattr(index, "nlevels", 1) > 1 or index.dtype.kind not in "iu":
        return None, False
    if np.array_equal(index, np.arange(len(index))) or not index.is_unique:
        return None, False
    return list(map(str, index)), False


def group_of(table: pa.Table, what: str, columns: Columns) -> list[str | None] | None:
    """The group of each record as text, None where no column of groups is named."""
    if columns.group is None:
        return None
    if columns.group not in table.column_names:
        raise unknown_choice(f"group column of {what}", columns.group, table.column_names)
    return [None if value is None else str(value) for value in table[columns.group].to_pylist()]


def kept_of(table: pa.Table, columns: Columns) -> pa.Table | None:
    """The columns that the lake keeps of a frame: numbers, text and truth values that are nothing else already."""
    names = [
        field.name
        for field in table.schema
        if (
            is_number(field.type)
            or is_category(field.type)
            or is_text(field.type)
            or pa.types.is_temporal(field.type)
        )
        and field.name.casefold() not in _TAKEN
        and field.name not in (columns.label, columns.key, columns.group)
    ]
    folded = {name.casefold() for name in names}
    if not names or len(names) > MOST_COLUMNS or len(folded) < len(names):
        return None
    return table.select(names).replace_schema_metadata(None)
