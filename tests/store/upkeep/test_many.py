"""What commands do for many experiments and many runs grows no faster than these: counted, not timed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from losslake.store.files.local import LocalFiles
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.export import export
from losslake.store.upkeep.forget import forget
from losslake.store.upkeep.gc import collect_garbage
from losslake.store.upkeep.remove import remove
from losslake.store.upkeep.runs import run_table
from losslake.store.upkeep.verify import verify

N = 8


class Work:
    """How often the files of the lakes in a folder are listed, read and synced; those of others may be, by threads of theirs."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.done: Counter[str] = Counter()
        self._inside = f"{folder.resolve()}/"
        for name in ("list", "read", "open_input"):
            patch.setattr(
                LocalFiles, name, self._counted(name, getattr(LocalFiles, name), lambda files: files.root)
            )
        patch.setattr(os, "fsync", self._counted("fsync", os.fsync, opened_as))

    def _counted(
        self, name: str, real: Callable[..., Any], where: Callable[[Any], str]
    ) -> Callable[..., Any]:
        def call(first: Any, *given: Any, **named: Any) -> Any:
            if where(first).startswith(
                self._inside
            ):  # else not even 0 is added, as that may undo what is counted beside it
                self.done[name] += 1
            return real(first, *given, **named)

        return call

    def of(self, act: Callable[[], object]) -> Counter[str]:
        self.done.clear()
        act()
        return Counter(self.done)


def opened_as(handle: int) -> str:
    """The path of an open file."""
    return os.path.realpath(f"/proc/self/fd/{handle}")


def add_experiment(lake: Lake, name: str, runs: int = 1) -> None:
    lake.create_experiment(name, pa.table({"label": [0] * N}))
    for r in range(runs):
        with lake.write_run(name, f"r{r}", members=np.arange(N) < 4) as writer:
            ids = np.arange(N)
            writer.append_signals(ids, ids * 0, None, loss=np.ones(N), phi=np.ones(N))
            writer.commit(RunInfo(role="shadow"))


def compact_all(lake: Lake) -> None:
    compact(lake, "e", least=2)


@pytest.mark.parametrize("act", [verify, lambda lake: collect_garbage(lake, dry_run=True)])
def test_twice_the_experiments_are_at_most_twice_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Lake], object]
) -> None:
    """With a forgotten sample in each."""
    lake = Lake.open(tmp_path / "lake", create=True)
    work = Work(monkeypatch, tmp_path)
    found = []
    for size in (6, 12, 24):
        for number in range(len(lake.experiments()), size):
            add_experiment(lake, f"e{number}")
            forget(lake, f"e{number}", [1])
        found.append(work.of(lambda: act(lake)))
    for name in found[0]:
        less, more = found[1][name] - found[0][name], found[2][name] - found[1][name]
        assert more <= 2 * less + 2, (name, found)


def test_forgetting_takes_the_same_for_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch, tmp_path)
    found = []
    for runs in (8, 16, 32):
        lake = Lake.open(tmp_path / f"lake{runs}", create=True)
        add_experiment(lake, "e", runs)
        found.append(work.of(lambda: forget(lake, "e", [1])))  # noqa: B023
    for name in found[0].keys() - {"fsync"}:
        less, more = found[1][name] - found[0][name], found[2][name] - found[1][name]
        assert more <= 2 * less + 4, (name, found)
    # A folder that has changed a moment ago is synced once more, so that how many are depends on the clock.
    each = max((found[at]["fsync"] - found[at - 1]["fsync"]) / runs for at, runs in ((1, 8), (2, 16)))
    assert each <= 9  # a copy, its folder, a manifest, its folder; and folders that changed in this moment


@pytest.mark.parametrize(
    "act",
    [
        run_table,
        compact_all,
        lambda lake: remove(lake, "e", ["r0"]),
        lambda lake: remove(lake, "e"),
        lambda lake: export(lake, Path(lake.path).parent / "out.duckdb", force=True),
    ],
)
def test_twice_the_runs_are_at_most_twice_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Lake], object]
) -> None:
    work = Work(monkeypatch, tmp_path)
    found = []
    for runs in (8, 16, 32):
        lake = Lake.open(tmp_path / f"lake{runs}", create=True)
        add_experiment(lake, "e", runs)
        found.append(work.of(lambda: act(lake)))  # noqa: B023
    for name in found[0].keys() - {"fsync"}:
        less, more = found[1][name] - found[0][name], found[2][name] - found[1][name]
        assert more <= 2 * less + 4, (name, found)


def test_forgetting_reads_no_file_that_it_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's rows are looked into once, and copied once."""
    lake = Lake.open(tmp_path / "lake", create=True)
    add_experiment(lake, "e", 8)
    opened: Counter[str] = Counter()
    real = LocalFiles.open_input

    def open_input(self: LocalFiles, path: str) -> Any:
        opened[path] += path.startswith("signals/")
        return real(self, path)

    monkeypatch.setattr(LocalFiles, "open_input", open_input)
    forget(lake, "e", [1])
    assert sum(opened.values()) == 2 * 8
    assert max(opened.values()) == 2


def test_a_commit_syncs_no_folder_that_has_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    add_experiment(lake, "e")
    synced: list[str] = []
    real_sync = os.fsync

    def sync(handle: int) -> None:
        synced.append(opened_as(handle))
        real_sync(handle)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr("losslake.store.files.local._SETTLED", -1)  # every change shows in the folder's time
    for name in ("d", "e"):
        synced.clear()
        lake.files.put(f"experiments/{name}.json", b"{}")
    assert lake.path not in synced
    assert f"{lake.path}/experiments" in synced
    (Path(lake.path) / "new").mkdir()
    synced.clear()
    lake.files.put("experiments/f.json", b"{}")
    assert lake.path in synced
