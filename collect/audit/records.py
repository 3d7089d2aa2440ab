"""The records of an audit as people hand them over: arrays, frames, data sets and loaders.

torch, pandas, SciPy's matrices and datasets are looked for among the modules that are loaded: whoever has an object of theirs has
loaded them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from ...store.errors import InvalidInput, InvalidOption
from ..callables import a, unknown_choice
from ..hook.given import table_of
from .columns import Columns, features_of, group_of, is_frame, kept_of, keys_of, renumbered
from .pairs import check_columns, check_same_rows, check_which, is_pair
from .rows import plain, read_labels, rows_given, size_of


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
    elif is_frame(given):
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


def _of_pair(given: Any, what: str, columns: Columns, expected: Sequence[str] | None) -> Records:
    x, y = given
    check_which(x, y, what)
    if is_frame(x):
        check_same_rows(x, y, what)
        if not hasattr(x, "iloc"):
            x = pl.DataFrame(table_of(x)[0])
        table = table_of(renumbered(x))[0]
        features = features_of(x, what, columns, expected, besides=(columns.key, columns.group))
        keys, named = keys_of(x, table, what, columns)
        found = Records(
            what, (x, y), features, None, keys, named, kept_of(table, columns), group_of(table, what, columns)
        )
    else:
        columns.check_unused(what, "(X, y)")
        x = rows_given(x, what)
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
    features = features_of(frame, what, columns, expected, besides=besides)
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
