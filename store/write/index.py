"""Writing the index of an experiment's runs (see `read.index`): one file in one step, by whoever writes into the lake anyhow.

A commit writes it anew when an eighth of the runs is not in it, so that a fleet of N runs writes some 8 N entries in all; an
analysis that keeps its result when it had to read many manifests; `compact` and `forget` when they have replaced them. What it says already
of manifests that have not changed is taken over and only the others are read. Many may write it at once: each writes what is
so, and the last one stays.

Nothing of a forgotten sample or of a removed run stays in it. Who forgets or removes deletes it after the manifests have
changed; who writes it looks, after it was put, whether somebody has begun to since it read them, and then deletes it itself.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import CorruptLake, LosslakeError
from ..files.filesystem import Files
from ..files.local import LocalFiles
from ..format import manifest, paths
from ..format.records import forgotten_samples
from ..read.index import LEAST, Indexed, load_index, manifest_in, read_index
from . import leases

PART = 8
"""A commit writes the index anew when more than one in so many runs is not in it."""

SETTLED = 2.0
"""Seconds after which a file's time tells a change: some disks' clocks tick once a second."""

_AGAIN = 5.0
"""Seconds before this process looks once more whether an index is to be written anew."""

_AGAIN_WRITTEN = "delete it: nothing is lost by that"

_COUNT = re.compile(rb'"count": (\d{1,12})[,}]')

_looked: dict[tuple[str, str], float] = {}
"""When this process looks again, by lake and experiment."""


def index_if_worth(files: Files, experiment: str, runs: int, lacking: int | None = None) -> None:
    """Write the index of an experiment with ``runs`` or so, for who has just written something else there, if it lacks too many.

    ``lacking`` says how many where the caller knows. Nothing is raised: what the caller wrote is there whether this succeeds.
    """
    where = (files.root, experiment)
    if runs < LEAST or time.monotonic() < _looked.get(where, 0.0):
        return
    _looked[where] = time.monotonic() + _AGAIN
    with contextlib.suppress(LosslakeError):
        lacks = runs - _count(files, experiment) if lacking is None else lacking
        if lacks >= max(LEAST, runs // PART):
            write_index(files, experiment)


def write_index(files: Files, experiment: str, *, wait: bool = False) -> int:
    """Write the index of an experiment's runs; the number of runs in it, 0 where it is left as it was.

    Runs committed in the last two seconds are left out, as the time of their manifests may be that of the next ones too; with
    ``wait`` they are waited for. Raises OlderFormat as `leases.hold`, CorruptLake where a manifest is damaged.
    """
    leases.hold(files)
    folder, path = f"runs/experiment={experiment}", paths.index(experiment)
    forgotten = list(forgotten_samples(files, experiment))
    if wait and isinstance(files, LocalFiles) and len(files.list(folder, ".json")) >= LEAST:
        time.sleep(SETTLED + 0.1)
    stamps = _settled(files, files.stamps(folder, ".json"))
    known = read_index(files, experiment, forgotten)
    kept = {
        each: known[each] for each, stamp in stamps.items() if each in known and known[each].stamp == stamp
    }
    new = [each for each in stamps if each not in kept]
    if len(kept) + len(new) < LEAST or (not new and len(kept) == len(known)):
        return 0
    read = files.each(lambda each: _as_text(files, each), new)
    now = files.stamps(folder, ".json")
    # One that was replaced while it was read may say either.
    entries = kept | {
        each: Indexed(stamps[each], text)
        for each, text in zip(new, read, strict=True)
        if text is not None and now.get(each) == stamps[each]
    }
    content = {
        "kind": "index",
        "experiment": experiment,
        "count": len(entries),
        "forgotten": forgotten,
        "runs": {
            each.rpartition("/")[2][: -len(".json")]: {"stamp": entry.stamp, "manifest": entry.manifest}
            for each, entry in entries.items()
        },
    }
    files.put(path, manifest.dump(content))
    if not _holds(files, experiment, forgotten, entries):
        files.delete(path)
        return 0
    return len(entries)


def drop_index(files: Files, experiment: str) -> None:
    """Delete the index of an experiment, whose manifests have changed so that nothing of before may stay."""
    files.delete(paths.index(experiment))


def wrong_in_index(files: Files, experiment: str) -> str | None:
    """A sentence about what the index of an experiment says of a manifest and is not so; None where there is nothing of the kind.

    A file that is no index at all is not told here.
    """
    return _twice(_wrong, files, experiment)


def removed_in_index(files: Files, experiment: str) -> str | None:
    """A sentence where an index speaks of what is not there any more: whoever removed or wrote it was killed. Nobody reads that."""
    return _twice(_removed, files, experiment)


def remembered_in_index(files: Files, experiment: str, forgotten: Sequence[int]) -> str | None:
    """A sentence where an index may say what was so before samples were ``forgotten``; else None."""
    path = paths.index(experiment)
    try:
        content = load_index(files, experiment)
    except LosslakeError:
        return None
    stamps = files.stamps(f"runs/experiment={experiment}", ".json")
    known = read_index(files, experiment, content["forgotten"])
    if content["forgotten"] == list(forgotten) and all(
        stamps.get(each) == known[each].stamp for each in known
    ):
        return None
    return f"{path} may say what was so before samples were forgotten"


def outdated_indexes(files: Files) -> list[str]:
    """The indexes that speak of experiments or runs that are not there."""
    return [path for name, path in indexes(files) if removed_in_index(files, name) is not None]


def indexes(files: Files) -> list[tuple[str, str]]:
    """The experiments that have an index, and where it is."""
    found = [path for path in files.list(paths.INDEXES, ".json") if path.count("/") == 2]
    return [(path.split("/")[1].partition("=")[2], path) for path in found]


def _twice(look: Callable[[Files, str], str | None], files: Files, experiment: str) -> str | None:
    """What is found two times: a writer may take back in this moment what it has put."""
    told = look(files, experiment)
    return told if told is not None and told == look(files, experiment) else None


def _wrong(files: Files, experiment: str) -> str | None:
    path = paths.index(experiment)
    try:
        content = load_index(files, experiment)
    except LosslakeError:
        return None
    stamps = files.stamps(f"runs/experiment={experiment}", ".json")
    for each, entry in read_index(files, experiment, content["forgotten"]).items():
        with contextlib.suppress(CorruptLake):  # the manifest is damaged, which is told elsewhere
            if stamps.get(each) == entry.stamp and manifest.load(files, each) != _content_or_none(
                entry, each
            ):
                return f"{path} says of {each} what is not so; {_AGAIN_WRITTEN}"
    return None


def _removed(files: Files, experiment: str) -> str | None:
    path = paths.index(experiment)
    try:
        content = load_index(files, experiment)
    except LosslakeError:
        return None
    if not files.exists(paths.experiment_manifest(experiment)):
        return f"{path} is about an experiment that is not there; run 'losslake lake gc'"
    there = files.list(f"runs/experiment={experiment}", ".json")
    for each in read_index(files, experiment, content["forgotten"]):
        if each not in there:
            return f"{path} speaks of {each}, which is not there any more; run 'losslake lake gc'"
    return None


def _content_or_none(entry: Indexed, path: str) -> dict[str, Any] | None:
    try:
        return manifest_in(entry, path)
    except CorruptLake:
        return None


def _count(files: Files, experiment: str) -> int:
    """How many runs the index is of, by its first bytes; 0 where there is none."""
    path = paths.index(experiment)
    if not files.exists(path):
        return 0
    with files.open_input(path) as file:
        found = _COUNT.search(file.read(200))
    return int(found[1]) if found else 0


def _settled(files: Files, stamps: dict[str, str]) -> dict[str, str]:
    """Those stamps that no later content of the same file will have."""
    stamps = {path: stamp for path, stamp in stamps.items() if stamp}
    if not isinstance(files, LocalFiles):
        return stamps  # there they are of the bytes
    now = leases.lake_time(files)
    settled = {}
    for path, stamp in stamps.items():
        with contextlib.suppress(CorruptLake):  # removed since
            if files.modified(path) < now - SETTLED:
                settled[path] = stamp
    return settled


def _as_text(files: Files, path: str) -> str | None:
    """The content of a manifest as text, always the same; None where it has been removed."""
    try:
        content = manifest.load(files, path)
    except CorruptLake:
        if files.exists(path):
            raise
        return None
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _holds(files: Files, experiment: str, forgotten: list[int], entries: dict[str, Indexed]) -> bool:
    """Whether no sample was forgotten and no run removed or replaced since an index was begun."""
    try:
        known = list(forgotten_samples(files, experiment))
    except LosslakeError:
        return False
    stamps = files.stamps(f"runs/experiment={experiment}", ".json")
    return known == forgotten and all(stamps.get(path) == entry.stamp for path, entry in entries.items())
