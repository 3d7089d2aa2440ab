"""A process is killed at any call, and the power fails: at once, or after the same was done again.

In the suite before some calls; ``LOSSLAKE_PROTOCOL_SECONDS=1`` does it before each.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from acts import N, analyze, rows_of, samples, samples_in_files, write
from interleaved import World
from losslake.store.errors import NotFound
from losslake.store.lake import Lake
from losslake.store.upkeep import compact as compaction
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.forget import forget
from losslake.store.upkeep.gc import collect_garbage
from losslake.store.upkeep.remove import remove
from losslake.store.upkeep.verify import verify
from power import Drive, copied
from protocol import CLOCKS

EVERY = bool(os.environ.get("LOSSLAKE_PROTOCOL_SECONDS"))
MANIFESTS = ("experiments", "runs", "results", "index")

REVERTS: dict[str, Callable[[str], bool]] = {
    "all": lambda folder: True,
    "manifests": lambda folder: folder.partition("/")[0] in MANIFESTS,
    "data": lambda folder: folder.partition("/")[0] not in MANIFESTS,
}
"""Folders of which the failure takes what was not synced."""


def compact_and_collect(lake: Lake) -> None:
    compact(lake, "e", least=2)
    collect_garbage(lake, older_than=timedelta(0))


def remove_run(lake: Lake) -> None:
    with contextlib.suppress(NotFound):  # nothing is left of it
        remove(lake, "e", ["r1"])


def forget_sharing(lake: Lake) -> None:
    with patch.object(compaction, "LEAST", 2):
        forget(lake, "e", [1])


ACTS: dict[str, Callable[[Lake], Any]] = {
    "forget": lambda lake: forget(lake, "e", [1]),
    **({"forget, sharing": forget_sharing} if EVERY else {}),
    "remove": remove_run,
    "compact": compact_and_collect,
    "write": lambda lake: write(lake, "r3", 9) if not lake.has_run("e", "r3") else None,
}


def done(
    path: Path,
    act: Callable[[Lake], Any],
    drive: Drive | None = None,
    calls: int = 1_000_000,
    made: list[str] | None = None,
    later: float = 0.0,
) -> bool:
    """Do something so many seconds ``later``, or be killed after so many calls; whether it was done. ``made`` gets the names of the calls."""
    world = World(path, CLOCKS, drive)
    try:
        if later:
            world.pass_time(later)
        process = world.start("a", act)
        process.go_on(calls)
        process.kill()
        if made is not None:
            made += process.calls
        if process.error is not None:
            raise process.error
        return not process.killed
    finally:
        world.end()


@pytest.fixture(scope="module", params=["apart", "shared"] if EVERY else ["apart"])
def begun(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A lake with three runs, whose files are their own or shared, and a result."""
    path = tmp_path_factory.mktemp("begun") / "lake"

    def make(lake: Lake) -> None:
        lake.create_experiment("e", samples())
        for number in range(3):
            write(lake, f"r{number}", number + 1)
        if request.param == "shared":
            compact_and_collect(lake)
        analyze(lake)

    assert done(path, make)
    return path


def check(path: Path, act: str, *, ended: bool) -> None:
    """What must be so in a lake after a failure of power: nothing is damaged, no run lost; and what was done has stayed done."""
    lake = Lake.open(path)
    found = verify(lake)
    assert found.damage == ()
    shown = rows_of(lake)
    removed = {"r1"} if act == "remove" else set()
    assert {"r0", "r1", "r2"} - removed <= shown.keys()
    if act == "write" and ended:
        assert "r3" in shown
    if act == "remove" and ended:
        assert "r1" not in shown
        assert not [each for each in path.rglob("*") if "run=r1" in str(each) and each.is_file()]
    for _, tables in shown.values():
        for ids in tables.values():
            assert {0, 2, 3, 4} <= set(ids) <= set(range(N))
            assert not (act.startswith("forget") and ended and 1 in ids)
    if act.startswith("forget") and ended:
        assert found.remembered == ()
        assert not [each for each, ids in samples_in_files(path).items() if 1 in ids]


