"""What is left of forgotten samples outside of what an experiment lists: files of writers that were killed or are at work."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime

import numpy as np
import pyarrow as pa
import safetensors.numpy
from safetensors import SafetensorError

from ..errors import CorruptLake, LosslakeError
from ..files.filesystem import Files
from ..format import paths
from ..format.manifest import DataFile
from ..format.records import Experiment
from ..read.catalogue import Catalogue
from ..write.table_file import Holdings
from .leftovers import Inventory, Writer, take_inventory

_GONE: tuple[Writer, ...] = ("killed", "ended", "unknown")
_REWRITTEN = ("samples", "pictures", "packed")
"""Written by those alone who hold the claim to the experiment, or before it was there: loose files are never needed."""


def remove_leftovers(lake: Catalogue, known: Experiment, ids: Sequence[int]) -> tuple[list[str], list[str]]:
    """Delete the loose files that hold rows of ``ids``, or may; those deleted, and those of writers still at work.

    Checkpoints go with the folder of their writer, where they hold rows or were begun before the samples were forgotten:
    what they go on with has seen these. The caller has the claim to the experiment.
    """
    found = take_inventory(lake, checkpoints=True)
    removed, pending = [], []
    for path, state in _suspects(lake.files, found, known, ids):
        if state in _GONE or _never_needed(path, found):
            lake.files.delete(path)
            removed.append(path)
        else:
            pending.append(path)
    return removed, pending


def whats_left(lake: Catalogue, known: Experiment) -> Iterator[str]:
    """Sentences about samples that were forgotten and of which something is there all the same."""
    again = f"run 'losslake lake forget --experiment {known.name}'"
    for each in known.forgettings:
        if each.finished is None:
            named = ", ".join(map(str, each.samples[:8])) + (", ..." if len(each.samples) > 8 else "")
            yield f"experiment {known.name}: forgetting samples {named}, begun {each.when}, did not finish; {again}"
    ids = known.forgotten
    found = take_inventory(lake, checkpoints=True)
    holdings = Holdings(lake.files, ids)
    listed = (file for path, files in found.listed.items() for file in files if _is_of(path, known.name))
    for file in listed:
        try:
            rows = holdings.of(file).rows if file.table != "samples" else 0
        except LosslakeError:
            continue  # damaged, which is told elsewhere, or replaced since
        if rows:
            yield f"{file.path} holds {rows} rows of forgotten samples; {again}"
    for path, state in _suspects(lake.files, found, known, ids):
        if state in _GONE:
            yield f"{path}, which a writer left that is gone, may hold rows of forgotten samples; {again}"


def _is_of(path: str, experiment: str) -> bool:
    return f"/experiment={experiment}/" in path or path == paths.experiment_manifest(experiment)


def _suspects(
    files: Files, found: Inventory, known: Experiment, ids: Sequence[int]
) -> Iterator[tuple[str, Writer]]:
    """Loose files of an experiment that hold rows of ``ids`` or cannot be looked into, with their writers."""
    if not ids:
        return
    begun = max(datetime.fromisoformat(each.when).timestamp() for each in known.forgettings)
    checkpoints: dict[str, list[str]] = {}
    for path, state in found.leftovers.items():
        top = path.partition("/")[0]
        if not _is_of(path, known.name) or "/.tmp-" in path:
            continue
        if top == paths.CHECKPOINTS:
            checkpoints.setdefault(path.rpartition("/")[0], []).append(path)
        elif path.endswith((".parquet", ".arrow")) and _may_hold(files, path, ids):
            yield path, state
    for of_writer in checkpoints.values():
        if any(_older(files, path, begun) or _may_hold(files, path, ids) for path in of_writer):
            # Manifests first: a process that is killed here leaves no checkpoint that lacks its files.
            for path in sorted(of_writer, key=lambda path: not path.endswith(".json")):
                yield path, found.leftovers[path]


def _never_needed(path: str, found: Inventory) -> bool:
    """Whether a loose file of a writer at work is none that it is going to commit."""
    if path.startswith(tuple(f"{top}/" for top in _REWRITTEN)):
        return True
    match = re.match(r"(?:signals|traces)/experiment=([^/]+)/run=([^/]+)/", path)
    # A score that can be read has rows of before; whoever is about to keep it will find the sample forgotten.
    return path.startswith("scores/") or (
        match is not None and paths.run_manifest(match[1], match[2]) in found.listed
    )


def _older(files: Files, path: str, than: float) -> bool:
    try:
        return files.modified(path) < than
    except CorruptLake:
        return False


def _may_hold(files: Files, path: str, ids: Sequence[int]) -> bool:
    """Whether a loose file has rows of ``ids``; yes where it is damaged or not whole."""
    try:
        if path.endswith(".parquet"):
            return Holdings(files, ids).of(DataFile("", path, 0, files.size(path), "")).rows > 0
        if path.endswith(".arrow"):
            with files.open_input(path) as source:
                there = pa.ipc.open_file(source).read_all()["sample_id"].to_numpy()
            return bool(np.isin(there, list(ids)).any())
        if path.rpartition("/")[2].startswith("traces-"):  # of a checkpoint, whose other files name no sample
            held = safetensors.numpy.load(files.read(path))
            return any(
                np.isin(values, list(ids)).any()
                for name, values in held.items()
                if name.endswith("/sample_id")
            )
    except (LosslakeError, pa.ArrowException, OSError, ValueError, KeyError, SafetensorError):
        return files.exists(path)
    return False
