"""Files and folders of imports: labels and memberships, checked, and where the models of a folder are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...store.errors import InvalidInput
from ..data.bounds import read_csv, read_parquet
from ..data.npy import brief, npy_file, refuse_pickle
from ..data.record import label_values

INDEX = ("__index_level_0__", "index", "og_idx", "Unnamed: 0", "")
"""What the index of a data frame, which numbers the samples, may be called in a file."""


def check_labels(labels: np.ndarray, where: str, *, classes: int | None = None) -> np.ndarray:
    """``labels`` (N,), integers from 0, below ``classes`` where logits say how many there are.

    Raises InvalidInput, which names ``where`` and the sample.
    """
    if not np.issubdtype(labels.dtype, np.integer):
        raise InvalidInput(f"{where}: labels are {labels.dtype}; they must be integers")
    if labels.min() < 0:
        sample = int(np.argmax(labels < 0))
        raise InvalidInput(f"{where}: the label of sample {sample} is {labels[sample]}; labels run from 0")
    most = np.iinfo(np.int32).max if classes is None else classes - 1
    if labels.max() > most:
        sample = int(np.argmax(labels > most))
        why = "" if classes is None else f": logits have {classes} classes, 0 to {most}"
        raise InvalidInput(f"{where}: the label of sample {sample} is {labels[sample]}, out of range{why}")
    return labels


def as_bool(values: np.ndarray, where: str) -> np.ndarray:
    """Booleans, or integers 0 and 1, as bool. Raises InvalidInput, which names ``where``, for anything else."""
    if values.dtype == bool:
        # A stranger's file may hold other bytes than 0 and 1, which NumPy takes for True but counts as they are.
        return np.ascontiguousarray(values).view(np.uint8) != 0
    if not np.issubdtype(values.dtype, np.integer) or not np.isin(values, (0, 1)).all():
        raise InvalidInput(f"{where} is {values.dtype}; it must be bool, or integers 0 and 1")
    return values.astype(bool)


def read_keep(path: Path, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Membership of the given ``shape`` in an .npy file; ``what`` says in errors what the axes are."""
    file = npy_file(path)
    if file.shape != shape:
        raise InvalidInput(f"{path}: has shape {file.shape}; it must be {what} {shape}")
    return as_bool(file.open(), str(path))


def read_labels(path: Path) -> np.ndarray:
    """The labels (N,) in an .npy file, or in a CSV or Parquet file: its column ``label``, or its only one."""
    refuse_pickle(path)
    if path.name.endswith((".csv", ".csv.gz", ".parquet", ".pq")):
        column = _label_column(path)
        if not len(column):
            raise InvalidInput(f"{path}: holds no labels")
        try:
            return label_values(column, where=str(path))
        except MemoryError as error:
            raise InvalidInput(f"{path}: holds more labels than memory has room for") from error
    file = npy_file(path)
    if len(file.shape) != 1:
        raise InvalidInput(f"{path}: has shape {file.shape}; labels have one dimension, (N,)")
    return file.open()


def _label_column(path: Path) -> pa.ChunkedArray:
    if path.exists() and not path.is_file():
        raise InvalidInput(f"{path}: is no file with labels")
    try:
        if path.name.endswith((".parquet", ".pq")):
            names = pq.read_schema(path).names
            return read_parquet(path, [_label_name(names, path)]).column(0)
        table = read_csv(path)
        return table.column(_label_name(table.column_names, path))
    except FileNotFoundError as error:
        raise InvalidInput(f"{path}: no such file") from error
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise InvalidInput(f"{path}: cannot be read: {brief(error)}") from error


def _label_name(names: list[str], path: Path) -> str:
    found = (
        [name for name in names if name == "label"] or [name for name in names if name not in INDEX] or names
    )
    if len(found) != 1:
        raise InvalidInput(
            f"{path}: no one column 'label' ({', '.join(names[:8]) or 'no columns'}); rename the one with labels"
        )
    if found[0].lstrip("-").isdigit():
        raise InvalidInput(
            f"{path}: the first line is {found[0]!r}, a label; put the column's name 'label' above it"
        )
    return found[0]


def folders_in(path: Path) -> list[Path]:
    """The folders in a folder, hidden ones left out, by name. Raises InvalidInput where there is none to look into."""
    refuse_pickle(path)
    if not path.is_dir():
        raise InvalidInput(f"{path}: is not a folder; this layout is one")
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {brief(error)}") from error


def in_order(paths: Iterable[Path]) -> list[Path]:
    """By name, numbers by their value: experiment-2_16 before experiment-10_16."""

    def parts(path: Path) -> list[tuple[int, int, str]]:
        found = re.findall(r"[0-9]{1,18}|[^0-9]+", path.name)
        return [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in found]

    return sorted(paths, key=parts)
