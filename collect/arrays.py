"""Importing runs that were trained elsewhere, from arrays in one .npz file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..store.errors import AlreadyExists, InvalidInput
from ..store.lake import Lake
from ..store.records import ROLES, Role, Run, RunInfo
from ..store.writer import RunWriter
from .choices import unknown_choice
from .npz_rows import NpzArrays
from .progress import Progress, Silent
from .run_facts import versions
from .signals import SignalColumns, loss_from_phi, phi_from_loss, signals_from_logits

PER_RUN = ("logits", "loss", "phi", "traces", "grad_norms")
PER_SAMPLE = ("labels", "population", "groups")
_DIMENSIONS = {"logits": (3, 4), "loss": (2, 3), "phi": (2, 3), "traces": (3,), "grad_norms": (3,)}
_SHAPES = {
    "logits": "(M, N, Q, C) or (M, N, C)",
    "loss": "(M, N) or (M, N, Q)",
    "phi": "(M, N) or (M, N, Q)",
    "traces": "(M, N, E)",
    "grad_norms": "(M, N, E)",
}


@dataclass(frozen=True, eq=False)
class _Universe:
    """What all runs of the file share: labels (N,), keep (M, N), pool and groups (N,)."""

    labels: np.ndarray
    keep: np.ndarray
    population: np.ndarray
    groups: np.ndarray | None

    def table(self) -> pa.Table:
        columns: dict[str, Any] = {
            "label": pa.array(self.labels.astype(np.int32)),
            "pool": pa.array(np.where(self.population, "population", "audit").tolist(), pa.string()),
        }
        if self.groups is not None:
            columns["group"] = pa.array(self.groups.tolist(), pa.string())
        return pa.table(columns)


def import_arrays(
    lake: Lake, experiment: str, path: Path, *, role: Role = "shadow", progress: Progress | None = None
) -> list[Run]:
    """Import M runs on N samples from an .npz file as run-0000, run-0001, ...; all of them, in order.

    labels (N,) integers and keep (M, N), True where the sample was in the run's training set, must be there, and
    any of: logits (M, N, Q, C) or (M, N, C); loss and phi (M, N[, Q]); traces (M, N, E) of the loss and grad_norms
    (M, N, E), epoch 0 = before training; population (N,) bool; groups (N,) text. Q counts views of a sample, the
    first is the original. What is missing of loss and phi follows from logits, or from the other one;
    ``correct`` is NULL without logits. One run is in memory at a time; nothing is ever unpickled.

    Makes the experiment or matches it, and skips runs that were imported from the same values before. Raises
    InvalidInput for arrays that do not fit each other, naming them and their shapes; AlreadyExists where a
    run of that name has other values.
    """
    if role not in ROLES:
        raise unknown_choice("role", role, ROLES)
    progress = progress or Silent()
    with NpzArrays(Path(path)) as arrays:
        queries = _check_shapes(arrays)
        universe = _read_universe(arrays)
        present = [name for name in PER_RUN if name in arrays.shapes]
        lake.create_experiment(
            experiment, universe.table(), dataset={"imported": "arrays", "file": Path(path).name}
        )
        progress.start(len(universe.keep), "runs")
        try:
            ignored = sorted(set(arrays.shapes) - {*PER_RUN, *PER_SAMPLE, "keep"})
            if ignored:
                progress.advance(0, f"arrays not used: {', '.join(ignored)}")
            runs = []
            for number, values in enumerate(_runs(arrays, present)):
                runs.append(_import_run(lake, experiment, universe, number, values, queries, role))
                progress.advance(1, runs[-1].run)
            return runs
        finally:
            progress.finish()


def _import_run(
    lake: Lake,
    experiment: str,
    universe: _Universe,
    number: int,
    values: dict[str, np.ndarray],
    queries: int,
    role: Role,
) -> Run:
    name = f"run-{number:04d}"
    members = universe.keep[number]
    digest = _digest(members, values)
    if lake.has_run(experiment, name):
        run = lake.run(experiment, name)
        if run.info.extra.get("digest") != digest or run.info.role != role:
            raise AlreadyExists(
                f"run {name!r} of experiment {experiment!r} is in the lake with other values than in this file; choose "
                "another experiment name"
            )
        return run
    with lake.write_run(experiment, name, members=members) as writer:
        accuracies: tuple[float | None, float | None] = (None, None)
        for query in range(queries):
            of_query: dict[str, np.ndarray] = {
                key: _of_query(values[key], key, query) for key in ("logits", "loss", "phi") if key in values
            }
            found, correct = _signals(of_query, universe.labels, f"{name} query {query}")
            logits = of_query.get("logits")
            writer.append_signals(
                np.arange(len(members)),
                np.full(len(members), query),
                universe.labels,
                loss=found.loss,
                phi=found.phi,
                correct=correct,
                logits=None
                if logits is None
                else logits.astype(np.float16 if logits.dtype == np.float16 else np.float32),
            )
            if query == 0 and correct is not None:
                outside = ~members & ~universe.population
                accuracies = (_share(correct[members]), _share(correct[outside]))
        epochs = _append_traces(writer, values)
        return writer.commit(
            RunInfo(
                role=role,
                epochs=epochs,
                train_accuracy=accuracies[0],
                test_accuracy=accuracies[1],
                versions=versions(),
                extra={"imported": "arrays", "digest": digest},
            )
        )


def _signals(
    given: dict[str, np.ndarray], labels: np.ndarray, where: str
) -> tuple[SignalColumns, np.ndarray | None]:
    """loss and phi as given, else from logits, else from the other one; correct from logits alone."""
    from_logits = None
    if "logits" in given:
        from_logits = signals_from_logits(given["logits"], labels, where=f"logits of {where}")
    loss, phi = (None if name not in given else given[name].astype(np.float64) for name in ("loss", "phi"))
    if phi is not None and not np.isfinite(phi).all():
        sample = int(np.argmin(np.isfinite(phi)))
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
    unknown = np.zeros(len(labels), dtype=bool)
    margin = from_logits.margin if from_logits is not None else np.full(len(labels), np.nan)
    correct = from_logits.correct if from_logits is not None else None
    return SignalColumns(
        loss=loss, phi=phi, margin=margin, correct=unknown if correct is None else correct
    ), correct


def _append_traces(writer: RunWriter, values: dict[str, np.ndarray]) -> int | None:
    loss, grad_norm = values.get("traces"), values.get("grad_norms")
    either = loss if loss is not None else grad_norm
    if either is None:
        return None
    ids = np.arange(len(either))
    for epoch in range(either.shape[1]):
        writer.append_epoch(
            "eval",
            epoch,
            ids,
            loss=None if loss is None else loss[:, epoch],
            grad_norm=None if grad_norm is None else grad_norm[:, epoch],
        )
    return either.shape[1] - 1


def _runs(arrays: NpzArrays, present: list[str]) -> Iterator[dict[str, np.ndarray]]:
    """The per-run arrays of run 0, 1, ...: all arrays are read side by side, one run of each at a time."""
    for rows in zip(*(arrays.rows(name) for name in present), strict=True):
        yield dict(zip(present, rows, strict=True))


def _of_query(values: np.ndarray, name: str, query: int) -> np.ndarray:
    with_queries = values.ndim == (3 if name == "logits" else 2)
    return values[:, query] if with_queries else values


def _read_universe(arrays: NpzArrays) -> _Universe:
    labels = arrays.whole("labels")
    if not np.issubdtype(labels.dtype, np.integer):
        raise InvalidInput(f"{arrays.path}: labels are {labels.dtype}; they must be integers")
    if labels.min() < 0:
        sample = int(np.argmax(labels < 0))
        raise InvalidInput(
            f"{arrays.path}: the label of sample {sample} is {labels[sample]}; labels run from 0"
        )
    if "logits" in arrays.shapes and labels.max() >= arrays.shapes["logits"][-1]:
        # Before the experiment is made: it would keep the wrong label for good.
        classes = arrays.shapes["logits"][-1]
        sample = int(np.argmax(labels >= classes))
        raise InvalidInput(
            f"{arrays.path}: the label of sample {sample} is {labels[sample]}, out of range: logits have {classes} "
            f"classes, 0 to {classes - 1}"
        )
    keep = _as_bool(arrays, "keep")
    population = (
        _as_bool(arrays, "population") if "population" in arrays.shapes else np.zeros(len(labels), dtype=bool)
    )
    kept = keep & population
    if kept.any():
        run, sample = (int(i) for i in np.argwhere(kept)[0])
        raise InvalidInput(
            f"{arrays.path}: keep says that run {run} trained on sample {sample}, which population sets aside from training"
        )
    groups = None
    if "groups" in arrays.shapes:
        groups = arrays.whole("groups")
        if groups.dtype.kind != "U":
            raise InvalidInput(
                f"{arrays.path}: groups are {groups.dtype}; they must be text: groups.astype(str)"
            )
    return _Universe(labels, keep, population, groups)


def _as_bool(arrays: NpzArrays, name: str) -> np.ndarray:
    values = arrays.whole(name)
    if values.dtype == bool:
        return values
    if not np.issubdtype(values.dtype, np.integer) or not np.isin(values, (0, 1)).all():
        raise InvalidInput(f"{arrays.path}: {name} is {values.dtype}; it must be bool, or integers 0 and 1")
    return values.astype(bool)


def _check_shapes(arrays: NpzArrays) -> int:
    """Check every array against labels and keep; the number of queries, 0 where there are traces alone."""
    shapes = arrays.shapes
    for name in ("labels", "keep"):
        if name not in shapes:
            raise InvalidInput(f"{arrays.path}: no array {name} (there are: {', '.join(shapes) or 'none'})")
    if not any(name in shapes for name in PER_RUN):
        raise InvalidInput(
            f"{arrays.path}: none of {', '.join(PER_RUN)} is there, so there is nothing to import"
        )
    for name in PER_SAMPLE:
        if name in shapes and (
            len(shapes[name]) != 1 or shapes[name] != shapes["labels"] or shapes[name][0] == 0
        ):
            raise InvalidInput(
                f"{arrays.path}: {name} has shape {shapes[name]}, labels have shape {shapes['labels']}; (N,) each"
            )
    if len(shapes["keep"]) != 2 or shapes["keep"][1:] != shapes["labels"] or shapes["keep"][0] == 0:
        raise InvalidInput(
            f"{arrays.path}: keep has shape {shapes['keep']}, labels have shape {shapes['labels']}; they must be (M, N) and (N,)"
        )
    queries: dict[str, int] = {}
    for name in PER_RUN:
        if name not in shapes:
            continue
        shape = shapes[name]
        if len(shape) not in _DIMENSIONS[name] or shape[:2] != shapes["keep"] or 0 in shape:
            raise InvalidInput(
                f"{arrays.path}: {name} has shape {shape}, keep has shape {shapes['keep']}; {name} must be {_SHAPES[name]}"
            )
        if not np.issubdtype(arrays.types[name], np.floating):
            raise InvalidInput(f"{arrays.path}: {name} is {arrays.types[name]}; it must be floating point")
        if name in ("logits", "loss", "phi"):
            queries[name] = shape[2] if len(shape) == max(_DIMENSIONS[name]) else 1
    if len(set(queries.values())) > 1:
        named = ", ".join(f"{name} {shapes[name]}" for name in queries)
        raise InvalidInput(f"{arrays.path}: different numbers of queries: {named}")
    if "traces" in shapes and "grad_norms" in shapes and shapes["traces"] != shapes["grad_norms"]:
        raise InvalidInput(
            f"{arrays.path}: traces have shape {shapes['traces']}, grad_norms {shapes['grad_norms']}"
        )
    return max(queries.values(), default=0)


def _digest(members: np.ndarray, values: dict[str, np.ndarray]) -> str:
    sink = hashlib.sha256(np.packbits(members).tobytes())
    for name in sorted(values):
        sink.update(f"{name} {values[name].dtype.str} {values[name].shape}".encode())
        sink.update(np.ascontiguousarray(values[name]).data)
    return sink.hexdigest()


def _share(correct: np.ndarray) -> float | None:
    return float(correct.mean()) if len(correct) else None
