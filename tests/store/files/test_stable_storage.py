"""What is on stable storage when a commit is reported: every file that a manifest lists, and the way to it from the lake."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from losslake.store.files import local
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.forget import forget
from losslake.store.write.results import save_result

N = 6
IDS = np.arange(N)


class Stopped(BaseException):
    """Stands for a kill."""


class Disk:
    """A record of which names in a folder are not on stable storage, kept while the program calls the system.

    What threads do elsewhere, as those that renew leases of other lakes, is none of it.
    """

    def __init__(self, patch: pytest.MonkeyPatch, root: Path) -> None:
        self.root = str(root.resolve())
        self.loose: set[str] = set()
        self.syncs = 0
        self.stop_at = -1
        self._folders: dict[int, str] = {}
        self._really: dict[str, Callable[..., Any]] = {
            name: getattr(os, name) for name in ("open", "mkdir", "link", "replace", "fsync")
        }
        for name in self._really:
            patch.setattr(os, name, getattr(self, name))

    def open(self, path: Any, flags: int, *more: Any, **named: Any) -> int:
        new = flags & os.O_CREAT and not os.path.exists(path)
        handle = int(self._really["open"](path, flags, *more, **named))
        self._folders[handle] = str(path)
        if new:
            self._changed(path)
        return handle

    def mkdir(self, path: Any, *more: Any, **named: Any) -> None:
        self._really["mkdir"](path, *more, **named)
        self._changed(path)

    def link(self, source: Any, target: Any, **named: Any) -> None:
        self._really["link"](source, target, **named)
        self._changed(target)

    def replace(self, source: Any, target: Any, **named: Any) -> None:
        self._really["replace"](source, target, **named)
        self._changed(target)

    def _changed(self, path: Any) -> None:
        if str(path).startswith(self.root):
            self.loose.add(str(path))

    def fsync(self, handle: int) -> None:
        folder = self._folders.get(handle, "")
        if not folder.startswith(self.root):
            self._really["fsync"](handle)
            return
        self.syncs += 1
        if self.syncs == self.stop_at:
            raise Stopped
        self._really["fsync"](handle)
        self.loose = {path for path in self.loose if os.path.dirname(path) != folder}


def write_run(path: Path) -> None:
    lake = Lake.open(path, create=True)
    lake.create_experiment("e", pa.table({"label": [0] * N}))
    for name in ("r", "s"):
        if lake.has_run("e", name):
            continue
        with lake.write_run("e", name, members=IDS < 3) as writer:
            writer.append_signals(IDS, IDS * 0, None, loss=IDS / 2, phi=IDS / 2)
            writer.append_epoch("eval", 0, IDS, loss=IDS / 2)
            writer.commit(RunInfo(role="shadow"))


def keep_and_compact(path: Path) -> None:
    write_run(path)
    lake = Lake.open(path)
    scores = pa.table({"sample_id": IDS, "member": IDS < 3, "score": IDS / 2})
    save_result(lake, "e", "loss", "r", "", options={}, notes=[], metrics=[], scores=scores)
    compact(lake, "e", least=2)
    forget(lake, "e", [1])


def listed(path: Path) -> set[str]:
    """The files that a power failure must not take, with the folders on the way to each and the lake's own."""
    found = {path}
    for file in (*path.glob("*/**/*.json"), path / "lake.json", *path.glob("*/**/*.parquet")):
        if file.is_file() and file.relative_to(path).parts[0] not in ("writers", "claims"):
            found |= {file, *file.parents[: len(file.relative_to(path).parts)]}
    return set(map(str, found))


@pytest.mark.parametrize("act", [write_run, keep_and_compact])
def test_the_whole_way_to_what_is_committed_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None]
) -> None:
    disk = Disk(monkeypatch, tmp_path)
    act(tmp_path / "lake")
    assert listed(tmp_path / "lake") & disk.loose == set()
    assert len(listed(tmp_path / "lake")) > 12


def test_also_where_another_process_was_killed_before_it_synced_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first writer is stopped at each of its syncs in turn; then the next one commits what is not there."""
    monkeypatch.setattr(local, "_SETTLED", 1 << 62)  # else the time that it takes decides how often is synced
    disk = Disk(monkeypatch, tmp_path)
    write_run(tmp_path / "whole")
    left = 0
    for stop in range(1, disk.syncs + 1):
        path = tmp_path / f"lake-{stop}"
        disk.syncs, disk.stop_at = 0, stop
        with pytest.raises(Stopped):
            write_run(path)
        disk.stop_at = -1
        left += any(os.path.isdir(each) for each in disk.loose if each.startswith(str(path)))
        there = len(list(path.glob("runs/*/*.json")))
        if there < 2:
            write_run(path)
            assert listed(path) & disk.loose == set(), stop
    assert left > 3
