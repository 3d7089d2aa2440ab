"""Is everything that manifests promise really there, and what lies around that no manifest names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from . import manifest, paths
from .errors import LosslakeError
from .lake import Lake
from .manifest import DataFile

_MANIFESTS = ("experiments", "runs", "designs", "results")
_DATA = ("samples", "pictures", "signals", "traces", "scores")


@dataclass(frozen=True)
class Verification:
    """``damage`` are sentences about what is wrong; ``leftovers`` are files of runs that never committed."""

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
    found = [paths.LAKE, *(path for folder in _MANIFESTS for path in files.list(folder, ".json"))]
    for path in found:
        try:
            content = manifest.load(files, path)
            listed.update({file.path: file for file in manifest.files_from_json(content.get("files", []))})
        except (LosslakeError, TypeError) as error:
            damage.append(str(error))
    for file in listed.values():
        damage.extend(_damage_of(lake, file))
    present = {path for folder in (*_DATA, "staging") for path in files.list(folder)}
    return Verification(
        manifests=len(found),
        files=len(listed),
        bytes=sum(file.bytes for file in listed.values()),
        damage=tuple(damage),
        leftovers=tuple(sorted(present - set(listed))),
    )


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
        yield str(error)