def test_what_garbage_collection_removed_stays_removed(begun: Path, tmp_path: Path) -> None:
    """Of a writer that was killed just before its run's manifest was put."""
    names: list[str] = []
    assert done(copied(begun, tmp_path / "whole"), ACTS["write"], made=names)
    path = copied(begun, tmp_path / "lake")
    committed = max(number for number, name in enumerate(names) if name == "link")
    assert not done(path, ACTS["write"], calls=committed)
    left = set(verify(Lake.open(path)).leftovers)
    assert {each.partition("/")[0] for each in left} >= {"signals", "traces", "writers"}
    drive = Drive(path)
    assert done(path, lambda lake: collect_garbage(lake, older_than=timedelta(0)), drive)
    for name, reverts in REVERTS.items():
        drive.fail(tmp_path / name, reverts)
        check(tmp_path / name, "gc", ended=True)
        there = {each.relative_to(tmp_path / name).as_posix() for each in (tmp_path / name).rglob("*")}
        assert left & there == set()


def test_garbage_collection_deletes_nothing_for_a_manifest_that_may_go_again(
    begun: Path, tmp_path: Path
) -> None:
    """A compaction is killed when it has put the last manifest, before that is on stable storage."""

    def compact_runs(lake: Lake) -> None:
        compact(lake, "e", least=2)

    names: list[str] = []
    assert done(copied(begun, tmp_path / "whole"), compact_runs, made=names)
    # Manifests are put one right after the other.
    put = max(n for n, name in enumerate(names) if name == "replace" and names[n - 2] == "replace")
    path = copied(begun, tmp_path / "lake")
    drive = Drive(path)
    assert not done(path, compact_runs, drive, put + 1)
    before = len(list(path.rglob("*.parquet")))
    assert done(path, lambda lake: collect_garbage(lake, older_than=timedelta(0)), drive, later=7200)
    assert len(list(path.rglob("*.parquet"))) < before
    for name, reverts in REVERTS.items():
        drive.fail(tmp_path / name, reverts)
        check(tmp_path / name, "gc", ended=True)


ENOUGH = 1_000_000
"""More calls than any act makes: how many there are differs by a few, with the time that passes."""


@pytest.mark.parametrize("act", ACTS)
def test_power_fails_after_a_kill_and_after_the_same_was_done_again(
    begun: Path, tmp_path: Path, act: str
) -> None:
    names: list[str] = []
    assert done(copied(begun, tmp_path / "whole"), ACTS[act], made=names)
    # Between a manifest that has just been put, or something that was removed, and what sees to it that it stays so.
    at = [number for number, name in enumerate(names) if name == "fsync"]
    unsynced = [number for number in at if names[number - 1] in ("replace", "link", "unlink", "rmdir")]
    for calls in (
        (*range(len(names)), ENOUGH) if EVERY else [*unsynced[:: max(1, len(unsynced) // 3)], ENOUGH]
    ):
        path = copied(begun, tmp_path / f"lake-{calls}")
        drive = Drive(path)
        whole = done(path, ACTS[act], drive, calls)
        for name, reverts in REVERTS.items():
            at_once = tmp_path / f"at-once-{calls}-{name}"
            drive.fail(at_once, reverts)
            check(at_once, act, ended=whole)
            done(at_once, ACTS[act])
            check(at_once, act, ended=True)
        if whole:
            assert calls in (ENOUGH, len(names) - 1)
            return
        assert done(path, ACTS[act], drive)
        for name, reverts in REVERTS.items():
            later = tmp_path / f"later-{calls}-{name}"
            drive.fail(later, reverts)
            # A run that is found there is not written again, and was never reported to be there for good.
            check(later, act, ended=act != "write" or whole)
    raise AssertionError("it was never done")
