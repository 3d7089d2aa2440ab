"""Garbage collection: removing what no manifest names and no writer will ever finish.

It runs beside writers and readers. A writer at work keeps its files by its lease, whatever their age and whatever the
clock of a machine says. A reader that misses a file which has just been replaced looks again.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from ..errors import CorruptLake, LosslakeError
from ..files import tokens
from ..files.filesystem import Files
from ..format import paths
from ..format.text import age
from ..read.catalogue import Catalogue
from ..write import leases
from ..write.index import outdated_indexes
from .leftovers import MANIFESTS, Inventory, files_listed_by, take_inventory

OLDER_THAN = timedelta(days=1)

GRACE = timedelta(minutes=10)
"""A file without a lease stays for so long: another machine may show the lease, written before, a little later."""

_LISTED_BY = (
    (re.compile(r"(?:signals|traces)/experiment=([^/]+)/run=([^/]+)/.+"), r"runs/experiment=\1/\2.json"),
    (re.compile(r"packed/experiment=([^/]+)/.+"), r"packed/experiment=\1/"),
    (re.compile(r"(?:samples|pictures)/experiment=([^/]+)/.+"), r"experiments/\1.json"),
    (
        re.compile(r"scores/experiment=([^/]+)/analysis=([^/]+)/target=([^/]+)/.+"),
        r"results/experiment=\1/analysis=\2/\3",
    ),
)
"""Where a file lies, and its place: what tells the manifests that may have listed it."""


@dataclass(frozen=True)
class Collected:
    """What was removed, or would be, with its ``bytes``; ``kept`` counts the leftovers that stay by the reason why.

    ``damaged`` are sentences about manifests that cannot be trusted, beside which nothing was removed, and about published tables
    that could not be brought along for that.
    """

    removed: tuple[str, ...]
    bytes: int
    kept: Mapping[str, int]
    damaged: tuple[str, ...]


def collect_garbage(
    lake: Catalogue, *, older_than: timedelta = OLDER_THAN, dry_run: bool = False, checkpoints: bool = False
) -> Collected:
    """Remove the leftovers of a lake whose writers are gone, and what was replaced ``older_than`` ago.

    Whether a writer on this machine is gone is known. One on another machine renews its lease every few minutes, and
    counts as gone when its last sign is older than ``older_than``, and than half an hour whatever that says; one from
    before there were leases when its last write is. Ages are told by the clock that dates the lake's files, not by
    this machine's. What may have been listed by a manifest that
    was written since then stays: a reader may be in the middle of it. Checkpoints that a run which was stopped could be
    gone on with stay, unless ``checkpoints``.
    """
    unpublished = []
    if not dry_run:
        try:
            lake.changed(None, rewritten=True)  # no table shall name what goes
        except CorruptLake as error:
            unpublished.append(f"the Delta tables stay as they were: {error}")
    found = take_inventory(lake, checkpoints=checkpoints)
    now = _now(lake.files, dry_run)
    last = _last_writes(lake.files, found)
    replaced = _replaced(lake.files, found)
    kept: Counter[str] = Counter()
    removed = []
    size = 0
    if found.leftovers and not dry_run:
        for folder in (
            MANIFESTS
        ):  # one may have been put by a process that was killed before that was on stable storage
            lake.files.settle(folder)
    # Leases go last: should this process be killed, the next one still knows whose the files are.
    for path in sorted(found.leftovers, key=lambda path: path.startswith(f"{paths.LEASES}/")):
        reason = _why_keep(found, path, last, replaced, now, older_than)
        if reason is not None:
            kept[reason] += 1
            continue
        if found.leftovers[path] != "killed" and _committed_since(lake.files, path):
            kept["committed meanwhile"] += 1
            continue
        try:
            size += lake.files.size(path)
        except CorruptLake:
            continue  # another collection was faster
        if not dry_run:
            lake.files.delete(path)
        removed.append(path)
    for path in outdated_indexes(lake.files):
        with contextlib.suppress(CorruptLake):  # it has gone since
            size += lake.files.size(path)
        if not dry_run:
            lake.files.delete(path)
        removed.append(path)
    if not dry_run:  # what is told to be removed does not come back
        for folder in sorted({"/".join(path.split("/")[:-1][:2]) for path in removed}):
            lake.files.settle(folder)
    if removed and not dry_run and not unpublished:
        lake.changed(None, rewritten=True)  # links that lead nowhere now
    if found.withheld:
        kept["beside a damaged manifest"] = len(found.withheld)
    return Collected(tuple(removed), size, kept, (*found.damaged.values(), *unpublished))


def _why_keep(
    found: Inventory,
    path: str,
    last: Mapping[str, float],
    replaced: Mapping[str, float],
    now: float,
    older_than: timedelta,
) -> str | None:
    """Why a leftover has to stay; None where it may go."""
    state, writer = found.leftovers[path], _owner(path)
    if writer is None:
        return "not named as losslake names its files"
    if state == "at work":
        return "of writers at work"
    since = timedelta(seconds=max(0.0, now - last[writer]))
    if state == "ended" and since < GRACE:
        return f"written less than {age(GRACE)} ago"
    if state == "elsewhere" and since < leases.SILENT:
        return f"of writers on other machines, heard of less than {age(leases.SILENT)} ago"
    if state in ("elsewhere", "unknown") and since < older_than:
        whose = "on other machines" if state == "elsewhere" else "nothing is known of"
        return f"of writers {whose}, written less than {age(older_than)} ago"
    if max(0.0, now - replaced.get(_place(path) or "", 0.0)) < older_than.total_seconds():
        return f"replaced less than {age(older_than)} ago, as far as one can tell"
    return None


def _now(files: Files, dry_run: bool) -> float:
    """The time by the clock that dates the lake's files; this machine's where nothing may be written and nothing removed."""
    try:
        return leases.lake_time(files)
    except LosslakeError:
        if dry_run:
            return time.time()
        raise


def _committed_since(files: Files, path: str) -> bool:
    """Whether a run's or an experiment's manifest lists the file by now, or may.

    Nobody knows of a writer on another machine what it has done since the inventory was taken.
    """
    place = _place(path)
    if place is None or not place.endswith(".json") or not files.exists(place):
        return False
    try:
        return path in {file.path for file in files_listed_by(files, place)}
    except LosslakeError:
        return True


def _owner(path: str) -> str | None:
    return leases.writer_of_lease(path) if path.startswith(f"{paths.LEASES}/") else tokens.writer_of(path)


def _last_writes(files: Files, found: Inventory) -> dict[str, float]:
    """When each writer wrote last, as far as its leftovers and its lease tell, in seconds since 1970."""
    by_writer: dict[str, list[str]] = {}
    for path in found.leftovers:
        by_writer.setdefault(_owner(path) or "", []).append(path)
    return {writer: _newest(files, own) for writer, own in by_writer.items()}


def _newest(files: Files, group: Iterable[str]) -> float:
    newest = 0.0
    for path in group:
        with contextlib.suppress(CorruptLake):  # it has gone since
            newest = max(newest, files.modified(path))
    return newest


def _replaced(files: Files, found: Inventory) -> dict[str, float]:
    """When the latest manifest was written that lists, or may have listed before it was replaced, files of a `_place`.

    Of the places where there are leftovers.
    """
    listing: dict[str, list[str]] = {place: [] for path in found.leftovers if (place := _place(path))}
    for path, own in found.listed.items():
        for place in {path.rpartition("~")[0] or path, *(_place(file.path) for file in own)}:
            if place in listing:
                listing[place].append(path)
    return {place: _newest(files, manifests) for place, manifests in listing.items()}


def _place(path: str) -> str | None:
    """What the manifests that may list a data file have in common; None for a file that none ever does."""
    for pattern, place in _LISTED_BY:
        if match := pattern.fullmatch(path):
            return match.expand(place)
    return None
