"""Reading what may change meanwhile: others replace or remove files, and something may have written to one.

A file that a manifest lists may go once the manifest has been replaced: by a result that is written again, by runs that are
compacted, by garbage collection. So whoever misses one looks at the manifests again, and only where they still list it the
lake is damaged.

Parquet's pages have checksums, and neither DuckDB nor Polars looks at them: a changed byte would become another loss.
Hashing every file before every query would cost more than many a query. But a data file is complete before the manifest that
lists it is written, so one with a later time was changed, or copied without its times, and is hashed; of the others the
size is compared. What changes without leaving a time, on a failing disk, 'lake verify' finds.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ..errors import CorruptLake
from ..files.filesystem import Files
from ..files.local import LocalFiles
from ..format import paths
from ..format.manifest import DataFile, sha256_of
from ..format.records import Experiment, Result, Run

T = TypeVar("T")

TRIES = 10
"""How often others may replace what is being read, at least, before it is given up."""

PATIENCE = 60.0
"""Seconds for which it is tried at least: who forgets in many runs replaces one after another for so long."""
_MOST = 1 << 30
"""Bytes that are hashed before a query, at most: a second or so. More of a copied lake is left to 'lake verify'."""

_found_whole: set[tuple[str, str, int, float]] = set()


def read_again(read: Callable[[], T], look: Callable[[], object]) -> T:
    """What ``read`` returns; where it raises CorruptLake, it is called again as long as manifests change meanwhile.

    ``look`` says what manifests list at this moment. ``read`` must find out by itself which files to read.
    """
    seen = None
    until = time.monotonic() + PATIENCE
    for attempt in itertools.count():
        try:
            return read()
        except CorruptLake as error:
            listed = look()
            # Equal: the manifests were the same before this attempt as after it, and it read what they list.
            if attempt and listed == seen:
                raise
            if attempt >= TRIES - 1 and time.monotonic() >= until:
                raise CorruptLake(
                    "others replace what is read again and again, as who forgets or compacts does; ask once more when they have "
                    f"ended ({error})"
                ) from error
            seen = listed
            if attempt:
                time.sleep(min(0.02 * 2**attempt, 2.0))
    raise AssertionError("it returns or raises")


def check_unchanged(
    files: Files, owners: Iterable[Experiment | Run | Result], *, missing: bool = False
) -> None:
    """Raises CorruptLake for a file of another size than its manifest says, or of other bytes and a later time.

    One that is missing is left to who reads it, unless ``missing``. In an object store nothing changes in place, and nothing is looked at.
    """
    if not isinstance(files, LocalFiles):
        return
    budget = _MOST
    seen: set[str] = set()
    for manifest, listed in _listed_by(owners):
        try:
            listed_at = files.modified(manifest)
        except CorruptLake:  # it was replaced or removed since it was read, and so may be what it listed
            continue
        for file in listed:
            if file.path in seen:
                continue
            seen.add(file.path)
            whole = file.shared or file
            try:
                size, changed_at = files.size_and_time(file.path)
            except CorruptLake:
                if missing or files.exists(file.path):
                    raise
                continue
            if size != whole.bytes:
                raise CorruptLake(
                    f"{file.path} in {files.root} has {size} bytes, its manifest says {whole.bytes}; run 'losslake lake "
                    "verify'"
                )
            stamp = (files.root, file.path, size, changed_at)
            if changed_at > listed_at and stamp not in _found_whole and size <= budget:
                budget -= size
                if sha256_of(files, file.path) != whole.sha256:
                    raise CorruptLake(
                        f"{file.path} in {files.root} was changed after it was written (SHA-256 differs); run 'losslake "
                        "lake verify', and restore it from a copy"
                    )
                _found_whole.add(stamp)


def _listed_by(owners: Iterable[Experiment | Run | Result]) -> Iterator[tuple[str, tuple[DataFile, ...]]]:
    """Where each manifest is, and the files that it lists."""
    for each in owners:
        if isinstance(each, Experiment):
            yield paths.experiment_manifest(each.name), each.files
        elif isinstance(each, Run):
            yield paths.run_manifest(each.experiment, each.run), each.files
        else:
            place = paths.result_manifest(each.experiment, each.analysis, each.target, each.variant)
            yield place, () if each.file is None else (each.file,)
