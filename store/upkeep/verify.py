"""Is everything that manifests promise really there, and what lies around that no manifest names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ..delta.compare import compare
from ..errors import LosslakeError
from ..format import manifest
from ..format.manifest import DataFile
from ..read.catalogue import Catalogue
from ..write.index import indexes, removed_in_index, wrong_in_index
from .leftovers import (
    NOTES,
    NOTHING,
    Inventory,
    Writer,
    by_experiment,
    files_listed_by,
    left_of_forgotten,
    take_inventory,
)
from .remove import stopped_removals


@dataclass(frozen=True)
class Verification:
    """``damage`` are sentences about what is wrong; ``leftovers`` are files that no manifest names.

    Leftovers are what killed writers and replaced results left, and the files of writers at work right now; their
    ``writers`` say which. What belongs to a damaged manifest is not called a leftover. ``remembered`` are sentences about
    samples that were forgotten, or runs that were removed, and of which something is left. ``misnamed`` are about published tables
    that name what they should not, ``behind`` about those that lack what is committed.
    """

    manifests: int
    files: int
    bytes: int
    damage: tuple[str, ...]
    leftovers: tuple[str, ...]
    writers: Mapping[str, Writer]
    remembered: tuple[str, ...]
    misnamed: tuple[str, ...]
    behind: tuple[str, ...]


def verify(lake: Catalogue) -> Verification:
    """Check every manifest, and every listed file's size, SHA-256 and number of rows; of a shared one each run's part."""
    found = take_inventory(lake)
    listed: dict[_Promise, list[tuple[str, DataFile]]] = {}
    for path, own in found.listed.items():
        for file in own:
            listed.setdefault(_promise_of(file), []).append((path, file))
    damage = list(found.damaged.values())
    damage += [
        f"the removal of experiment {name} did not finish; run 'losslake lake remove --experiment {name}'"
        for name in stopped_removals(lake)
    ]
    damage += filter(None, (wrong_in_index(lake.files, name) for name, _ in indexes(lake.files)))
    all_wrong = lake.files.each(
        lambda each: list(_damage_of(lake, each[0], [file for _, file in each[1]])), listed.items()
    )
    for parts, wrong in zip(listed.values(), all_wrong, strict=True):
        if wrong and any(_still_listed(lake, path, file) for path, file in parts):
            damage += wrong
    published = compare(lake)
    present = {promise.path: promise for promise in listed}
    return Verification(
        manifests=len(found.listed) + sum(not path.startswith(NOTES) for path in found.damaged),
        files=len(present),
        bytes=sum(promise.bytes for promise in present.values()),
        damage=tuple(damage),
        leftovers=tuple(found.leftovers),
        writers=found.leftovers,
        remembered=tuple(_remembered(lake)),
        misnamed=published.wrong,
        behind=published.behind,
    )


def _remembered(lake: Catalogue) -> Iterator[str]:
    yield from filter(None, (removed_in_index(lake.files, name) for name, _ in indexes(lake.files)))
    found: Mapping[str, Inventory] | None = None
    for name in lake.experiments():
        with contextlib.suppress(LosslakeError):  # its manifest is damaged, which is told already
            known = lake.experiment(name)
            if known.forgettings:
                found = found or by_experiment(take_inventory(lake, checkpoints=True))
                yield from left_of_forgotten(lake, known, found.get(name, NOTHING))


def _still_listed(lake: Catalogue, path: str, file: DataFile) -> bool:
    """False for what was replaced since it was listed; what took its place was not looked at."""
    try:
        return file in files_listed_by(lake.files, path)
    except LosslakeError:
        return True


class _Promise(NamedTuple):
    """What a manifest says of a whole file."""

    path: str
    rows: int
    bytes: int
    sha256: str


def _promise_of(file: DataFile) -> _Promise:
    whole = file.shared or file
    return _Promise(file.path, whole.rows, whole.bytes, whole.sha256)


def _damage_of(lake: Catalogue, promise: _Promise, parts: Sequence[DataFile]) -> Iterator[str]:
    path = promise.path
    try:
        with lake.files.open_input(path) as source:  # once: in a store a small file is one request
            size = source.seek(0, os.SEEK_END)
            source.seek(0)
            if size != promise.bytes:
                yield f"{path} has {size} bytes, its manifest says {promise.bytes}"
                return
            if manifest.digest_of(source) != promise.sha256:
                yield f"{path} was changed after it was written (SHA-256 differs)"
                return
            source.seek(0)
            footer = pq.read_metadata(source)
            if footer.num_rows != promise.rows:
                yield f"{path} has {footer.num_rows} rows, its manifest says {promise.rows}"
            elif parts[0].shared is not None:
                starts = np.cumsum([0, *(footer.row_group(i).num_rows for i in range(footer.num_row_groups))])
                yield from _wrong_parts(parts, starts)
    except (LosslakeError, pa.ArrowException, OSError) as error:
        yield f"{path}: {error}" if path not in str(error) else str(error)


def _wrong_parts(parts: Sequence[DataFile], starts: npt.NDArray[np.int64]) -> Iterator[str]:
    """``starts`` (row groups + 1,) are the first rows of the row groups of a shared file, and its end."""
    for file in parts:
        if file.shared is not None:
            first, end = file.shared.first_group, file.shared.first_group + file.shared.groups
            said = (file.shared.first_row, file.shared.first_row + file.rows)
            if end >= len(starts) or (starts[first], starts[end]) != said:
                yield (
                    f"{file.path} has no row groups {first} to {end - 1} with the rows {said[0]} to {said[1] - 1}, "
                    "which a manifest lists"
                )
