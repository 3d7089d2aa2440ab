"""Labels and memberships of imported runs: checked, and read from the files that an import's options name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ...store.errors import InvalidInput
from ..data.npy import brief, npy_file, refuse_pickle
from ..data.record import label_values
from ..signals.from_logits import loss_from_phi, phi_from_loss, signals_from_logits


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
            with pq.ParquetFile(path) as parquet:
                names = parquet.schema_arrow.names
                return parquet.read(columns=[_label_name(names, path)]).column(0)
        table = pyarrow.csv.read_csv(path)
        return table.column(_label_name(table.column_names, path))
    except FileNotFoundError as error:
        raise InvalidInput(f"{path}: no such file") from error
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise InvalidInput(f"{path}: cannot be read: {brief(error)}") from error


def _label_name(names: list[str], path: Path) -> str:
    found = [name for name in names if name == "label"] or names
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


SIGNALS = ("logits", "loss", "phi")

_GREATEST = 1e38
"""Logits and phi beyond it would be infinite as float32, or their differences would."""


def of_query(values: Mapping[str, np.ndarray], query: int) -> dict[str, np.ndarray]:
    """The signals among ``values`` of one query: logits (n, C), loss and phi (n,)."""
    return {
        name: values[name][:, query] if values[name].ndim == _dimensions(name) else values[name]
        for name in SIGNALS
        if name in values
    }


def queries_of(values: Mapping[str, np.ndarray]) -> int:
    """How many queries the signals among ``values`` have; 0 where there is none."""
    return max(
        (
            values[name].shape[1] if values[name].ndim == _dimensions(name) else 1
            for name in SIGNALS
            if name in values
        ),
        default=0,
    )


def check_values(values: Mapping[str, np.ndarray], labels: np.ndarray | None, where: str) -> None:
    """Raises InvalidInput for a loss, phi or logit that cannot be, with its query and sample.

    Traces may hold anything: a run that diverged has NaN in them.
    """
    for query in range(queries_of(values)):
        given = of_query(values, query)
        place = f"{where} query {query}"
        logits = given.get("logits")
        if logits is not None and (logits.shape[1] < 2 or not (np.abs(logits) <= _GREATEST).all()):
            signals_of({"logits": logits}, labels, place)  # says what is wrong, and where
            raise InvalidInput(f"logits of {place} go beyond {_GREATEST:g}; the model has probably diverged")
        rest = {name: value for name, value in given.items() if name != "logits"}
        if rest:
            signals_of(rest, labels, place)


def signals_of(
    given: Mapping[str, np.ndarray], labels: np.ndarray | None, where: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """loss, phi and correct (n,): as given, else from logits, else from the other one; correct from logits alone.

    ``where`` names run and query in errors. Raises InvalidInput.
    """
    from_logits = None
    if "logits" in given:
        if labels is None:
            raise InvalidInput(f"logits of {where} are of no use without labels; give them with --labels")
        from_logits = signals_from_logits(given["logits"], labels, where=f"logits of {where}")
    loss, phi = (None if name not in given else given[name].astype(np.float64) for name in ("loss", "phi"))
    if phi is not None and not (np.abs(phi) <= _GREATEST).all():
        sample = int(np.argmin(np.abs(phi) <= _GREATEST))
        raise InvalidInput(
            f"phi of {where}, sample {sample} is {phi[sample]}; phi must be finite: give loss or logits instead"
        )
    if loss is not None:
        # Checks the losses even where phi does not come from them.
        converted = phi_from_loss(loss, where=f"loss of {where}, sample ")
        phi = phi if phi is not None else from_logits.phi if from_logits is not None else converted
    if from_logits is not None:
        loss = from_logits.loss if loss is None else loss
        phi = from_logits.phi if phi is None else phi
    elif loss is None and phi is not None:
        loss = loss_from_phi(phi)
    if loss is None or phi is None:
        raise InvalidInput(f"{where}: neither logits nor loss nor phi")
    return loss, phi, None if from_logits is None else from_logits.correct


def _dimensions(name: str) -> int:
    """Of a run's values when they have an axis of queries."""
    return 3 if name == "logits" else 2
