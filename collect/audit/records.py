"""The records of an audit as people hand them over: arrays, frames, data sets and loaders; and parts of them in the same kind.

torch, pandas, SciPy's matrices and datasets are looked for among the modules that are loaded: whoever has an object of theirs has
loaded them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from ...store.errors import InvalidInput, InvalidOption
from ...store.format.schema import SAMPLES
from ..callables import a, unknown_choice
from ..data.tables import encode_keys, is_category, is_number
from ..hook.given import is_text, table_of
from .pairs import check_columns, check_same_rows, check_which, is_pair

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


@dataclass(frozen=True, eq=False)
class Records:
    """The records of one side (members, nonmembers, population), in the order given.

    given    what they were given as, with as many rows: (inputs, labels), a frame or a data set; parts of it go to train=
    inputs   a row a record as the model takes them: an array, a frame, one column of a frame, a sparse matrix, a list; or a data set
             of whole records, where the model is asked by the records themselves
    labels   one a record as given; None for whole records
    keys     names of the records, None where they have none; ``named``: somebody gave them as names
    table    the frame's own columns, None without a frame
    collate  how a loader makes batches, None where that is the usual way
    places   of each record in what was handed over
    about    labels of texts, which the model does not see; None without
    """

    what: str
    given: Any
    inputs: Any
    labels: np.ndarray | None
    keys: list[str] | None = None
    named: bool = False
    table: pa.Table | None = None
    group: list[str | None] | None = None
    collate: Any = None
    places: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    about: np.ndarray | None = None

    def __len__(self) -> int:
        return size_of(self.inputs)


def read_records(
    given: Any, what: str, columns: Columns, *, whole: bool, expected: Sequence[str] | None = None
) -> Records:
    """The records that ``given`` holds: (X, y), a frame with a label column, a torch data set or loader, a Hugging Face Dataset.

    ``whole``: the model is a module, which is asked by a data set's records as they are; for any other model they become arrays.
    ``expected`` are the columns that the model was fitted on, where it says so. Raises InvalidInput for what is none of these, for no
    records at all, and for records without a label.
    """
    data = sys.modules.get("torch.utils.data")
    collate = None
    if data is not None and isinstance(given, data.DataLoader):
        given, collate = _of_loader(given, what)
    datasets = sys.modules.get("datasets")
    hugging_face: Any = () if datasets is None else getattr(datasets, "Dataset", ())
    if isinstance(given, hugging_face) and not whole:
        given = given.with_format(None).to_pandas()
    check_columns(given, what)
    if is_pair(given, what):
        found = _of_pair(given, what, columns, expected)
    elif _is_frame(given):
        found = _of_frame(given, what, columns, expected)
    elif data is not None and isinstance(given, data.IterableDataset):
        raise _no_length(what)
    elif isinstance(given, hugging_face):
        found = _of_rows(given, what, columns, collate)
    elif (
        hasattr(given, "__len__")
        and hasattr(given, "__getitem__")
        and not isinstance(given, (str, bytes, tuple))
    ):
        columns.check_unused(what, f"a {type(given).__name__}")
        found = Records(what, given, given, None, collate=collate) if whole else _of_records(given, what)
    else:
        parts = f" of {len(given)}" if isinstance(given, tuple) else ""
        raise InvalidInput(
            f"{what} are {a(type(given).__name__)}{parts}; give (X, y), a frame with a column {columns.label!r}, a torch data set or loader, or a "
            "Hugging Face Dataset"
        )
    if not len(found):
        raise InvalidInput(f"{what} are empty; an audit compares records on both sides")
    return replace(found, places=np.arange(len(found)))


def _no_length(what: str) -> InvalidInput:
    return InvalidInput(f"{what} are an IterableDataset, which has no length; give a map-style data set")


# --- rows of whatever it is ---------------------------------------------------------------------------------


def size_of(inputs: Any) -> int:
    """How many records."""
    return int(inputs.shape[0]) if hasattr(inputs, "shape") else len(inputs)


def rows_of(inputs: Any, ids: np.ndarray) -> Any:
    """The records at ``ids``, of the same kind."""
    if hasattr(inputs, "iloc"):
        return inputs.iloc[ids]
    if isinstance(inputs, tuple):
        return tuple(rows_of(each, ids) for each in inputs)
    if isinstance(inputs, list):
        return [inputs[i] for i in ids.tolist()]
    data = sys.modules.get("torch.utils.data")
    if data is not None and isinstance(inputs, data.Dataset):
        return data.Subset(inputs, ids.tolist())
    if hasattr(inputs, "select") and hasattr(inputs, "features"):  # a Hugging Face Dataset
        return inputs.select(ids)
    return inputs[ids.tolist()] if isinstance(inputs, (pl.DataFrame, pl.Series)) else inputs[ids]


def joined(first: Any, second: Any) -> Any:
    """Records of one kind, those of ``second`` behind those of ``first``."""
    kind = type(first).__module__.partition(".")[0]
    if isinstance(first, tuple):
        return tuple(joined(one, other) for one, other in zip(first, second, strict=True))
    if isinstance(first, list):
        return [*first, *second]
    if kind == "pandas":
        return sys.modules["pandas"].concat([first, second], ignore_index=True)
    if isinstance(first, (pl.DataFrame, pl.Series)):
        both = [first, second.select(first.columns)] if isinstance(first, pl.DataFrame) else [first, second]
        return pl.concat(both, how="vertical_relaxed" if isinstance(first, pl.DataFrame) else "vertical")
    if kind == "scipy":
        return sys.modules["scipy.sparse"].vstack([first, second]).tocsr()
    data = sys.modules.get("torch.utils.data")
    if data is not None and isinstance(first, data.Dataset):
        return data.ConcatDataset([first, second])
    if kind == "datasets":
        return sys.modules["datasets"].concatenate_datasets([first, second])
    if kind == "torch":
        return sys.modules["torch"].cat([first, second])
    return np.concatenate([first, second])


# --- reading ------------------------------------------------------------------------------------------------


def _is_frame(given: Any) -> bool:
    rows = isinstance(given, (list, tuple)) and len(given) and isinstance(given[0], Mapping)
    lazy = hasattr(
        given, "collect_schema"
    )  # asked first: Polars warns of a lazy frame that is asked for its columns
    return bool(
        rows or lazy or isinstance(given, (Mapping, pa.Table, pa.RecordBatch)) or hasattr(given, "columns")
    )


def _of_pair(given: Any, what: str, columns: Columns, expected: Sequence[str] | None) -> Records:
    x, y = given
    check_which(x, y, what)
    if _is_frame(x):
        check_same_rows(x, y, what)
        if not hasattr(x, "iloc"):
            x = pl.DataFrame(table_of(x)[0])
        table = table_of(renumbered(x))[0]
        features = _features(x, what, columns, expected, besides=(columns.key, columns.group))
        keys, named = keys_of(x, table, what, columns)
        found = Records(
            what, (x, y), features, None, keys, named, kept_of(table, columns), group_of(table, what, columns)
        )
    else:
        columns.check_unused(what, "(X, y)")
        x = _rows(x, what)
        found = Records(what, (x, y), x, None)
    labels = read_labels(y, what)
    if len(labels) != len(found):
        raise InvalidInput(
            f"{what} have {len(found)} records in X and {len(labels)} labels in y; give one a record"
        )
    return replace(found, given=(x, labels if isinstance(y, list) else y), labels=labels)


def _of_frame(given: Any, what: str, columns: Columns, expected: Sequence[str] | None) -> Records:
    frame = given if hasattr(given, "iloc") else pl.DataFrame(table_of(given)[0])
    names = list(map(str, frame.columns))
    if columns.label not in names:
        raise InvalidOption(
            f"{what} have no column {columns.label!r}; name that of the labels with label=, one of: {', '.join(names[:20])}"
        )
    labels = read_labels(frame[columns.label], what)
    table = table_of(renumbered(frame))[0]
    besides = (columns.label, columns.key, columns.group)
    features = _features(frame, what, columns, expected, besides=besides)
    keys, named = keys_of(frame, table, what, columns)
    return Records(
        what, frame, features, labels, keys, named, kept_of(table, columns), group_of(table, what, columns)
    )


def _of_rows(data: Any, what: str, columns: Columns, collate: Any) -> Records:
    """A Hugging Face Dataset whose rows a module is asked by as they are, but for the columns that name records and groups."""
    if columns.features is not None:
        raise InvalidOption(
            f"features names columns, and a module is asked by whole rows of {what}: leave features= out, and say with forward= what it takes"
        )
    names = [name for name in (columns.key, columns.group) if name is not None]
    for option, name in (("key", columns.key), ("group", columns.group)):
        if name is not None and name not in data.column_names:
            raise unknown_choice(f"{option} column of {what}", name, data.column_names)
    if not names or not len(data):
        return Records(what, data, data, None, collate=collate)
    table = data.select_columns(names).with_format("arrow")[:]
    keys, named = keys_of(data, table, what, columns) if columns.key is not None else (None, False)
    return Records(
        what,
        data,
        data.remove_columns(names),
        None,
        keys,
        named,
        None,
        group_of(table, what, columns),
        collate,
    )


def _features(
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


def _rows(x: Any, what: str) -> Any:
    if hasattr(x, "tocsr"):
        rows = x.tocsr(copy=True)
        rows.sum_duplicates()
        rows.eliminate_zeros()
        return rows
    _check_whole(x, f"X of {what}")
    if hasattr(x, "layout") and str(x.layout).startswith("torch.sparse"):
        x = x.to_dense()
    if hasattr(x, "shape") or (isinstance(x, list) and x and isinstance(x[0], str)):
        if hasattr(x, "shape") and not len(x.shape):
            raise InvalidInput(f"X of {what} is one value; give a row a record")
        return x.data if isinstance(x, np.ma.MaskedArray) else x
    try:
        return np.asarray(x)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"X of {what} is {a(type(x).__name__)} that makes no array: {error}") from error


def _check_whole(values: Any, what: str) -> None:
    """Raises InvalidInput for what can be read only once, and for masked values, which NumPy forgets are missing."""
    if hasattr(values, "__next__"):
        raise InvalidInput(
            f"{what} is {a(type(values).__name__)}, which is gone once it is read; give a list or an array"
        )
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        row = int(np.argmax(np.ma.getmaskarray(values).reshape(len(values), -1).any(axis=1)))
        raise InvalidInput(
            f"{what} has masked values, in record {row} first: fill them as the model was trained on, or leave such records out"
        )


def read_labels(y: Any, what: str) -> np.ndarray:
    """Labels (n,) as they are given. Raises InvalidInput for a missing one, and for what is not one a record."""
    _check_whole(y, f"the column of labels of {what}")
    try:
        labels = np.asarray(plain(y))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the labels of {what} make no array: {error}") from error
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InvalidInput(
            f"the labels of {what} have shape {labels.shape}; give one a record (of class probabilities the class: argmax(1))"
        )
    missing = [i for i, value in enumerate(labels.tolist()) if value is None or value != value]
    if missing:
        raise InvalidInput(
            f"record {missing[0]} of {what} has no label ({len(missing)} have none); leave it out"
        )
    return labels


def _of_loader(loader: Any, what: str) -> tuple[Any, Any]:
    """The data set of a loader, or the part of it that its sampler draws from; and how it makes batches, where that is its own."""
    import torch
    from torch.utils.data import BatchSampler, IterableDataset, Subset, default_collate

    from ..hook.loader import check_followable
    from ..random_streams import undisturbed_randomness

    if isinstance(loader.dataset, IterableDataset):
        raise _no_length(what)
    check_followable(loader)
    with undisturbed_randomness(torch.device("cpu")):
        if type(loader.batch_sampler) in (BatchSampler, type(None)):
            drawn = [int(i) for i in loader.sampler]
        else:
            drawn = [int(i) for batch in loader.batch_sampler for i in batch]
    ids = sorted(set(drawn))
    data = loader.dataset if len(ids) == len(loader.dataset) else Subset(loader.dataset, ids)
    own = loader.batch_sampler is not None and loader.collate_fn is not default_collate
    return data, loader.collate_fn if own else None


def _of_records(data: Any, what: str) -> Records:
    """A data set of (x, y) as arrays, for a model that takes arrays."""
    inputs, labels = [], []
    for i in range(len(data)):
        record = data[i]
        if not isinstance(record, (tuple, list)) or len(record) < 2:
            raise InvalidInput(
                f"record {i} of {what} is {a(type(record).__name__)}, no (x, y); give (X, y), a frame with its label=, or a data set of pairs (x, y)"
            )
        inputs.append(np.asarray(plain(record[0])))
        labels.append(np.asarray(plain(record[1])))
    try:
        x, y = np.stack(inputs) if inputs else np.empty((0, 1)), np.asarray(labels)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the records of {what} make no array: {error}") from error
    return Records(what, (x, y), x, read_labels(y, what))


def plain(value: Any) -> Any:
    """A tensor as an array; anything else as it is. NumPy has no bfloat16."""
    if not hasattr(value, "detach"):
        return value
    value = value.detach().cpu()
    return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()


# --- of one kind ---------------------------------------------------------------------------------------------


def check_alike(parts: Sequence[Records]) -> tuple[Records, ...]:
    """The parts, frames with their columns in one order. Raises InvalidInput where they are of several kinds, shapes or columns."""
    first, found = parts[0], [parts[0]]
    for part in parts[1:]:
        inputs = part.inputs
        if hasattr(first.inputs, "columns") and hasattr(inputs, "columns"):
            there, here = list(first.inputs.columns), list(inputs.columns)
            if set(there) != set(here):
                differing = sorted(map(str, set(there) ^ set(here)))
                raise InvalidInput(
                    f"{first.what} and {part.what} have unequal columns: {', '.join(differing[:10])} on one side only"
                )
            if there != here:
                part = replace(part, inputs=inputs[there])
        elif type(first.inputs) is not type(inputs) and not (first.labels is None and part.labels is None):
            raise InvalidInput(
                f"{first.what} are {a(type(first.inputs).__name__)}, {part.what} {a(type(inputs).__name__)}; give both alike"
            )
        elif hasattr(inputs, "shape") and tuple(first.inputs.shape[1:]) != tuple(inputs.shape[1:]):
            raise InvalidInput(
                f"{first.what} have unequal columns: rows of shape {tuple(first.inputs.shape[1:])}, those of {part.what} "
                f"{tuple(inputs.shape[1:])}"
            )
        found.append(part)
    return tuple(found)
