"""Data sets of records that are no row of one array: dicts, tuples of several inputs, and what a loader's collate makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, default_collate

from ...store.errors import InvalidInput, InvalidOption
from ..callables import a, unknown_choice
from .nested import Nested, layout_of
from .record import SPLITS, Dataset, encode_labels, row_keys

LABELS = ("labels", "label", "y", "target", "targets")
"""What the label of a record that is a dict may be called without being named."""

_AGAIN = 32
"""Records that are read a second time, and collated without the others."""

_OWN_LOOP = "such records are trained on in a loop of your own, and shadow models by lake.shadow_runs (docs/hooking.md)"


def is_data_set(made: Any) -> bool:
    """Whether it is a data set of records, a loader of one, or a mapping of these by split."""
    if isinstance(made, Mapping):
        return bool(made) and set(made) <= set(SPLITS) and all(is_data_set(each) for each in made.values())
    source = made.dataset if isinstance(made, DataLoader) else made
    return (
        hasattr(source, "__len__")
        and hasattr(source, "__getitem__")
        and not isinstance(source, (str, bytes, np.ndarray, torch.Tensor))
        and not hasattr(source, "iloc")
        and not hasattr(source, "get_column")
    )


def load_records(
    spec: str, made: Any, *, label: str | None = None, group: str | None = None, key: str | None = None
) -> Dataset:
    """The records of a data set, or of {"train": ..., "test": ...}, all collated into one batch.

    A DataLoader's collate_fn is used where one is given, else torch's; a collate that pads, pads to the longest record of
    all. Its batch size, order and drop_last are not: all its data set's records are read, and the recipe says how they are
    trained on. Of dicts the label is the entry ``label`` (by default the only one of LABELS), and ``group`` and ``key`` are entries
    that are no inputs; of tuples it is the last one. Whole numbers and bools stay as they are, floating-point
    numbers become float32; nothing is normalised.

    Raises InvalidInput for records that differ when they are read twice or collated with others, that are not nested alike,
    and for what is no tensor of a row a record; for a loader that draws some of its records alone, and for several that collate
    differently; InvalidOption for an entry that does not exist.
    """
    parts = made if isinstance(made, Mapping) else {"train": made}
    sources: dict[str, Any] = {
        name: each.dataset if isinstance(each, DataLoader) else each for name, each in parts.items()
    }
    collate = _collate_of(spec, parts)
    held = [_record(spec, source, row) for source in sources.values() for row in range(len(source))]
    if not held:
        raise InvalidInput(f"{spec}: no rows")
    batch = _collated(spec, collate, held)
    names = {"label": label, "group": group, "key": key}
    batch, told = _named_entries(spec, batch, names)
    leaves, layout = layout_of(batch, spec)
    nested = Nested(tuple(leaves), layout, _label_of(spec, batch, leaves, label))
    arrays = []
    for number, (leaf, name) in enumerate(zip(leaves, nested.names(), strict=True)):
        of_labels = number == nested.label
        arrays.append(
            _labels(spec, leaf, len(held), name) if of_labels else _array(spec, leaf, len(held), name)
        )
    y, classes = encode_labels(arrays[nested.label], where=f"{spec}: {nested.names()[nested.label]}")
    if (
        not isinstance(batch, Mapping)
        and len(batch) > 2
        and len(held) > _AGAIN
        and len(np.unique(y)) == len(held)
    ):
        raise InvalidInput(
            f"{spec}: the last of the {len(batch)} entries of a record is taken for its label and is another one in each record, as an index or an "
            "identifier is; return records whose last entry is the label, or dicts"
        )
    _check_again(spec, sources, collate, held, Nested(tuple(arrays), layout, nested.label), names)
    split = np.repeat(list(sources), [len(source) for source in sources.values()])
    return Dataset(
        name=spec,
        x=Nested(tuple(arrays), layout, nested.label).labelled(y),
        y=y,
        classes=classes,
        split=split,
        key=_texts(spec, told["key"], len(held)) if "key" in told else row_keys(split),
        group=_texts(spec, told["group"], len(held)) if "group" in told else None,
    )


def nested_inputs(spec: str, x: Mapping[str, Any], y: np.ndarray) -> Nested:
    """Several arrays of all records, by name, with their labels y (N,): batches are (x, y)."""
    leaves, layout = layout_of(x, spec)
    number = len(leaves)
    named = Nested((*leaves, y), {"tuple": [layout, number]}, number)
    arrays = [_array(spec, leaf, len(y), name) for leaf, name in zip(leaves, named.names()[:-1], strict=True)]
    return Nested((*arrays, y), named.layout, number)


def _collate_of(spec: str, parts: Mapping[str, Any]) -> Callable[[list[Any]], Any]:
    """How all records are collated: as by every loader that there is, else as torch does."""
    loaders = [each for each in parts.values() if isinstance(each, DataLoader)]
    for loader in loaders:
        drawn = _drawn_by(loader)
        if drawn is not None:
            raise InvalidInput(
                f"{spec}: its DataLoader has {drawn}, and of a loader nothing but the data set and the collate_fn is taken, so that all "
                f"{_rows_of(loader)} records would be; return the data set itself, or torch.utils.data.Subset(data, rows) for some of them"
            )
    if any(loader.collate_fn != loaders[0].collate_fn for loader in loaders):
        raise InvalidInput(
            f"{spec}: its DataLoaders ({', '.join(parts)}) have several collate_fn, and all records are collated together; give them the same one"
        )
    collate = loaders[0].collate_fn if loaders else default_collate
    return _collate_numbers if collate is default_collate else collate


def _rows_of(loader: DataLoader[Any]) -> int:
    source: Any = loader.dataset  # torch does not say that it has a length
    return len(source)


def _drawn_by(loader: DataLoader[Any]) -> str | None:
    """What lets a loader give other records than its data set has, each once; None where nothing does."""
    if loader.batch_sampler is None:
        return "batch_size=None, so that nothing is collated"
    if type(loader.batch_sampler) is not BatchSampler:
        return f"a {type(loader.batch_sampler).__name__} for its batch_sampler"
    sampler = loader.batch_sampler.sampler
    each_once = isinstance(sampler, (SequentialSampler, RandomSampler)) and len(sampler) == _rows_of(loader)
    if each_once and not getattr(sampler, "replacement", False):
        return None
    return f"{a(type(sampler).__name__)} for its sampler"


def _record(spec: str, source: Any, row: int) -> Any:
    try:
        return source[row]
    except Exception as error:  # whatever a data set of the user's may raise
        raise InvalidInput(
            f"{spec}: record {row} could not be read: {type(error).__name__}: {error}; records are read as data[0], data[1], ..."
        ) from error


def _collate_numbers(records: list[Any]) -> Any:
    """torch's collate. It takes the entries of the first record; where others have more, these would be lost."""
    first = _entries(records[0])
    for row, record in enumerate(records):
        if _entries(record) != first:
            raise ValueError(f"record {row} has other entries than record 0: {_entries(record)}, not {first}")
    return default_collate([_as_tensors(record) for record in records])


