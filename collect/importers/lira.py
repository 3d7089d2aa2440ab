"""Importing what the LiRA codes of tensorflow/privacy and lira-pytorch leave: a folder a model, arrays as .npy files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...store.errors import InvalidInput
from ...store.format.records import Run
from ...store.lake import Lake
from ..data.npy import NpyFile, npy_file
from ..progress import Progress
from .files import as_bool, check_labels, folders_in, in_order, read_labels
from .runs import GivenRun, Universe, import_runs, run_names

_EPOCH = re.compile(r"\d{1,18}\.npy")
_PARTS = ("keep.npy", "logits", "scores", "logits.npy", "scores.npy")


@dataclass(frozen=True)
class _Model:
    """One model's files. Shapes: keep (N,); logits (N, 1, Q, C) or (N, Q, C); scores (N, Q), which is phi."""

    name: str
    keep: NpyFile
    logits: NpyFile | None
    scores: NpyFile | None


def import_lira(
    lake: Lake,
    experiment: str,
    path: Path,
    *,
    labels: Path | None = None,
    target: str | None = None,
    progress: Progress | None = None,
) -> list[Run]:
    """Import the models in the folder ``path``; which of the two layouts it has shows in its files.

    tensorflow/privacy (research/mi_lira_2021): ``y_train.npy``, and a folder a model (``experiment-3_16``) with
    ``keep.npy`` bool (N,), ``logits/0000000100.npy`` (N, 1, Q, C) and ``scores/0000000100.npy`` (N, Q); of several
    the file with the highest number counts. lira-pytorch: a folder a model (``0``, ``1``, ...) with ``keep.npy``,
    ``logits.npy`` (N, Q, C) and ``scores.npy`` (N, Q); it stores no labels, so ``labels`` names a file of them (.npy,
    or CSV or Parquet with a column label).

    Folders that hold no keep.npy, or neither logits nor scores, are not finished; they are skipped, and named. Logits of one
    class are those of class 1 of two; probabilities in place of logits are refused.
    phi, loss and correct follow from the logits; without logits phi is the score, and correct is NULL. Runs keep the
    folders' names where the lake can hold them. All are shadows but ``target``. See `import_runs` for what is checked
    before anything is written, and for the errors.
    """
    models, notes = _find(path)
    samples, classes = _check_shapes(models)
    universe = Universe(_labels(path, labels, samples, classes), np.zeros(samples, dtype=bool))
    names = run_names([model.name for model in models])
    return import_runs(
        lake,
        experiment,
        universe,
        lambda: _runs(models, names),
        names,
        layout="lira",
        source=path.resolve().name,
        target=target,
        progress=progress,
        notes=notes,
    )


def _runs(models: list[_Model], names: list[str]) -> Iterator[GivenRun]:
    for model, name in zip(models, names, strict=True):
        file = model.logits or model.scores
        assert file is not None
        values = file.open()
        if file is model.logits and values.ndim == 4:
            values = values[:, 0]
        yield GivenRun(
            name=name,
            origin=f"{model.name}/{file.path.relative_to(model.keep.path.parent).as_posix()}",
            members=as_bool(model.keep.open(), str(model.keep.path)),
            values={"logits" if file is model.logits else "phi": values},
        )


def _find(path: Path) -> tuple[list[_Model], list[str]]:
    """The models in the folder, in the order of their numbers, and notes on what is not used."""
    there = folders_in(path)
    folders = [folder for folder in there if any((folder / part).exists() for part in _PARTS)]
    if not folders:
        raise InvalidInput(
            f"{path}: no folder in it holds keep.npy; give the folder that holds those of the models (experiment-0_16, "
            "... of tensorflow/privacy, or 0, 1, ... of lira-pytorch)"
        )
    left_out = {folder: why for folder in folders if (why := _unfinished(folder)) is not None}
    folders = [folder for folder in folders if folder not in left_out]
    if not folders:
        named = "; ".join(f"{folder.name} {why}" for folder, why in list(left_out.items())[:8])
        raise InvalidInput(f"{path}: {named}; finish the inference")
    by_epoch = [
        folder.name for folder in folders if any((folder / part).is_dir() for part in ("logits", "scores"))
    ]
    if 0 < len(by_epoch) < len(folders):
        other = next(folder.name for folder in folders if folder.name not in by_epoch)
        raise InvalidInput(
            f"{path}: {by_epoch[0]} has logits or scores by epoch, as tensorflow/privacy leaves them, and {other} has not; "
            "finish its inference, or move it away"
        )
    models = [
        _Model(
            name=folder.name,
            keep=npy_file(folder / "keep.npy"),
            logits=_values(folder, "logits", by_epoch=bool(by_epoch)),
            scores=_values(folder, "scores", by_epoch=bool(by_epoch)),
        )
        for folder in in_order(folders)
    ]
    unused = [folder.name for folder in there if folder not in folders and folder not in left_out]
    notes = [f"skipped, not finished: {folder.name} {why}" for folder, why in left_out.items()]
    return models, [*notes, *([f"folders not used: {', '.join(unused[:8])}"] if unused else [])]


