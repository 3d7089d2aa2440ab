"""What people hand over as samples, members and ids: frames, data sets, arrays, lists; class names, keys and masks.

pandas and datasets are looked for among the modules that are loaded: whoever has an object of theirs has loaded them.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...store.errors import InvalidInput
from ...store.format.schema import SAMPLES

KeyLookup = Callable[[Sequence[str] | np.ndarray], np.ndarray]
"""The sample ids int64 of keys, text or numbers. Raises InvalidInput for a key that no sample has, or several have.

Numbers are sample ids where no sample's key is a number.
"""


def read_samples(samples: Any) -> tuple[pa.Table, list[str] | None]:
    """The table of samples that `start_run` is given, with labels as class numbers, and the names of the classes or None.

    Raises InvalidInput for what is neither labels nor a table, and for labels that are no classes. Warns where labels count from 1.
    """
    table, names = table_of(samples)
    if "label" in table.column_names:
        labels, found = _class_numbers(table["label"])
        names = found if names is None else names
        table = table.set_column(table.column_names.index("label"), "label", labels)
        _warn_of_a_first_label(labels)
    if "key" in table.column_names and pa.types.is_floating(table["key"].type):
        raise InvalidInput(
            f"the samples' column 'key' is {table['key'].type}; keys are text or whole numbers"
        )
    return table, names


def read_members(members: Any, keys: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """A mask (samples,) bool, and the members' ids int64 in the order given (ascending for a mask).

    ``keys`` are those of all samples. Raises InvalidInput for a mask of another length, for an id out of range, a key that
    no sample has, one given twice, and for whole numbers that may be either ids or keys.
    """
    samples = len(keys)
    if isinstance(members, Mapping):
        raise InvalidInput("members are a mapping; give sample ids, keys as text, or a mask over the samples")
    members = _of_subset(members, samples)
    column = _column(sorted(members) if isinstance(members, (set, frozenset)) else members, "members")
    if column.null_count:
        raise InvalidInput(
            f"members have no value at position {pc.index(column.is_null(), True).as_py()}; give each one"
        )
    if is_text(column.type):
        array = key_lookup(keys)(column.to_pylist())
    else:
        array = column.to_numpy()
    whole = np.issubdtype(array.dtype, np.integer)
    if array.dtype == bool or (len(array) == samples and _zeros_and_ones(array)):
        if array.shape != (samples,):
            raise InvalidInput(
                f"members are a mask of shape {array.shape}; the experiment has {samples} samples"
            )
        _check_order_of_rows(members, "members")
        mask = array.astype(bool)
        return mask, np.flatnonzero(mask)
    if len(array) == 0:
        raise InvalidInput("members are none; give the samples that the run trains on")
    if not whole:
        raise InvalidInput(
            f"members are {array.dtype} {array.shape}; give a boolean mask or integer sample ids, or keys as text"
        )
    if not is_text(column.type):
        _refuse_keys_as_ids(array, keys)
    bad = array[(array < 0) | (array >= samples)]
    if len(bad):
        raise InvalidInput(
            f"member {bad[0]} is not a sample of the experiment (0 to {samples - 1}); keys are given as text"
        )
    mask = np.zeros(samples, dtype=bool)
    mask[array] = True
    if mask.sum() != len(array):
        values, counts = np.unique(array, return_counts=True)
        raise InvalidInput(f"member {values[counts > 1][0]} is given twice")
    return mask, array.astype(np.int64)


def _of_subset(members: Any, samples: int) -> Any:
    """The sample ids that a torch Subset, of a Subset ..., of a data set of all samples names; anything else as it is."""
    data = sys.modules.get("torch.utils.data")
    if data is None or not isinstance(members, data.Subset):
        return members
    from .positions import members_named  # with torch, which who has no Subset does without

    found = members_named(members, samples)
    if found is None:
        raise InvalidInput(
            f"members are a Subset, but of no data set as long as the experiment, of {samples} samples; give a mask or sample ids"
        )
    return found


def key_lookup(keys: pa.ChunkedArray) -> KeyLookup:
    """How to find samples by their keys, text, of all samples in the order of ids; a forgotten sample has none."""
    places: dict[str, int] = {}
    several: set[str] = set()
    plain = True  # a number says which sample

    def look_up(asked: Sequence[str] | np.ndarray) -> np.ndarray:
        nonlocal plain
        if not places:
            for sample, key in enumerate(keys.to_pylist()):
                if key is not None and places.setdefault(key, sample) != sample:
                    several.add(key)
            own = all(key == str(sample) for key, sample in places.items())
            plain = own or not any(key.isdecimal() for key in places)
        if isinstance(asked, np.ndarray):
            if plain:
                return asked.astype(np.int64)
            asked = list(map(str, asked.tolist()))
        for key in asked:
            if key in several or key not in places:
                which = "several samples have" if key in several else "no sample of the experiment has"
                raise InvalidInput(
                    f"{which} the key {key!r} (keys are such as {', '.join(map(repr, list(places)[:3]))})"
                )
        return np.fromiter((places[key] for key in asked), dtype=np.int64, count=len(asked))

    return look_up


def keys_in(ids: Any) -> list[str] | None:
    """``ids`` as keys where they are text; None where they are none, such as numbers and tensors."""
    if isinstance(ids, (list, tuple)):
        return list(map(str, ids)) if len(ids) and isinstance(ids[0], str) else None
    if isinstance(ids, np.ndarray):
        kind = ids.dtype.kind
        return (
            ids.tolist()
            if kind in "UT" or (kind == "O" and ids.size and isinstance(ids.flat[0], str))
            else None
        )
    if hasattr(ids, "detach") or not hasattr(ids, "__len__"):
        return None
    column = _column(ids, "ids")
    return column.to_pylist() if is_text(column.type) else None


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


# --- tables -------------------------------------------------------------------------------------------------


def table_of(samples: Any) -> tuple[pa.Table, list[str] | None]:
    """Whatever frame, mapping of columns, list of rows or labels as a table, and the names of the classes where it tells them."""
    if isinstance(samples, pa.Table):
        return samples, None
    datasets, pandas = sys.modules.get("datasets"), sys.modules.get("pandas")
    if datasets is not None and isinstance(samples, getattr(datasets, "DatasetDict", ())):
        splits = ", ".join(map(str, getattr(samples, "keys", tuple)()))
        raise InvalidInput(
            f"samples are several data sets ({splits}); give one, or all records in one by "
            "concatenate_datasets"
        )
    if datasets is not None and isinstance(samples, getattr(datasets, "Dataset", ())):
        return _of_hugging_face(samples)
    if pandas is not None and isinstance(samples, pandas.DataFrame):
        return _of_pandas(samples), None
    if hasattr(samples, "collect") and hasattr(samples, "collect_schema"):
        samples = samples.collect()  # Polars, lazy
    if isinstance(samples, pa.RecordBatch):
        return pa.Table.from_batches([samples]), None
    if hasattr(samples, "to_arrow") and hasattr(samples, "columns"):
        return samples.to_arrow(), None
    if isinstance(samples, Mapping):
        columns = {}
        for name, column in samples.items():
            _check_order_of_rows(column, f"the samples' column {str(name)!r}")
            columns[str(name)] = _column(column, f"the samples' column {str(name)!r}", nested=True)
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise InvalidInput(f"the samples' columns differ in length: {lengths}")
        return pa.table(columns), None
    if isinstance(samples, (list, tuple)) and samples and isinstance(samples[0], Mapping):
        try:
            return pa.Table.from_pylist(list(samples)), None
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise InvalidInput(f"samples are rows that make no table: {error}") from error
    _check_order_of_rows(samples, "samples")
    return pa.table({"label": _column(samples, "samples")}), None


def _of_pandas(frame: Any) -> pa.Table:
    """A pandas frame; an index of text is the column key."""
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidInput(f"samples are a pandas frame that makes no table: {error}") from error
    if "label" in table.column_names:
        at = table.column_names.index("label")
        table = table.set_column(at, "label", _in_their_order(table["label"]))
    if "key" not in frame.columns:
        index = None if frame.index.nlevels > 1 else pa.array(frame.index, from_pandas=True)
        if index is not None and is_text(index.type):
            return table.append_column("key", index)
        _check_order_of_rows(frame, "samples")
    return table


def _of_hugging_face(records: Any) -> tuple[pa.Table, list[str] | None]:
    """What a Hugging Face Dataset says of its records beside what they are: the lake's columns, numbers and truth values."""
    given = records.column_names
    label = "label" if "label" in given else "labels" if "labels" in given else None
    kinds = records.features.arrow_schema
    kept = [
        name
        for name in given
        if name == label
        or (name in SAMPLES.names and name != "label")
        or pa.types.is_integer(kinds.field(name).type)
        or pa.types.is_floating(kinds.field(name).type)
        or pa.types.is_boolean(kinds.field(name).type)
    ]
    if not kept:
        raise InvalidInput(
            f"the Dataset has no column that says something of its records (columns: {', '.join(given)}); add a column label"
        )
    table = records.select_columns(kept).with_format("arrow")[:]
    names = None
    if label is not None:
        names = getattr(records.features[label], "names", None)
        table = table.rename_columns(["label" if name == label else name for name in table.column_names])
        if pa.types.is_list(table["label"].type):  # of tokens, which are no classes of the record
            table = table.drop_columns(["label"])
            names = None
    return table.replace_schema_metadata(None), names


