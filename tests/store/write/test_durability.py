"""Nothing is lost: a small version of benchmarks/durability.py, and what it found."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from losslake.analysis import queries
from losslake.analysis.scoring.catalogue import open_source
from losslake.store.lake import Lake
from losslake.store.upkeep import gc
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.verify import verify
from places import ROOT

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


@pytest.fixture(scope="module")
def harness() -> Iterator[Callable[[str], Any]]:
    """Imports a module of the benchmarks. They collect garbage without grace: other tests shall have it again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "GRACE", gc.GRACE)
        patch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
        yield import_module


@pytest.fixture(scope="module")
def zygote(harness: Callable[[str], Any]) -> Iterator[Any]:
    with harness("zygote").Zygote("durability_lake", "durability_crowd") as started:
        yield started


def test_kills(harness: Callable[[str], Any], zygote: Any, tmp_path: Path) -> None:
    kills = harness("durability_kills")
    prepared = kills.prepare(zygote, tmp_path, samples=200, trainings=False)
    done = kills.season_of_kills(prepared, "season", 1, each=2, trainings=0)
    assert {kills.MIGRATE.name, kills.FORGET.name, *(step.name for step in kills.STEPS)} <= set(done.tallies)
    assert all(tally.whole == 1 for tally in done.tallies.values())
    assert sum(tally.kills for tally in done.tallies.values()) >= 8
    assert done.reads > 1
    assert done.written > 1
    assert done.left > 0
    assert done.removed > 0


def test_crowd(harness: Callable[[str], Any], zygote: Any, tmp_path: Path) -> None:
    crowd = harness("durability_crowd").crowd
    for seconds in (4, 16, 64, 256):  # a busy machine needs longer for as much
        done = crowd(
            zygote,
            tmp_path / f"crowd-{seconds}",
            seconds=seconds,
            seed=1,
            collectors=6,
            analysts=2,
            keepers=1,
            samples=300,
            ranks=False,
        )
        if done.runs > 5 and done.readings >= 1 and done.told > 0:
            break
    assert done.runs > 5
    assert done.readings >= 1
    assert done.told > 0


def test_the_harness_sees_what_is_lost_and_what_is_wrong(
    harness: Callable[[str], Any], tmp_path: Path
) -> None:
    model = harness("durability_lake")
    lake = Lake.open(tmp_path / "lake", create=True)
    model.make_experiment(lake, 40)
    model.write_runs(lake.path, ["a-0", "b-0"])
    shown = model.digests(lake)
    promise = model.Promise({})
    promise.add(lake)
    promise.check(shown)
    with pytest.raises(model.Broken, match="is gone"):
        promise.check({place: state for place, state in shown.items() if place[2] != "a-0"})
    half = {place: state for place, state in shown.items() if place != ("traces", "made", "a-0")}
    with pytest.raises(model.Broken, match=r"shows in .* alone"):
        model.Promise(promise.expected).check(half)
    place = ("signals", "made", "b-0")
    for wrong in ((shown[place][0] - 1, shown[place][1]), shown["signals", "made", "a-0"]):
        with pytest.raises(model.Broken, match="signals/made/b-0 has"):
            promise.check({**shown, place: wrong})
    # What has been forgotten must not come back.
    before, after = shown[place], (0, "0")
    later = model.Promise({**promise.expected, ("signals", "made", "b"): [before, after]})
    later.check(shown)
    later.check({**shown, place: after})
    with pytest.raises(model.Broken, match="signals/made/b-0 has"):
        later.check(shown)
    # Runs of one kind are as good as each other, wherever their rows lie.
    model.write_runs(lake.path, ["a-17"])
    compact(lake, "made", least=2)
    promise.check(model.digests(lake))


@pytest.mark.parametrize("asked", ["as an engine starts", "by rows"])
def test_a_source_is_asked_after_the_files_of_its_runs_were_replaced(
    lake_of: Callable[..., Lake], monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    keep = np.arange(24).reshape(3, 8) % 2 == 0
    lake = lake_of(keep, keep * 1.0)
    connect, calls = queries.connect, []

    def replace() -> None:
        compact(lake, "tests", least=2)
        for path in verify(lake).leftovers:
            lake.files.delete(path)

    def late(*given: Any, **named: Any) -> Any:
        calls.append(named["runs"])
        if len(calls) == 1:
            replace()
        return connect(*given, **named)

    monkeypatch.setattr(queries, "connect", late)
    with open_source(lake, "tests") as source:
        target = source.need_target()
        assert not target.files[0].shared
        if asked == "by rows":
            replace()
            assert len(source.rows(target, "signals", ["sample_id"])) == 8
        else:
            assert source.sql("select count(*) as n from signals").item() == 24
            assert len(calls) == 2
        assert source.need_target().files[0].shared