def _unfinished(folder: Path) -> str | None:
    """What a model's folder lacks, or None."""
    if not (folder / "keep.npy").exists():
        return "has no keep.npy"
    npy_file(folder / "keep.npy")  # what is no array is an error, and not a sign of work that goes on
    for kind in ("logits", "scores"):
        epochs = folder / kind
        if (folder / f"{kind}.npy").exists() or (
            epochs.is_dir() and any(_EPOCH.fullmatch(file.name) for file in epochs.iterdir())
        ):
            return None
    return "has keep.npy but neither logits nor scores"


def _values(folder: Path, kind: str, *, by_epoch: bool) -> NpyFile | None:
    if not by_epoch:
        file = folder / f"{kind}.npy"
        return npy_file(file) if file.exists() else None
    epochs = folder / kind
    found = [file for file in epochs.iterdir() if _EPOCH.fullmatch(file.name)] if epochs.is_dir() else []
    return npy_file(max(found, key=lambda file: int(file.stem))) if found else None


def _check_shapes(models: list[_Model]) -> tuple[int, int | None]:
    """N, and C where there are logits. Raises InvalidInput where the files do not fit each other."""
    samples = models[0].keep.shape
    classes: int | None = None
    queries: dict[int, Path] = {}
    for model in models:
        if len(model.keep.shape) != 1 or model.keep.shape != samples:
            raise InvalidInput(
                f"{model.keep.path}: has shape {model.keep.shape}; it must be (N,), as {models[0].keep.path} with {samples}"
            )
        for file, dimensions, shown in (
            (model.logits, (3, 4), "(N, Q, C) or (N, 1, Q, C)"),
            (model.scores, (2,), "(N, Q)"),
        ):
            if file is None:
                continue
            shape = file.shape
            if len(shape) not in dimensions or shape[0] != samples[0] or (len(shape) == 4 and shape[1] != 1):
                raise InvalidInput(
                    f"{file.path}: has shape {shape}; it must be {shown}, with N = {samples[0]} as in keep.npy"
                )
            if file.kind.kind != "f":
                raise InvalidInput(f"{file.path}: is {file.kind}; it must be floating point")
            if file is model.scores and model.logits is not None:
                continue  # not used
            queries.setdefault(shape[-2] if file is model.logits else shape[-1], file.path)
            if file is model.logits:
                if classes not in (None, shape[-1]):
                    raise InvalidInput(f"{file.path}: has {shape[-1]} classes, other models have {classes}")
                classes = shape[-1]
    if len(queries) > 1:
        listed = ", ".join(f"{path} has {count}" for count, path in queries.items())
        raise InvalidInput(f"the models have different numbers of queries: {listed}; import them one by one")
    return samples[0], None if classes is None else max(2, classes)  # one logit is that of class 1


def _labels(path: Path, given: Path | None, samples: int, classes: int | None) -> np.ndarray | None:
    stored = path / "y_train.npy"
    if given is None and not stored.exists():
        if classes is None:
            return None
        raise InvalidInput(
            f"{path}: stores no labels, and logits are of no use without; give them with --labels FILE (.npy, .csv, .parquet)"
        )
    file = given or stored
    labels = read_labels(file)
    # tensorflow/privacy stores the labels of the whole data set, and trains on its first --dataset_size records.
    if len(labels) < samples or (given is not None and len(labels) > samples):
        raise InvalidInput(f"{file}: has {len(labels)} labels, the models have {samples} samples")
    return check_labels(labels[:samples], str(file), classes=classes)