def _check_order_of_rows(given: Any, what: str) -> None:
    """Raises InvalidInput for a pandas object whose rows are numbered in another way than by their place."""
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(given, (pandas.Series, pandas.DataFrame)):
        return
    index = given.index
    if index.nlevels == 1 and index.dtype.kind in "iu" and not np.array_equal(index, np.arange(len(index))):
        raise InvalidInput(
            f"{what} are pandas rows that are numbered {', '.join(map(str, index[:3]))}, ..., not 0, 1, 2, ..., and a sample's id "
            "is its place: call reset_index(drop=True), or make the numbers a column key, as text"
        )


# --- columns ------------------------------------------------------------------------------------------------


def _column(values: Any, what: str, *, nested: bool = False) -> pa.ChunkedArray:
    """One value a sample, of any kind of array or list; ``nested``: lists too. Raises InvalidInput for anything else."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    if isinstance(values, (pa.ChunkedArray, pa.Array)):
        found = values
    elif type(values).__module__.partition(".")[0] == "pandas":
        if getattr(values, "ndim", 1) != 1:
            raise InvalidInput(f"{what} are a pandas frame; give one column of it")
        found = _in_their_order(_array(values, what))
    elif hasattr(values, "to_arrow") and not hasattr(values, "columns"):
        found = values.to_arrow()
    else:
        found = _array(_numbers(values, what) if isinstance(values, np.ndarray) else values, what, nested)
    column = found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])
    if nested or not pa.types.is_dictionary(column.type) or what == "samples":
        return column
    return column.cast(column.type.value_type)


def _numbers(array: np.ndarray, what: str) -> Any:
    if array.ndim != 1:
        raise InvalidInput(
            f"{what} are {array.dtype} {array.shape}; give one value a sample (of class probabilities the class: argmax(1))"
        )
    return array.tolist() if array.dtype.kind in "OUT" else array


def _array(values: Any, what: str, nested: bool = False) -> pa.Array:
    if not isinstance(values, (str, bytes)) and hasattr(values, "__len__"):
        try:
            found = pa.array(values, from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            try:
                array = np.asarray(values)
            except (TypeError, ValueError):
                array = np.empty(0, dtype=object)
            if array.ndim != 1 or array.dtype.kind not in "iufb" or not len(array):
                raise InvalidInput(f"{what} cannot be read as one value a sample: {error}") from error
            found = pa.array(array)
        if nested or not pa.types.is_nested(found.type):
            return found
    raise InvalidInput(
        f"{what} are a {type(values).__name__}; give one value a sample, or a table with a column label"
    )


def _class_numbers(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[str] | None]:
    """Labels as int64, and their names where they are text: in order, or as a categorical column orders them."""
    if pa.types.is_dictionary(column.type):
        encoded = column.combine_chunks()
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        if is_text(column.type.value_type):
            names = encoded.dictionary.to_pylist()
            order = names if column.type.ordered else sorted(set(names))
            place = np.array([order.index(name) for name in names], dtype=np.int64)
            codes = encoded.indices
            return pa.chunked_array([pa.array(place).take(codes.cast(pa.int64()))]), order
        column = column.cast(column.type.value_type)
    kind = column.type
    if is_text(kind):
        names = sorted(pc.unique(column.drop_null()).to_pylist())
        return pc.index_in(column, pa.array(names, kind)).cast(pa.int64()), names
    if pa.types.is_boolean(kind):
        return column.cast(pa.int64()), None
    if pa.types.is_null(kind):
        return pa.chunked_array([pa.nulls(len(column), pa.int64())]), None
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), None, column)
        if pc.all(pc.equal(pc.floor(column), column)).as_py() is False:
            raise InvalidInput(
                f"labels are {kind}, and not whole numbers; classes are counted 0, 1, 2, ... Of a regression leave label out, and "
                "keep the target under another name: a table with a column target"
            )
        return column.cast(pa.int64()), None
    if not pa.types.is_integer(kind):
        raise InvalidInput(f"labels are {kind}; give class numbers 0, 1, 2, ..., or names as text")
    return column.cast(pa.int64()), None


def _in_their_order(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """pandas' categories, whose codes people train on, as categories that have an order, as Polars' Enum has one.

    Those of Arrow and of Polars' Categorical stand in the order in which they appeared.
    """
    if not pa.types.is_dictionary(column.type):
        return column
    chunks = column.unify_dictionaries().chunks if isinstance(column, pa.ChunkedArray) else [column]
    return pa.chunked_array(
        [pa.DictionaryArray.from_arrays(each.indices, each.dictionary, ordered=True) for each in chunks]
    )


def _warn_of_a_first_label(labels: pa.ChunkedArray) -> None:
    there = np.sort(pc.unique(labels.drop_null()).to_numpy())
    if len(there) > 1 and np.array_equal(there, np.arange(1, len(there) + 1)):
        warnings.warn(
            f"the labels of the samples are 1 to {there[-1]} and none is 0: losslake counts classes from 0, as torch's losses do; "
            "subtract 1, unless there is a class 0 that no sample has",
            stacklevel=5,
        )


# --- numbers that may mean two things -----------------------------------------------------------------------


def _zeros_and_ones(array: np.ndarray) -> bool:
    """Whether numbers can only be a mask: 0 and 1, each more often than an id could be given."""
    return (
        array.dtype.kind in "iuf"
        and bool(np.isin(array, (0, 1)).all())
        and (len(array) > 2 or len(np.unique(array)) < len(array))
    )


def _refuse_keys_as_ids(array: np.ndarray, keys: pa.ChunkedArray) -> None:
    """Raises InvalidInput where whole numbers are keys of other samples than those whose ids they are."""
    texts = np.array(keys.fill_null("").to_pylist(), dtype=np.str_)
    given = array.astype(np.str_)
    if not np.isin(given, texts).all():
        return
    inside = (array >= 0) & (array < len(keys))
    if inside.all() and (texts[array] == given).all():
        return
    raise InvalidInput(
        f"members are whole numbers, and each of them is a key of the samples as well ({given[0]!r} first): give sample ids as a mask, "
        "or keys as text"
    )
