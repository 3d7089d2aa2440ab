"""Data sets in Parquet and CSV files: one file, or a folder in Hugging Face's layout."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ...store.errors import InvalidInput, InvalidOption, NotFound
from ..callables import unknown_choice
from .bounds import read_csv, read_parquet
from .npy import brief
from .pictures import read_pictures
from .record import Dataset, encode_labels, label_values, row_keys
from .room import check_room
from .tables import (
    encode_features,
    encode_keys,
    encoded_bytes,
    is_category,
    is_number,
    refuse_identifiers,
    text_bytes,
)

# ArrowException and MemoryError both: a file may hold more than memory does.
_UNREADABLE = (pa.ArrowException, OSError, ValueError, MemoryError)

_PICTURE_COLUMNS = ("image", "img")

_SUFFIXES = (".parquet", ".csv", ".csv.gz")
_SPLIT_FILE = re.compile(r"(?P<split>[A-Za-z]\w*?)([-_.]\d+)?(-of-\d+)?(\.parquet|\.csv|\.csv\.gz)")


def load_files(
    spec: str, path: Path, *, label: str | None, group: str | None, key: str | None, data_dir: Path | None
) -> Dataset:
    """The data set in the Parquet or CSV file `path`, or in the folder `path` of such files.

    A folder holds `train-*.parquet`, `test-*.parquet` (or CSV, or the same in a subfolder `data`); any other
    split counts as test, and a single file as train. A Parquet column `image` or `img` (struct{bytes, path} or
    binary) makes it a data set of pictures, whose further scalar columns become `columns`. Otherwise it is
    tabular: every column but label, group and key is a feature (see encode_features), and `columns` holds the
    originals.

    label: the label column (default "label"); group: the column of subpopulation labels; key: the column that names the
    records (see encode_keys; of a CSV file the text as it stands there; default: `split/row`). Raises InvalidInput, also for
    a column of identifiers among the features, or InvalidOption.
    """
    splits, files = zip(*_find_files(path))
    parquet = files[0].suffix == ".parquet"
    schema = _parquet_schema(files[0]) if parquet else None
    picture = _picture_column(schema)
    tables = [_read_parquet(file, picture) if parquet else _read_csv(file, key) for file in files]
    for file, read in zip(files, tables):
        _check_columns(read.column_names, file, label, group, key)
        if differing := set(read.column_names) ^ set(tables[0].column_names):
            raise InvalidInput(
                f"{file}: columns differ from those of {files[0].name}: {', '.join(sorted(differing))}"
            )
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise InvalidInput(f"{path}: the files' columns do not fit together: {brief(error)}") from error
    if table.num_rows == 0:
        raise InvalidInput(f"{path}: no rows")
    label = label or "label"
    names = _class_names(schema, label)
    y, classes = encode_labels(
        label_values(table.column(label), where=str(path)), where=str(path), names=names
    )
    told = [name for name in (label, group, key) if name is not None]
    rest = table.drop_columns(told)
    check_room(sum(text_bytes(table.column(name)) for name in told), *files)
    if picture is not None:
        x = read_pictures(files, picture, data_dir=data_dir)
        rest = rest.select([field.name for field in rest.schema if _is_scalar(field.type)])
    else:
        refuse_identifiers([read.drop_columns(told) for read in tables], where=str(path))
        check_room(encoded_bytes(rest), *files)
        x = encode_features(rest, where=str(path))
    lengths = [read.num_rows for read in tables]
    return Dataset(
        name=spec,
        x=x,
        y=y,
        classes=classes,
        split=np.repeat(["train" if split == "train" else "test" for split in splits], lengths),
        key=row_keys(np.repeat(splits, lengths))
        if key is None
        else encode_keys(table.column(key), where=str(path), name=key),
        group=None if group is None else _group_values(table.column(group)),
        columns=rest.replace_schema_metadata(None) if rest.num_columns else None,
    )


def read_table(path: Path, *, key: str | None = None) -> pa.Table:
    """The table in a Parquet or CSV file as it stands there; ``key`` names a column whose text is not guessed to be numbers.

    Raises NotFound where there is no file, InvalidInput for one that is neither or cannot be read.
    """
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    if not path.name.endswith(_SUFFIXES):
        raise InvalidInput(f"{path}: not a table; expected .parquet, .csv or .csv.gz")
    return _read_parquet(path, None) if path.suffix == ".parquet" else _read_csv(path, key)


def _find_files(path: Path) -> list[tuple[str, Path]]:
    """The files of a data set with their splits (train, test, validation, ...).

    Train comes first, then other splits by name; within a split files by name. Raises InvalidInput where there are none.
    """
    if path.is_file():
        if not path.name.endswith(_SUFFIXES):
            raise InvalidInput(f"{path}: not a data set; expected .parquet, .csv, .csv.gz or .npz")
        return [("train", path)]
    for folder in (path, path / "data"):
        for suffixes in ((".parquet",), (".csv", ".csv.gz")):
            found = []
            for file in sorted(folder.glob("*")):
                match = _SPLIT_FILE.fullmatch(file.name)
                if match and file.name.endswith(suffixes) and file.is_file():
                    found.append((match["split"], file))
            if found:
                return sorted(found, key=lambda each: (each[0] != "train", each[0], each[1].name))
    raise InvalidInput(f"{path}: no data in this folder; expected train-*.parquet and test-*.parquet")


def _parquet_schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except _UNREADABLE as error:
        raise InvalidInput(f"{path}: not a readable Parquet file: {brief(error)}") from error


def _picture_column(schema: pa.Schema | None) -> str | None:
    for name in _PICTURE_COLUMNS:
        if schema is not None and name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_struct(kind) and "bytes" in [field.name for field in kind]:
                return name
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return name
    return None


def _read_parquet(path: Path, picture: str | None) -> pa.Table:
    schema = _parquet_schema(path)
    if (own := _picture_column(schema)) != picture:
        raise InvalidInput(f"{path}: its picture column is {own}, in the other files {picture}")
    _refuse_duplicates(schema.names, path)
    try:
        return read_parquet(path, [name for name in schema.names if name != picture])
    except _UNREADABLE as error:
        raise InvalidInput(f"{path}: cannot be read: {brief(error)}") from error


def _read_csv(path: Path, key: str | None) -> pa.Table:
    # An empty or NA cell of a text column is a missing value, as it is in a column of numbers. Keys are not guessed to be
    # numbers: 007 is not 7.
    convert = pyarrow.csv.ConvertOptions(
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        column_types={} if key is None else {key: pa.string()},
    )
    try:
        table = read_csv(path, convert)
    except _UNREADABLE as error:
        raise InvalidInput(f"{path}: not a readable CSV file: {brief(error)}") from error
    _refuse_duplicates(table.column_names, path)
    return table


def _refuse_duplicates(names: list[str], path: Path) -> None:
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InvalidInput(f"{path}: columns that occur twice: {', '.join(sorted(twice))}; rename them")


def _check_columns(
    names: list[str], path: Path, label: str | None, group: str | None, key: str | None
) -> None:
    if label is None and "label" not in names:
        raise InvalidInput(
            f"{path}: no column 'label'; name the label column (--label), one of: {', '.join(names)}"
        )
    for what, name in (("label column", label), ("group column", group), ("key column", key)):
        if name is not None and name not in names:
            raise unknown_choice(f"{what} of {path.name}", name, names)
    if group is not None and group == (label or "label"):
        raise InvalidOption(f"column {group!r} is both label and group; choose another group column")
    if key is not None and key in (label or "label", group):
        what = "group" if key == group else "label"
        raise InvalidOption(f"column {key!r} is both {what} and key; choose another key column")


def _class_names(schema: pa.Schema | None, label: str) -> list[str] | None:
    """The class names that Hugging Face's schema metadata declares, or None. Damaged metadata says nothing."""
    raw = (schema.metadata or {}).get(b"huggingface") if schema is not None else None
    if raw is None:
        return None
    try:
        names = json.loads(raw)["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError):
        return None
    usable = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
    return list(names) if usable else None


def _is_scalar(kind: pa.DataType) -> bool:
    return is_number(kind) or is_category(kind) or pa.types.is_temporal(kind)


def _group_values(column: pa.ChunkedArray) -> np.ndarray:
    """A group column as str (N,); a missing value is the empty string."""
    return np.array(["" if value is None else str(value) for value in column.to_pylist()], dtype=np.str_)
