"""Importing what Privacy Meter leaves: one matrix of memberships, one of true-label probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...store.errors import InvalidInput
from ...store.format.records import Run
from ...store.lake import Lake
from ..callables import unknown_choice
from ..data.npy import NpyFile, npy_file, refuse_pickle
from ..progress import Progress
from .files import as_bool, check_labels, read_labels
from .runs import GivenRun, Universe, import_runs

_READ_BYTES = 64 << 20
"""Probabilities are kept sample by sample and read model by model: so many models at once as fit here."""

_ROUNDING = 1e-5
"""How far above 1 rounding may have taken a probability."""

_RANGE = "_ramia_signals.npy"
"""What the file of a range audit is called: several neighbours of each sample, how they were drawn not being stored."""


@dataclass(frozen=True)
class _Files:
    """memberships (M, N); signals (K, M) of the samples ``rows`` (K,); population (P, M). Both are ``losses``, or probabilities."""

    memberships: NpyFile
    signals: NpyFile
    population: NpyFile | None
    rows: np.ndarray
    losses: bool = False


def import_privacy_meter(
    lake: Lake,
    experiment: str,
    path: Path,
    *,
    labels: Path | None = None,
    rows: Path | None = None,
    signals: str | None = None,
    target: str | None = None,
    progress: Progress | None = None,
) -> list[Run]:
    """Import the models in the log folder ``path`` as model_0, model_1, ...

    ``models/memberships.npy`` is bool (M, N), ``signals/*_signals.npy`` (K, M) the probability p of the true label:
    loss = -log p, correct is NULL. In ``loss_signals.npy`` older versions wrote losses and newer ones write p: values
    above 1 tell, and where they do not, a file in which members have less than others is refused. ``signals/*_signals_pop.npy`` (P, M),
    where it is there, is of population samples, which become samples N to N + P - 1. Signals of a range audit
    (``*_ramia_signals.npy``) are not read: how the neighbours were drawn is not stored, and there are none of the population. An audit of K < N samples does not store which they are: ``rows`` names an
    .npy file of their numbers (K,), in the order of the rows. Labels are not stored: ``labels`` names a file of N + P
    of them (.npy, or CSV or Parquet with a column label), else they are NULL. ``signals`` says which file counts
    where there are several. All are shadows but ``target``. See `import_runs` for the errors.
    """
    refuse_pickle(path)
    files, notes = _find(path, rows, signals)
    models, samples = files.memberships.shape
    outside = files.population.shape[0] if files.population is not None else 0
    population = np.arange(samples + outside) >= samples
    known = None if labels is None else _labels(labels, samples, outside)
    names = [f"model_{number}" for number in range(models)]
    return import_runs(
        lake,
        experiment,
        Universe(known, population),
        lambda: _runs(files, names, population),
        names,
        layout="privacy-meter",
        source=path.resolve().name,
        target=target,
        progress=progress,
        notes=notes,
    )


def _runs(files: _Files, names: list[str], population: np.ndarray) -> Iterator[GivenRun]:
    samples = files.memberships.shape[1]
    keep, parts = files.memberships.open(), [files.signals.open()]
    if files.population is not None:
        parts.append(files.population.open())
    ids = np.concatenate([files.rows, np.arange(samples, len(population))])
    step = max(1, _READ_BYTES // (len(ids) * 8))
    for first in range(0, len(names), step):
        # Whole blocks of columns: one column of a matrix that is stored by rows takes all of it from the disk.
        block = np.concatenate([part[:, first : first + step].T for part in parts], axis=1)
        for number, probability in enumerate(block, start=first):
            members = np.zeros(len(population), dtype=bool)
            members[:samples] = as_bool(keep[number], str(files.memberships.path))
            loss = _loss(probability, ids, files, number)
            whole = len(ids) == len(population) and (ids[1:] > ids[:-1]).all()
            origin = f"{files.signals.path.name} column {number}"
            yield GivenRun(names[number], origin, members, {"loss": loss}, ids=None if whole else ids)


def _loss(probability: np.ndarray, ids: np.ndarray, files: _Files, number: int) -> np.ndarray:
    if files.losses:
        return probability  # the run's check says where a loss cannot be one
    wrong = ~((probability >= 0) & (probability <= 1 + _ROUNDING))
    if wrong.any():
        row = int(np.argmax(wrong))
        file = files.signals
        if row >= file.shape[0] and files.population is not None:
            row, file = row - file.shape[0], files.population
        raise InvalidInput(
            f"{file.path}: row {row} of column {number} is {probability[np.argmax(wrong)]}; it must be the probability of "
            "the true label, from 0 to 1"
        )
    with np.errstate(divide="ignore"):
        # + 0.0: of p = 1 the loss is 0, not -0.
        return -np.log(np.minimum(probability.astype(np.float64), 1.0)) + 0.0


def _find(path: Path, rows: Path | None, chosen: str | None) -> tuple[_Files, list[str]]:
    memberships = npy_file(path / "models" / "memberships.npy")
    if len(memberships.shape) != 2:
        raise InvalidInput(
            f"{memberships.path}: has shape {memberships.shape}; it must be (M, N), a row a model"
        )
    models, samples = memberships.shape
    folder = path / "signals"
    every = sorted(file.name for file in folder.glob("*.npy")) if folder.is_dir() else []
    ranged = [name for name in every if name.endswith(_RANGE)]
    usable = [name for name in every if name.endswith("_signals.npy") and name not in ranged]
    if chosen in ranged or (ranged and not usable):
        raise InvalidInput(
            f"{folder / (chosen or ranged[0])}: is of a range audit, and neither how its neighbours were drawn nor those of a "
            "population are stored; run the audit of the records themselves (run_mia.py) in this log_dir for its signals"
        )
    if not usable:
        raise InvalidInput(
            f"{folder}: holds no file ending in _signals.npy; run the audit first, and give its log_dir"
        )
    if chosen is None and len(usable) > 1:
        raise InvalidInput(f"{folder}: holds several ({', '.join(usable)}); choose one with --signals NAME")
    if chosen is not None and chosen not in usable:
        raise unknown_choice(f"file of signals in {folder}", chosen, usable)
    name = chosen or usable[0]
    signals = _matrix(folder / name, models)
    population = folder / f"{name.removesuffix('.npy')}_pop.npy"
    held = _matrix(population, models) if population.exists() else None
    unused = [other for other in every if other not in (name, population.name)]
    notes = [f"signals not used: {', '.join(unused[:8])}"] if unused else []
    files = _Files(memberships, signals, held, _rows(rows, signals, samples))
    if name == "loss_signals.npy" and _are_losses(files):
        notes.append(f"{name} holds values above 1: they are taken for losses")
        files = replace(files, losses=True)
    return files, notes


def _are_losses(files: _Files) -> bool:
    """Whether values go beyond 1, as losses do. Raises InvalidInput where they do not and members have less than others."""
    values, keep = files.signals.open(), files.memberships.open()
    inside, outside = [0.0, 0], [0.0, 0]
    step = max(1, _READ_BYTES // (values.shape[1] * 8))
    for first in range(0, len(values), step):
        block = np.array(values[first : first + step], dtype=np.float64)
        if (block > 1 + _ROUNDING).any():
            return True
        members = as_bool(keep[:, files.rows[first : first + step]], str(files.memberships.path)).T
        for side, flags in ((inside, members), (outside, ~members)):
            side[0] += float(block[flags].sum())
            side[1] += int(flags.sum())
    if inside[1] and outside[1] and inside[0] / inside[1] < outside[0] / outside[1]:
        raise InvalidInput(
            f"{files.signals.path}: lies from 0 to 1, and members have less than others: it cannot be told whether these are "
            "losses or probabilities; import the losses as arrays (loss in an .npz)"
        )
    return False


def _matrix(path: Path, models: int) -> NpyFile:
    file = npy_file(path)
    if len(file.shape) != 2 or file.shape[1] != models:
        raise InvalidInput(
            f"{path}: has shape {file.shape}; it must be (samples, M), a column a model, with M = {models} as in "
            "models/memberships.npy"
        )
    if file.kind.kind != "f":
        raise InvalidInput(f"{path}: is {file.kind}; it must be floating point")
    return file


def _rows(path: Path | None, signals: NpyFile, samples: int) -> np.ndarray:
    """The sample ids (K,) that the rows of the signals are of."""
    count = signals.shape[0]
    if count > samples:
        raise InvalidInput(f"{signals.path}: has {count} rows, models/memberships.npy has {samples} samples")
    if path is None:
        if count < samples:
            raise InvalidInput(
                f"{signals.path}: is of {count} of the {samples} samples, and which they are is not stored; give their "
                "numbers, in the order of the rows, with --rows FILE.npy"
            )
        return np.arange(samples)
    file = npy_file(path)
    if file.shape != (count,) or file.kind.kind not in "iu":
        raise InvalidInput(
            f"{path}: is {file.kind} of shape {file.shape}; it must be integers ({count},), one for each row of {signals.path}"
        )
    rows = np.array(file.open())
    if rows.min() < 0 or rows.max() >= samples or len(np.unique(rows)) != count:
        raise InvalidInput(
            f"{path}: must hold distinct numbers from 0 to {samples - 1}, the samples of memberships.npy"
        )
    return rows.astype(np.int64)


def _labels(path: Path, samples: int, outside: int) -> np.ndarray:
    labels = read_labels(path)
    if len(labels) != samples + outside:
        more = f", and of the {outside} of the population after them" if outside else ""
        raise InvalidInput(
            f"{path}: has {len(labels)} labels; it must have those of the {samples} samples{more}"
        )
    return check_labels(labels, str(path))
