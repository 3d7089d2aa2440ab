"""Data sets that are arrays already: .npz files, and what a user's function returns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...store.errors import InvalidInput, InvalidOption
from ..callables import a, load_callable, unknown_choice
from .npy import NpzArrays
from .record import Dataset, encode_labels, row_keys
from .rows import is_data_set, load_records, nested_inputs

_MAPPING_KEYS = ("x", "y", "classes", "split", "key", "group", "columns")


def load_npz(spec: str, path: Path, *, label: str | None, group: str | None) -> Dataset:
    """The data set in an .npz file with `x` and `y`, and optionally `x_test`, `y_test` and `groups`.

    `groups` has a string for each row of x, or of x and x_test together. label and group name other arrays
    than `y` and `groups`. Pickled arrays are refused. Raises InvalidInput or InvalidOption.
    """
    with NpzArrays(path) as file:
        arrays = {name: file.whole(name) for name in file.shapes}
    label_key = label or "y"
    for what, key in (("label array", label), ("group array", group)):
        if key is not None and key not in arrays:
            raise unknown_choice(f"{what} of {path.name}", key, arrays)
    missing = [key for key in ("x", label_key) if key not in arrays]
    if missing:
        raise InvalidInput(f"{path}: no array {missing[0]!r}; it holds: {', '.join(arrays) or 'nothing'}")
    names = [("x", label_key)]
    if ("x_test" in arrays) != (f"{label_key}_test" in arrays):
        raise InvalidInput(f"{path}: x_test and {label_key}_test must be given together")
    if "x_test" in arrays:
        names.append(("x_test", f"{label_key}_test"))
    parts = [(arrays[x], arrays[y]) for x, y in names]
    for (x, y), (x_name, y_name) in zip(parts, names):
        if x.ndim == 0 or y.shape != x.shape[:1]:
            raise InvalidInput(f"{path}: {x_name} has shape {x.shape}, {y_name} has {y.shape}: rows differ")
    first, last = parts[0][0], parts[-1][0]
    if first.shape[1:] != last.shape[1:] or (first.dtype == np.uint8) != (last.dtype == np.uint8):
        raise InvalidInput(f"{path}: x is {first.dtype} {first.shape}, x_test is {last.dtype} {last.shape}")
    x = _normalise_x(np.concatenate([x for x, _ in parts]), where=str(path))
    if len({y.dtype.kind in "US" for _, y in parts}) > 1:
        raise InvalidInput(f"{path}: {label_key} and {label_key}_test are of different kinds")
    y, classes = encode_labels(np.concatenate([y for _, y in parts]), where=str(path))
    lengths = [len(part) for part, _ in parts]
    split = np.repeat(["train", "test"][: len(parts)], lengths)
    groups = arrays.get(group or "groups")
    return Dataset(
        name=spec,
        x=x,
        y=y,
        classes=classes,
        split=split,
        key=row_keys(split),
        group=None if groups is None else _groups(groups, lengths, path),
    )


_OTHERWISE = (
    "records of several inputs or of other kinds are a mapping of arrays as x, or a data set of records (x1, x2, y) or dicts; other targets "
    "than classes are recorded in a loop of your own, and shadow models by lake.shadow_runs (docs/hooking.md)"
)


def load_function(
    spec: str, *, label: str | None = None, group: str | None = None, key: str | None = None
) -> Dataset:
    """What `package.module:function`, called without arguments, returns: a Dataset, a mapping of its fields, or a data set of records.

    A mapping needs x and y (as in an .npz) and may have classes, split, key, group and columns; without split
    all records are in the train split. Its x may be several arrays, a mapping of names to them. label, group and key name entries
    of records that are dicts (see `load_records`). Raises InvalidInput or InvalidOption.
    """
    made = load_callable(spec)()
    entries = {"label": label, "group": group, "key": key}
    if is_data_set(made):
        made = load_records(spec, made, **entries)
    elif named := [option for option, name in entries.items() if name is not None]:
        raise InvalidOption(
            f"{named[0]} names a column of a file or an entry of records; {spec} brings its own"
        )
    elif isinstance(made, Mapping):
        made = _from_mapping(spec, made)
    if not isinstance(made, Dataset):
        raise InvalidInput(
            f"{spec} returned {a(type(made).__name__)}; expected a mapping with x and y, arrays of all records, or a data set; {_OTHERWISE}"
        )
    if len(set(made.key.tolist())) != len(made.key):
        raise InvalidInput(f"{spec}: keys are not unique; each record needs its own")
    return made


def _from_mapping(spec: str, fields: Mapping[str, object]) -> Dataset:
    for name in fields:
        if name not in _MAPPING_KEYS:
            raise unknown_choice(f"key of {spec}", name, _MAPPING_KEYS)
    if "x" not in fields or "y" not in fields:
        raise InvalidInput(f"{spec}: the mapping must have x and y; it has: {', '.join(fields) or 'nothing'}")
    several = fields["x"] if isinstance(fields["x"], Mapping) and fields["x"] else None
    try:
        given = np.asarray(0 if several is not None else fields["x"])
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{spec}: x is no one array ({error}); {_OTHERWISE}") from error
    x = given if several is not None else _normalise_x(given, where=spec)
    declared = fields.get("classes")
    names = None if declared is None else [str(name) for name in np.asarray(declared).tolist()]
    y, classes = encode_labels(np.asarray(fields["y"]), where=spec, names=names)
    texts = {
        name: np.asarray(fields[name]).astype(np.str_)
        for name in ("split", "key", "group")
        if fields.get(name) is not None
    }
    split = texts.get("split", np.full(len(y), "train"))
    columns = fields.get("columns")
    if isinstance(columns, Mapping):
        columns = pa.table(dict(columns))
    elif columns is not None and not isinstance(columns, pa.Table):
        raise InvalidInput(f"{spec}: columns is {type(columns).__name__}; give a pyarrow Table or a mapping")
    return Dataset(
        name=spec,
        x=x if several is None else nested_inputs(spec, several, y),
        y=y,
        classes=classes,
        split=split,
        key=texts["key"] if "key" in texts else row_keys(split),
        group=texts.get("group"),
        columns=columns,
    )


def _groups(groups: np.ndarray, lengths: list[int], path: Path) -> np.ndarray:
    if groups.shape == (sum(lengths),):
        return groups.astype(np.str_)
    if groups.shape == (lengths[0],):
        return np.concatenate([groups.astype(np.str_), np.full(sum(lengths[1:]), "", dtype="<U1")])
    raise InvalidInput(f"{path}: groups has shape {groups.shape}, x has {lengths[0]} rows")


def _normalise_x(x: np.ndarray, *, where: str) -> np.ndarray:
    """`x` as a Dataset has it: uint8 (N, C, H, W) or float32 (N, F).

    uint8 (N, H, W), (N, H, W, C) and (N, C, H, W) with C = 1 or 3 are pictures; any 2-D array of numbers is
    tabular and is used as it is (not standardised). Raises InvalidInput for anything else, and for NaN or
    infinite features with row and column.
    """
    if x.ndim == 2 and x.dtype.kind in "biuf":
        with np.errstate(over="ignore"):  # beyond float32: caught as infinite below
            features = np.ascontiguousarray(x, dtype=np.float32)
        wrong = ~np.isfinite(features)
        if wrong.any():
            row, column = (int(i) for i in np.argwhere(wrong)[0])
            raise InvalidInput(
                f"{where}: x is {x[row, column]} in row {row}, column {column}; it must be finite"
            )
        return features
    if x.dtype != np.uint8 or x.ndim not in (3, 4):
        raise InvalidInput(
            f"{where}: x is {x.dtype} {x.shape}; give pictures as uint8 (N,H,W), (N,H,W,C) or (N,C,H,W), "
            f"and tabular features as numbers (N,F); {_OTHERWISE}"
        )
    if x.ndim == 3:
        return np.ascontiguousarray(x[:, None])
    first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
    if first == last:
        why = (
            "either axis 1 or axis 3 could be the channels"
            if first
            else "neither axis 1 nor axis 3 has 1 or 3 channels"
        )
        raise InvalidInput(f"{where}: x has shape {x.shape}: {why}; give (N,C,H,W)")
    return np.ascontiguousarray(x if first else x.transpose(0, 3, 1, 2))
