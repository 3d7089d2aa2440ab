"""Importing runs that were trained elsewhere, from arrays in one .npz file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...store.errors import InvalidInput
from ...store.format.records import ROLES, Role, Run
from ...store.lake import Lake
from ..callables import unknown_choice
from ..data.npy import NpzArrays
from ..progress import Progress
from .files import as_bool, check_labels
from .runs import SIGNALS, GivenRun, Universe, import_runs
from .tokens import TOKENS, mean_losses

PER_RUN = (*SIGNALS, "traces", "grad_norms", *TOKENS)
PER_SAMPLE = ("labels", "population", "groups", "zlib_bytes")
_DIMENSIONS = {
    "logits": (3, 4),
    "loss": (2, 3),
    "phi": (2, 3),
    "token_losses": (3,),
    "token_z": (3,),
    "lower_loss": (2,),
    "traces": (3,),
    "grad_norms": (3,),
}
_SHAPES = {
    "logits": "(M, N, Q, C) or (M, N, C)",
    "loss": "(M, N) or (M, N, Q)",
    "phi": "(M, N) or (M, N, Q)",
    "token_losses": "(M, N, T), NaN after a text's last token",
    "token_z": "(M, N, T), NaN after a text's last token",
    "lower_loss": "(M, N)",
    "traces": "(M, N, E)",
    "grad_norms": "(M, N, E)",
}


def import_arrays(
    lake: Lake,
    experiment: str,
    path: Path,
    *,
    role: Role = "shadow",
    target: str | None = None,
    progress: Progress | None = None,
) -> list[Run]:
    """Import M runs on N samples from an .npz file as run-0000, run-0001, ...; all of them, in order.

    labels (N,) integers and keep (M, N), True where the sample was in the run's training set, must be there, and
    any of: logits (M, N, Q, C) or (M, N, C); loss and phi (M, N[, Q]); traces (M, N, E) of the loss and grad_norms
    (M, N, E), epoch 0 = before training; population (N,) bool; groups (N,) text. Q counts views of a sample, the
    first is the original; C = 1 is a model of two classes that gives one logit, of class 1. Probabilities in place of logits
    are refused. What is missing of loss and phi follows from logits, or from the other one;
    ``correct`` is NULL without logits. Of language models: token_losses (M, N, T), -log p of each token that counts, NaN after a
    text's last one, from which the loss follows as their mean where neither it nor another is given; token_z (M, N, T) likewise,
    lower_loss (M, N), and zlib_bytes (N,) integers (see docs/schema.md). One run is in memory at a time; nothing is ever unpickled.

    The run ``target`` gets the role target, all others get ``role``. Makes the experiment or matches it, and skips
    runs that were imported from the same values before. Raises InvalidInput for arrays that do not fit each other,
    naming them and their shapes, and for values that cannot be: then nothing was written; AlreadyExists where a run of
    that name has other values.
    """
    if role not in ROLES:
        raise unknown_choice("role", role, ROLES)
    with NpzArrays(Path(path)) as arrays:
        _check_shapes(arrays)
        universe, keep = _read_universe(arrays)
        present = [name for name in PER_RUN if name in arrays.shapes]
        names = [f"run-{number:04d}" for number in range(len(keep))]
        ignored = sorted(set(arrays.shapes) - {*PER_RUN, *PER_SAMPLE, "keep"})
        return import_runs(
            lake,
            experiment,
            universe,
            lambda: _runs(arrays, present, names, keep, role),
            names,
            layout="arrays",
            source=Path(path).name,
            target=target,
            progress=progress,
            notes=[f"arrays not used: {', '.join(ignored)}"] if ignored else [],
        )


def _runs(
    arrays: NpzArrays, present: list[str], names: list[str], keep: np.ndarray, role: Role
) -> Iterator[GivenRun]:
    """Run 0, 1, ...: all arrays are read side by side, one run of each at a time."""
    rows = zip(*(arrays.rows(name) for name in present), strict=True)
    for name, members, values in zip(names, keep, rows, strict=True):
        given = dict(zip(present, values, strict=True))
        if "token_losses" in given and not given.keys() & set(SIGNALS):
            given["loss"] = mean_losses(given)
        yield GivenRun(name, name, members, given, role=role)


def _read_universe(arrays: NpzArrays) -> tuple[Universe, np.ndarray]:
    """What the runs share, and keep (M, N)."""
    shapes = arrays.shapes
    classes = max(2, shapes["logits"][-1]) if "logits" in shapes else None
    labels = check_labels(arrays.whole("labels"), str(arrays.path), classes=classes)
    keep = as_bool(arrays.whole("keep"), f"{arrays.path}: keep")
    population = np.zeros(len(labels), dtype=bool)
    if "population" in shapes:
        population = as_bool(arrays.whole("population"), f"{arrays.path}: population")
    kept = keep & population
    if kept.any():
        run, sample = (int(i) for i in np.argwhere(kept)[0])
        raise InvalidInput(
            f"{arrays.path}: keep says that run {run} trained on sample {sample}, which population sets aside from training"
        )
    columns: dict[str, pa.Array] = {"group": _groups(arrays)} if "groups" in shapes else {}
    if "zlib_bytes" in shapes:
        columns["zlib_bytes"] = pa.array(arrays.whole("zlib_bytes"))
    return Universe(labels, population, columns), keep


def _groups(arrays: NpzArrays) -> pa.Array:
    groups = arrays.whole("groups")
    if groups.dtype.kind != "U":
        raise InvalidInput(f"{arrays.path}: groups are {groups.dtype}; they must be text: groups.astype(str)")
    try:
        return pa.array(groups.tolist(), pa.string())
    except ValueError as error:
        raise InvalidInput(f"{arrays.path}: groups hold what is not text: {error}") from error


def _check_shapes(arrays: NpzArrays) -> None:
    """Check every array against labels and keep, by the headers alone."""
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
        if name in SIGNALS:
            queries[name] = shape[2] if len(shape) == max(_DIMENSIONS[name]) else 1
    if len(set(queries.values())) > 1:
        named = ", ".join(f"{name} {shapes[name]}" for name in queries)
        raise InvalidInput(f"{arrays.path}: different numbers of queries: {named}")
    _check_tokens(arrays, max(queries.values(), default=1))
    if "traces" in shapes and "grad_norms" in shapes and shapes["traces"] != shapes["grad_norms"]:
        raise InvalidInput(
            f"{arrays.path}: traces have shape {shapes['traces']}, grad_norms {shapes['grad_norms']}"
        )


def _check_tokens(arrays: NpzArrays, queries: int) -> None:
    shapes = arrays.shapes
    there = [name for name in TOKENS if name in shapes]
    if there and "token_losses" not in there:
        raise InvalidInput(f"{arrays.path}: {there[0]} is there without token_losses; give both")
    if there and queries > 1:
        raise InvalidInput(
            f"{arrays.path}: token_losses are of the samples as they are, and there are {queries} queries; give one"
        )
    if "token_z" in there and shapes["token_z"] != shapes["token_losses"]:
        raise InvalidInput(
            f"{arrays.path}: token_losses have shape {shapes['token_losses']}, token_z {shapes['token_z']}"
        )
