"""Several machines, kills and clocks that differ: what was committed is whole, and nobody is kept out for longer than is said.

`test_protocol` has any interleaving of theirs.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from losslake.store.errors import LosslakeError
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.upkeep.forget import forget
from losslake.store.upkeep.gc import collect_garbage
from losslake.store.upkeep.verify import verify
from losslake.store.write import leases
from losslake.store.write.run_writer import RunWriter
from machines import Disk

N = 6
HOUR = 3600.0


def make(lake: Lake) -> None:
    lake.create_experiment("e", pa.table({"label": [0] * N}))


def begin(lake: Lake, run: str) -> RunWriter:
    ids = np.arange(N)
    members = ids % 2 == 0
    members[list(lake.experiment("e").forgotten)] = False
    writer = lake.write_run("e", run, members=members)
    writer.append_epoch("eval", 0, ids, loss=ids + 0.5)
    writer.append_signals(ids, ids * 0, None, loss=ids + 0.25, phi=ids * 1.0)
    return writer


def commit(writer: RunWriter) -> None:
    writer.commit(RunInfo(role="shadow"))


@pytest.fixture(autouse=True)
def no_power_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """So nothing has to be on stable storage: these are about who sees what, not about what outlasts a failure."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    made = Disk(tmp_path / "lake")
    made.process("a").act(make)
    return made


def signals(disk: Disk) -> dict[str, list[int]]:
    lake = Lake.open(disk.path)
    rows = lake.sql(
        "select run, list(sample_id order by sample_id) as ids from signals group by run order by run"
    )
    return {row["run"]: row["ids"] for row in rows.to_dicts()}


@pytest.mark.parametrize("clock", [-HOUR, 0.0, HOUR])
def test_a_collection_on_another_machine_spares_a_writer_that_is_silent(disk: Disk, clock: float) -> None:
    """It trains for three days and writes nothing; its lease is renewed all the while."""
    writer, collector = disk.process("a"), disk.process("b", clock)
    open_ = writer.act(lambda lake: begin(lake, "r"))
    disk.pass_time(72 * HOUR)
    collector.act(lambda lake: collect_garbage(lake, older_than=timedelta(hours=1)))
    writer.act(lambda _: commit(open_))
    assert signals(disk) == {"r": [*range(N)]}


def test_what_a_killed_writer_of_another_machine_left_is_collected_once_it_is_silent(disk: Disk) -> None:
    writer, collector = disk.process("a"), disk.process("b")
    writer.left.append(writer.act(lambda lake: begin(lake, "r")))
    writer.alive = False
    loose = [path for path in disk.path.rglob("*.parquet") if "/signals/" in str(path)]
    assert len(loose) == 1

    def collect(lake: Lake) -> Any:
        return collect_garbage(lake, older_than=timedelta(0))

    collector.act(collect)
    assert loose[0].exists()
    disk.pass_time(leases.SILENT.total_seconds() + 1)
    collector.act(collect)
    assert not loose[0].exists()


@pytest.mark.parametrize("clock", [-HOUR, 0.0, HOUR])
def test_of_two_machines_one_has_a_claim(disk: Disk, clock: float) -> None:
    one, two = disk.process("a"), disk.process("b", clock)
    told: list[str] = []

    def try_too(lake: Lake) -> None:
        try:
            with leases.claim(lake.files, "experiment=e"):
                told.append("has it")
        except LosslakeError:
            told.append("is kept out")

    def hold(lake: Lake) -> None:
        with leases.claim(lake.files, "experiment=e"), one._away():
            two.act(try_too)
            disk.pass_time(10 * HOUR)  # its lease is renewed, and its claim is not
            two.act(try_too)

    one.act(hold)
    assert told == ["is kept out", "is kept out"]
    two.act(try_too)
    assert told[-1] == "has it"


@pytest.mark.parametrize(("host", "wait"), [("a", 0.0), ("b", leases.STALE.total_seconds() + 1)])
def test_a_claim_of_a_killed_process_keeps_others_out_no_longer_than_is_said(
    disk: Disk, host: str, wait: float
) -> None:
    """Its own machine knows at once, another one when it has heard nothing for an hour."""
    killed, other = disk.process("a"), disk.process(host)

    def claim(lake: Lake) -> None:
        with leases.claim(lake.files, "experiment=e"):
            killed.alive = False
            lake.files.exists("lake.json")
            lake.files.list("runs")

    killed.act(claim)
    assert list((disk.path / "claims").rglob("*.json"))
    if wait:
        with pytest.raises(LosslakeError, match="another process"):
            other.act(lambda lake: forget(lake, "e", [1]))
        disk.pass_time(wait)
    assert other.act(lambda lake: forget(lake, "e", [1])).samples == (1,)


@pytest.mark.parametrize("what", ["forget", "gc"])
def test_another_machine_s_work_before_any_step_of_a_commit_does_no_harm(tmp_path: Path, what: str) -> None:
    for step in range(100):
        disk = Disk(tmp_path / f"lake{step}")
        disk.process("a").act(make)
        writer, other = disk.process("a"), disk.process("b")
        open_ = writer.act(lambda lake: begin(lake, "r"))
        done: list[int] = []

        def then() -> None:
            if what == "forget":
                other.act(lambda lake: forget(lake, "e", [1]))  # noqa: B023
            else:
                disk.pass_time(30 * HOUR)  # noqa: B023
                other.act(lambda lake: collect_garbage(lake, older_than=timedelta(0)))  # noqa: B023
            done.append(1)  # noqa: B023

        writer.act(lambda _: commit(open_), at=step, then=then)  # noqa: B023
        if not done:
            break
        lake = Lake.open(disk.path)
        if what == "forget":
            other.act(lambda lake: forget(lake, "e"))
        assert signals(disk) == {"r": [0, 2, 3, 4, 5] if what == "forget" else [*range(N)]}, step
        assert verify(lake).damage == (), step
        assert verify(lake).remembered == (), step
    assert 10 < step < 99
