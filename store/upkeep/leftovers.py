"""What lies in a lake: what its manifests list, and the leftovers that none of them does, with their writers.

Leftovers are files of writers that were killed or are at work; some may hold rows of samples that were forgotten since.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import safetensors.numpy
from safetensors import SafetensorError

from ..delta.log import COPY, named_copies
from ..errors import CorruptLake, LosslakeError
from ..files import tokens
from ..files.filesystem import Files
from ..format import manifest, paths
from ..format.contents import place_of
from ..format.manifest import DataFile, files_from_json
from ..format.records import Experiment
from ..read.catalogue import Catalogue, results_with
from ..write import leases
from ..write.checkpoints import load_checkpoint, resumable_files
from ..write.index import remembered_in_index
from ..write.table_file import Holdings

MANIFESTS = ("experiments", "runs", "designs", "results")
NOTES = (paths.INDEXES, paths.LEASES, paths.CLAIMS, paths.REMOVALS, "staging", paths.CHECKPOINTS)
_DATA = (
    "samples",
    "pictures",
    "signals",
    "traces",
    "scores",
    "packed",
    "staging",
    paths.CHECKPOINTS,
    paths.CLAIMS,
)

Writer = Literal["at work", "killed", "ended", "elsewhere", "unknown"]
"""What became of the writer of a file: "elsewhere" is on another machine, "unknown" wrote before there were leases."""

_GONE: tuple[Writer, ...] = ("killed", "ended", "unknown")
_REWRITTEN = ("samples/", "pictures/", "packed/")
"""Written by those alone who hold the claim to the experiment, or before it was there: loose files are never needed."""


@dataclass(frozen=True)
class Inventory:
    """``listed`` has the files of each manifest, ``damage`` sentences about manifests that cannot be trusted.

    ``leftovers`` are files that no manifest names, with what became of their writers: of killed writers, of replaced
    results, and of writers at work right now. Leases of writers that are not at work count. ``withheld`` are files
    that are none as far as one can tell: what a damaged manifest lists is not known.
    """

    listed: Mapping[str, tuple[DataFile, ...]]
    damaged: Mapping[str, str]
    leftovers: Mapping[str, Writer]
    withheld: tuple[str, ...]


def take_inventory(lake: Catalogue, *, checkpoints: bool = False) -> Inventory:
    """Look at everything in a lake, other processes at work or not.

    ``checkpoints``: those that a run could be gone on with count as leftovers too.

    The order counts. What lies there is noted first: its writers had their leases then. The leases are next: who is
    gone by then has committed what it ever will. So what no manifest lists that is read last, never becomes part of
    the lake.
    """
    files = lake.files
    present = {*files.temporaries(), *(path for folder in _DATA for path in files.list(folder))}
    present.update(files.list(paths.DELTA, COPY))
    writers = leases.states(files)
    listed: dict[str, tuple[DataFile, ...]] = {}
    damaged: dict[str, str] = {}
    kept_back: list[str] = []
    for path in [paths.LAKE, *(path for folder in MANIFESTS for path in files.list(folder, ".json"))]:
        try:
            listed[path] = files_listed_by(files, path)
        except LosslakeError as error:
            if path.startswith("results/") and not files.exists(path):
                continue  # removed since it was listed, with a sample that was forgotten
            damaged[path] = str(error)
            kept_back += [*_folders_of(path), *_mentioned(files, path)]
    damaged |= _damaged_notes(files)
    needed = {file.path for own in listed.values() for file in own} | named_copies(files)
    if not checkpoints:
        needed |= resumable_files(files)
    loose = present - needed
    withheld = sorted(path for path in loose if path.startswith(tuple(kept_back)))
    leftovers = {path: what_became_of(path, writers) for path in loose.difference(withheld)}
    leftovers |= {paths.lease(writer): state for writer, state in writers.items() if state != "at work"}
    return Inventory(listed, damaged, dict(sorted(leftovers.items())), tuple(withheld))


NOTHING = Inventory({}, {}, {}, ())


def by_experiment(found: Inventory) -> dict[str, Inventory]:
    """The parts of an inventory that are of one experiment each, by its name."""
    listed: dict[str, dict[str, tuple[DataFile, ...]]] = {}
    leftovers: dict[str, dict[str, Writer]] = {}
    for path, own in found.listed.items():
        listed.setdefault(_experiment_of(path), {})[path] = own
    for path, state in found.leftovers.items():
        leftovers.setdefault(_experiment_of(path), {})[path] = state
    return {
        name: Inventory(listed.get(name, {}), {}, leftovers.get(name, {}), ())
        for name in {*listed, *leftovers} - {""}
    }


def _experiment_of(path: str) -> str:
    match = re.match(r"experiments/([^/]+)\.json$|(?:delta/)?[^/]+/experiment=([^/]+)/", path)
    return (match[1] or match[2]) if match else ""


def what_became_of(path: str, writers: Mapping[str, leases.State]) -> Writer:
    """What became of the writer of a file, by `leases.states` as of after the file was seen."""
    writer = tokens.writer_of(path)
    if writer is not None and writer in writers:
        return writers[writer]
    return "ended" if tokens.may_have_lease(path) else "unknown"


def files_listed_by(files: Files, path: str) -> tuple[DataFile, ...]:
    """The files that a manifest lists. Raises CorruptLake for one that is not as it was written."""
    return files_from_json(_as_dumped(files, path).get("files", []))


def _as_dumped(files: Files, path: str) -> dict[str, Any]:
    """`manifest.load` that also raises CorruptLake where a byte is not as `manifest.dump` puts it."""
    data = files.read(path)  # once: it may be replaced in this moment
    content = manifest.parsed(data, path, files.root)
    # A changed blank or a reordered key does not change what it says, but somebody or something was there.
    if manifest.dump(content) != data:
        raise CorruptLake(
            f"{path} in {files.root} was changed after it was written (not as losslake writes it)"
        )
    return manifest.checked(content, path)


def _damaged_notes(files: Files) -> dict[str, str]:
    """What is wrong with the small files that processes leave for each other, which list nothing that a reader sees."""
    damaged = {}
    for path in [path for folder in NOTES for path in files.list(folder, ".json")]:
        try:
            # What a writer says in staging/ is not kept on stable storage: after a failure of power it may be empty.
            if not (path.startswith("staging/") and files.size(path) == 0):
                _as_dumped(files, path)
        except LosslakeError as error:
            if files.exists(path):  # else its process has ended in this moment
                damaged[path] = str(error)
    return damaged


def _folders_of(path: str) -> list[str]:
    """Where the data of a manifest lies, as far as its place tells."""
    folders: list[str] = []
    with contextlib.suppress(CorruptLake):
        match place_of(path):
            case "run", {"experiment": experiment, "run": run}:
                folders = [
                    paths.signals_folder(experiment, run),
                    paths.traces_folder(experiment, run),
                    paths.packed_folder(experiment),
                ]
            case "result", {"experiment": experiment, "analysis": analysis}:
                folders = [f"scores/experiment={experiment}/analysis={analysis}"]
            case "experiment", {"experiment": experiment}:
                folders = [paths.samples_folder(experiment), paths.pictures_folder(experiment)]
    return [f"{folder}/" for folder in folders]


def _mentioned(files: Files, path: str) -> list[str]:
    """The files that a manifest lists whose checksum is right and whose place is not: it was renamed."""
    try:
        return [str(file["path"]) for file in manifest.load_as_written(files, path)["files"]]
    except (LosslakeError, KeyError, TypeError):
        return []


# --- of forgotten samples -----------------------------------------------------------------------------------


def remove_leftovers(
    lake: Catalogue, known: Experiment, ids: Sequence[int], check: Callable[[], None]
) -> tuple[list[str], list[str]]:
    """Delete the loose files that hold rows of ``ids``, or may; those deleted, and those of writers still at work.

    Checkpoints go with the folder of their writer, at work or not, where they hold rows or the run was begun before the
    samples were forgotten: what they go on with has seen these. The caller has the claim to the experiment, by ``check``.
    """
    found = by_experiment(take_inventory(lake, checkpoints=True)).get(known.name, NOTHING)
    removed, pending = [], []
    for path, state in _suspects(lake.files, found, ids):
        if state in _GONE or _never_needed(path, found):
            check()
            lake.files.delete(path)
            removed.append(path)
        else:
            pending.append(path)
    return removed, pending


def left_of_forgotten(lake: Catalogue, known: Experiment, found: Inventory) -> Iterator[str]:
    """Sentences about samples that were forgotten and of which something is there all the same.

    ``found`` is the experiment's part of an inventory with checkpoints (`by_experiment`).
    """
    again = f"run 'losslake lake forget --experiment {known.name}'"
    for each in known.forgettings:
        if each.finished is None:
            named = ", ".join(map(str, each.samples[:8])) + (", ..." if len(each.samples) > 8 else "")
            yield f"experiment {known.name}: forgetting samples {named}, begun {each.when}, did not finish; {again}"
    ids = known.forgotten
    in_index = remembered_in_index(lake.files, known.name, ids)
    if in_index is not None:
        yield f"{in_index}; {again}"
    holdings = Holdings(lake.files, ids)
    listed = (file for files in found.listed.values() for file in files)
    for file in listed:
        try:
            rows = holdings.of(file).rows if file.table != "samples" else 0
        except LosslakeError:
            continue  # damaged, which is told elsewhere, or replaced since
        if rows:
            yield f"{file.path} holds {rows} rows of forgotten samples; {again}"
    with contextlib.suppress(LosslakeError):  # damaged, which is told elsewhere
        for path, _ in results_with(lake, known.name, ids):
            if lake.files.exists(path):
                yield f"{path} was computed with forgotten samples; {again}"
    if without_class_names(lake, known) != known.dataset:
        yield f"experiment {known.name} names classes that only forgotten samples were of; {again}"
    for path, state in _suspects(lake.files, found, ids):
        if state in _GONE:
            yield f"{path}, which a writer left that is gone, may hold rows of forgotten samples; {again}"


def _suspects(files: Files, found: Inventory, ids: Sequence[int]) -> Iterator[tuple[str, Writer]]:
    """Loose files of an experiment, whose part of an inventory is ``found``, that hold rows of ``ids`` or cannot be looked into, with their writers."""
    if not ids:
        return
    checkpoints: dict[str, list[str]] = {}
    for path, state in found.leftovers.items():
        top = path.partition("/")[0]
        if "/.tmp-" in path:
            continue
        if top == paths.CHECKPOINTS:
            checkpoints.setdefault(path.rpartition("/")[0], []).append(path)
        elif path.endswith((".parquet", ".arrow")) and _may_hold(files, path, ids):
            yield path, state
    for of_writer in checkpoints.values():
        if not _knew(files, of_writer, ids) or any(_may_hold(files, path, ids) for path in of_writer):
            # Manifests first: a process that is killed here leaves no checkpoint that lacks its files.
            for path in sorted(of_writer, key=lambda path: not path.endswith(".json")):
                yield path, found.leftovers[path]


def _never_needed(path: str, found: Inventory) -> bool:
    """Whether a loose file of a writer at work is none that it is going to commit."""
    match = re.match(r"(?:signals|traces)/experiment=([^/]+)/run=([^/]+)/", path)
    if match:
        return paths.run_manifest(match[1], match[2]) in found.listed
    # A score that can be read has rows of before; whoever is about to keep it, or makes a checkpoint, will find the sample
    # forgotten.
    return path.startswith((*_REWRITTEN, "scores/", f"{paths.CHECKPOINTS}/"))


def _knew(files: Files, of_writer: Sequence[str], ids: Sequence[int]) -> bool:
    """Whether a writer's checkpoints all say that ``ids`` were forgotten when its run began. One that has none says nothing."""
    manifests = [path for path in of_writer if path.endswith(".json")]
    try:
        known = [load_checkpoint(files, path).forgotten for path in manifests]
    except LosslakeError:
        return False
    return bool(known) and all(set(ids).issubset(each) for each in known)


def without_class_names(lake: Catalogue, known: Experiment) -> dict[str, Any]:
    """What an experiment says of its data set, less the names of classes that no sample is of any more."""
    told, names = dict(known.dataset), known.dataset.get("classes")
    if not known.forgettings or not isinstance(names, list | dict):
        return told
    labels = set(lake.samples(known.name, columns=["label"])["label"].unique().to_pylist())
    if isinstance(names, list):
        told["classes"] = [name if label in labels else None for label, name in enumerate(names)]
    else:
        told["classes"] = {label: name for label, name in names.items() if label in set(map(str, labels))}
    return told


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
