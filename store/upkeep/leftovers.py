"""What lies in a lake: what its manifests list, and the leftovers that none of them does, with their writers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import CorruptLake, LosslakeError
from ..files import tokens
from ..files.filesystem import Files
from ..format import manifest, paths
from ..format.manifest import DataFile, upgraded
from ..format.records import experiment_from_json, result_from_json, run_from_json
from ..read.catalogue import Catalogue
from ..write import leases
from ..write.checkpoints import resumable_files

_MANIFESTS = ("experiments", "runs", "designs", "results")
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

    @property
    def manifests(self) -> tuple[str, ...]:
        """Where they are, the damaged ones too."""
        return (*self.listed, *(path for path in self.damaged if not path.startswith(f"{paths.LEASES}/")))


def take_inventory(lake: Catalogue, *, checkpoints: bool = False) -> Inventory:
    """Look at everything in a lake, other processes at work or not.

    ``checkpoints``: those that a run could be gone on with count as leftovers too.

    The order counts. What lies there is noted first: its writers had their leases then. The leases are next: who is
    gone by then has committed what it ever will. So what no manifest lists that is read last, never becomes part of
    the lake.
    """
    files = lake.files
    present = {*files.temporaries(), *(path for folder in _DATA for path in files.list(folder))}
    writers = leases.states(files)
    listed: dict[str, tuple[DataFile, ...]] = {}
    damaged: dict[str, str] = {}
    kept_back: list[str] = []
    for path in [paths.LAKE, *(path for folder in _MANIFESTS for path in files.list(folder, ".json"))]:
        try:
            listed[path] = files_listed_by(files, path)
        except LosslakeError as error:
            if path.startswith("results/") and not files.exists(path):
                continue  # removed since it was listed, with a sample that was forgotten
            damaged[path] = str(error)
            kept_back += [*_folders_of(path), *_mentioned(files, path)]
    damaged |= _damaged_leases(files)
    needed = {file.path for own in listed.values() for file in own}
    if not checkpoints:
        needed |= resumable_files(files)
    loose = sorted(present - needed)
    withheld = [path for path in loose if path.startswith(tuple(kept_back))]
    leftovers = {path: what_became_of(path, writers) for path in loose if path not in set(withheld)}
    leftovers |= {paths.lease(writer): state for writer, state in writers.items() if state != "at work"}
    return Inventory(listed, damaged, dict(sorted(leftovers.items())), tuple(withheld))


def what_became_of(path: str, writers: Mapping[str, leases.State]) -> Writer:
    """What became of the writer of a file, by `leases.states` as of after the file was seen."""
    writer = tokens.writer_of(path)
    if writer is not None and writer in writers:
        return writers[writer]
    return "ended" if tokens.may_have_lease(path) else "unknown"


def files_listed_by(files: Files, path: str) -> tuple[DataFile, ...]:
    """The files that a manifest lists. Raises CorruptLake for one that is not as it was written."""
    content = _as_dumped(files, path)
    for name, value in _expected_names(path).items():
        manifest.check_names(content, path, **{name: value})
    return _parsed_files(content, path)


def _as_dumped(files: Files, path: str) -> dict[str, Any]:
    """`manifest.load` that also raises CorruptLake where a byte is not as `manifest.dump` puts it."""
    data = files.read(path)  # once: it may be replaced in this moment
    content = manifest.parsed(data, path, files.root)
    # A changed blank or a reordered key does not change what it says, but somebody or something was there.
    if manifest.dump(content) != data:
        raise CorruptLake(
            f"{path} in {files.root} was changed after it was written (not as losslake writes it)"
        )
    return upgraded(content)


def _damaged_leases(files: Files) -> dict[str, str]:
    damaged = {}
    for path in files.list(paths.LEASES, ".json"):
        try:
            leases.checked_lease(_as_dumped(files, path), path)
        except LosslakeError as error:
            if files.exists(path):  # else its process has ended in this moment
                damaged[path] = str(error)
    return damaged


def _parsed_files(content: dict[str, Any], path: str) -> tuple[DataFile, ...]:
    kind = path.partition("/")[0]
    if kind == "experiments":
        return experiment_from_json(content, path).files
    if kind == "runs":
        return run_from_json(content, path).files
    if kind == "results":
        file = result_from_json(content, path).file
        return (file,) if file else ()
    if kind == "designs" and "design" not in content:
        raise CorruptLake(f"{path} has no design")
    return ()


def _expected_names(path: str) -> dict[str, str]:
    """What a manifest must say of itself by where it lies."""
    match = re.fullmatch(r"experiments/(.+)\.json", path)
    if match:
        return {"kind": "experiment", "experiment": match[1]}
    match = re.fullmatch(r"runs/experiment=([^/]+)/(.+)\.json", path)
    if match:
        return {"kind": "run", "experiment": match[1], "run": match[2]}
    match = re.fullmatch(r"results/experiment=([^/]+)/analysis=([^/]+)/.+\.json", path)
    if match:
        return {"kind": "result", "experiment": match[1], "analysis": match[2]}
    return {"kind": "lake" if path == paths.LAKE else "design"}


def _folders_of(path: str) -> list[str]:
    """Where the data of a manifest lies, as far as its place tells."""
    names = _expected_names(path)
    experiment = names.get("experiment", "")
    if names["kind"] == "experiment":
        folders = [paths.samples_folder(experiment), paths.pictures_folder(experiment)]
    elif names["kind"] == "run":
        folders = [
            paths.signals_folder(experiment, names["run"]),
            paths.traces_folder(experiment, names["run"]),
            paths.packed_folder(experiment),
        ]
    elif names["kind"] == "result":
        folders = [f"scores/experiment={experiment}/analysis={names['analysis']}"]
    else:
        folders = []
    return [f"{folder}/" for folder in folders]


def _mentioned(files: Files, path: str) -> list[str]:
    """The files that a manifest lists whose checksum is right and whose place is not: it was renamed."""
    try:
        return [str(file["path"]) for file in manifest.load(files, path)["files"]]
    except (LosslakeError, KeyError, TypeError):
        return []