def _as_tensors(record: Any) -> Any:
    """A record whose lists of numbers are tensors, as they mean; torch's collate would take them for as many inputs."""
    if isinstance(record, Mapping):
        return {name: _as_tensors(part) for name, part in record.items()}
    if isinstance(record, tuple):
        return tuple(map(_as_tensors, record))
    if isinstance(record, list):
        return torch.as_tensor(record) if _numbers(record) else [_as_tensors(part) for part in record]
    return record


def _entries(record: Any) -> Any:
    """What is nested in a record, without the values: names sorted, as their order means nothing."""
    if isinstance(record, Mapping):
        return {str(name): _entries(record[name]) for name in sorted(record, key=str)}
    if isinstance(record, (tuple, list)) and not (isinstance(record, list) and _numbers(record)):
        return [_entries(part) for part in record]
    return "..."


def _numbers(values: list[Any]) -> bool:
    return bool(values) and all(
        _numbers(value) if isinstance(value, list) else isinstance(value, (bool, int, float))
        for value in values
    )


def _collated(spec: str, collate: Callable[[list[Any]], Any], held: list[Any]) -> Any:
    try:
        return collate(held)
    except Exception as error:  # whatever a collate may raise
        raise InvalidInput(
            f"{spec}: its {len(held)} records make no batch: {type(error).__name__}: {' '.join(str(error).split())[:300]}; records of several "
            "lengths are padded by a collate of yours: return a DataLoader with collate_fn, which then is given all of them"
        ) from error


def _named_entries(spec: str, batch: Any, names: Mapping[str, str | None]) -> tuple[Any, dict[str, Any]]:
    """The batch without the entries that name groups and keys, and these; a label's must be there."""
    given = {option: name for option, name in names.items() if name is not None}
    if given and not isinstance(batch, Mapping):
        raise InvalidOption(
            f"{next(iter(given))} names an entry of records that are dicts; those of {spec} are not"
        )
    if len(set(given.values())) < len(given):
        raise InvalidOption(
            f"{' and '.join(given)} name the same entry of the records of {spec}; each needs one of its own"
        )
    for option, name in given.items():
        if name not in batch:
            raise unknown_choice(f"{option} entry of the records of {spec}", name, map(str, batch))
    told = {option: batch[name] for option, name in given.items() if option != "label"}
    if not isinstance(batch, Mapping):
        return batch, told
    taken = {name for option, name in given.items() if option != "label"}
    return {name: part for name, part in batch.items() if name not in taken}, told


