"""Is everything that manifests promise really there, and what lies around that no manifest names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from . import manifest, paths
from .errors import CorruptLake, LosslakeError
from .lake import Lake, experiment_from_json, run_from_json
from .manifest import DataFile
from .results import result_from_json

_MANIFESTS = ("experiments", "runs", "designs", "results")
_DATA = ("samples", "pictures", "signals", "traces", "scores")


@dataclass(frozen=True)
class Verification:
    """``damage`` are sentences about what is wrong; ``leftovers`` are files that no manifest names.

    Leftovers are what killed writers and replaced results left, and the files of writers at work right now.
    What belongs to a damaged manifest is not called a leftover.
    """

    manifests: int
    files: int
    bytes: int
    damage: tuple[str, ...]
    leftovers: tuple[str, ...]


def verify(lake: Lake) -> Verification:
    """Check every manifest, and every listed file's size, SHA-256 and number of rows."""
    files = lake.files
    damage: list[str] = []
    listed: dict[str, DataFile] = {}
    withheld: list[str] = []
    # What lies there is noted first: a run that commits in the meantime must not look like a leftover.
    present = {path for folder in (*_DATA, "staging") for path in files.list(folder)} | set(
        files.temporaries()
    )
    found = [paths.LAKE, *(path for folder in _MANIFESTS for path in files.list(folder, ".json"))]
    for path in found:
        try:
            listed.update({file.path: file for file in _files_of(lake, path)})
        except LosslakeError as error:
            damage.append(str(error))
            withheld += _folders_of(path)
    for file in listed.values():
        damage.extend(_damage_of(lake, file))
    return Verification(
        manifests=len(found),
        files=len(listed),
        bytes=sum(file.bytes for file in listed.values()),
        damage=tuple(damage),
        leftovers=tuple(
            sorted(path for path in present - set(listed) if not path.startswith(tuple(withheld)))
        ),
    )


def _files_of(lake: Lake, path: str) -> tuple[DataFile, ...]:
    """The files that a manifest lists. Raises CorruptLake for one that is not as it was written."""
    content = manifest.load(lake.files, path)
    # A changed blank or a reordered key does not change what it says, but somebody or something was there.
    if manifest.dump(content) != lake.files.read(path):
        raise CorruptLake(
            f"{path} in {lake.path} was changed after it was written (not as losslake writes it)"
        )
    for name, value in _expected_names(path).items():
        manifest.check_names(content, path, **{name: value})
    return _parsed_files(content, path)


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
        ]
    elif names["kind"] == "result":
        folders = [f"scores/experiment={experiment}/analysis={names['analysis']}"]
    else:
        folders = []
    return [f"{folder}/" for folder in folders]


def _damage_of(lake: Lake, file: DataFile) -> Iterator[str]:
    try:
        size = lake.files.size(file.path)
        if size != file.bytes:
            yield f"{file.path} has {size} bytes, its manifest says {file.bytes}"
        elif manifest.sha256_of(lake.files, file.path) != file.sha256:
            yield f"{file.path} was changed after it was written (SHA-256 differs)"
        else:
            with lake.files.open_input(file.path) as source:
                rows = pq.read_metadata(source).num_rows
            if rows != file.rows:
                yield f"{file.path} has {rows} rows, its manifest says {file.rows}"
    except (LosslakeError, pa.ArrowException, OSError) as error:
        yield f"{file.path}: {error}" if file.path not in str(error) else str(error)