def _label_of(spec: str, batch: Any, leaves: list[Any], label: str | None) -> int:
    """The number of the leaf that holds the labels."""
    if isinstance(batch, Mapping):
        there = [name for name in LABELS if name in batch] if label is None else [label]
        if len(there) != 1:
            raise InvalidInput(
                f"{spec}: its records have the entries {', '.join(map(str, batch))}; which is the label? Name it: --label ENTRY (by itself it is found "
                f"as one of {', '.join(LABELS)})"
            )
        found = batch[there[0]]
    elif isinstance(batch, (list, tuple)) and len(batch) > 1:
        found = batch[-1]
    else:
        raise InvalidInput(
            f"{spec}: its records are {a(type(batch).__name__)} without a label; give (x, y), (x1, x2, y) or dicts with a label"
        )
    numbers = [number for number, leaf in enumerate(leaves) if leaf is found]
    if len(leaves) < 2 or not numbers:
        raise InvalidInput(
            f"{spec}: its labels are nested, or there are no inputs beside them; the built-in trainer takes one class a record: {_OWN_LOOP}"
        )
    return numbers[-1]


def _labels(spec: str, leaf: Any, rows: int, name: str) -> np.ndarray:
    found = leaf.cpu().numpy() if isinstance(leaf, torch.Tensor) else np.asarray(leaf)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.shape != (rows,):
        raise InvalidInput(
            f"{spec}: {name}, the label, has shape {found.shape} for {rows} records; the built-in trainer takes one class a record: {_OWN_LOOP}"
        )
    return found


def _array(spec: str, leaf: Any, rows: int, name: str) -> np.ndarray:
    """One input of all records, (N, ...)."""
    if isinstance(leaf, torch.Tensor):
        leaf = leaf.detach().cpu()
        found = (leaf.float() if leaf.dtype == torch.bfloat16 else leaf).numpy()
    else:
        found = np.asarray(leaf)
    if found.dtype.kind not in "biuf":
        kind = "text" if found.dtype.kind in "USO" else str(found.dtype)
        raise InvalidInput(
            f"{spec}: {name} is {kind}, no tensor of numbers; tokenise texts in the function, and name what says who a record is or "
            f"belongs to (--key {name}, --group {name}); {_OWN_LOOP}"
        )
    if found.ndim == 0 or len(found) != rows:
        raise InvalidInput(
            f"{spec}: {name} has shape {found.shape}, and there are {rows} records: it needs a row a record; {_OWN_LOOP}"
        )
    if 0 in found.shape:
        raise InvalidInput(f"{spec}: {name} has shape {found.shape}: its records are empty")
    if found.dtype.kind != "f":
        return np.ascontiguousarray(found)
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(found, dtype=np.float32)
    if found.dtype.itemsize > 4 and (beyond := np.isinf(numbers) & np.isfinite(found)).any():
        row = int(beyond.reshape(rows, -1).any(axis=1).argmax())
        raise InvalidInput(f"{spec}: {name} of record {row} is larger than a float32 holds; scale it")
    missing = np.isnan(numbers).reshape(rows, -1).any(axis=1)
    if missing.any():
        raise InvalidInput(f"{spec}: {name} of record {int(missing.argmax())} is NaN")
    return numbers


def _texts(spec: str, values: Any, rows: int) -> np.ndarray:
    found = np.asarray(values.tolist() if isinstance(values, torch.Tensor) else values)
    if found.shape != (rows,):
        raise InvalidInput(
            f"{spec}: keys and groups are one text or number a record, not {found.shape} for {rows} records"
        )
    return found.astype(np.str_)


def _check_again(
    spec: str,
    sources: Mapping[str, Any],
    collate: Callable[[list[Any]], Any],
    held: list[Any],
    whole: Nested,
    names: Mapping[str, str | None],
) -> None:
    """Reads some records once more and collates them alone. Raises InvalidInput where that makes others of them."""
    rows = np.unique(np.linspace(0, len(held) - 1, min(len(held), _AGAIN)).astype(np.int64))
    places = [(source, row) for source in sources.values() for row in range(len(source))]
    again = _collated(spec, collate, [_record(spec, *places[row]) for row in rows])
    leaves, layout = layout_of(_named_entries(spec, again, names)[0], spec)
    if layout != whole.layout:
        raise InvalidInput(f"{spec}: batches of its records are nested in several ways; {_OWN_LOOP}")
    for number, (leaf, name) in enumerate(zip(leaves, whole.names(), strict=True)):
        read = _labels if number == whole.label else _array
        one, other = whole.arrays[number][rows], read(spec, leaf, len(rows), name)
        if not _same_but_padded(one, other):
            raise InvalidInput(
                f"{spec}: {name} of the same records is another one when they are read again, in a batch of their own: the data set or its collate "
                "draws at random (augmentation, masking, mixup), or makes of a record what depends on the others; return records without that"
            )


def _same_but_padded(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether ``other`` is what stands in ``one`` at the beginning or at the end of each axis, where it is the shorter."""
    if one.ndim != other.ndim or any(wide < short for wide, short in zip(one.shape, other.shape)):
        return False
    left = one[tuple(slice(0, size) for size in other.shape)]
    right = one[tuple(slice(wide - size, wide) for wide, size in zip(one.shape, other.shape))]
    return np.array_equal(left, other) or np.array_equal(right, other)
