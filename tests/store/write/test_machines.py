"""Several machines, kills and clocks that jump: what was committed is whole, and nobody is kept out for longer than is said."""

from __future__ import annotations

import os
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from losslake.store.errors import LosslakeError
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.read import catalogue
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.forget import forget
from losslake.store.upkeep.gc import collect_garbage
from losslake.store.upkeep.verify import verify
from losslake.store.write import index, leases
from losslake.store.write.run_writer import RunWriter
from machines import Disk, Process

N = 6
HOUR = 3600.0
HOSTS = {"a": 0.0, "b": HOUR, "c": -HOUR}
"""Machines, and by how many seconds their clocks differ from the disk's."""


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


class Machines(RuleBasedStateMachine):
    """Writers, collections, compactions and forgettings on three machines, with kills and other machines' work in between."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.disk = Disk(Path(self._folder.name) / "lake")
        self.writing: list[tuple[Process, str, RunWriter]] = []
        self.committed: set[str] = set()
        self.doubtful: set[str] = set()
        self.forgotten: set[int] = set()
        self.number = 0

    @initialize()
    def make(self) -> None:
        self.disk.process("a").act(make)

    def _on(self, host: str) -> Process:
        return self.disk.process(host, HOSTS[host])

    @rule(
        what=st.sampled_from(
            ["begin", "begin", "commit", "commit", "gc", "forget", "compact", "kill", "time"]
        ),
        host=st.sampled_from([*HOSTS]),
        which=st.integers(0, 3),
        at=st.none() | st.integers(0, 60),
        other=st.sampled_from(["killed", "gc", "forget", "compact", "time"]),
    )
    def step(self, what: str, host: str, which: int, at: int | None, other: str) -> None:
        """One rule, so that each kind of step is as likely after every other."""
        if what == "begin":
            self.begin("c" if host == "c" else "a")
        elif what == "commit":
            self.commit(which, at, other)
        elif what == "kill":
            self.kill(which)
        elif what == "time":
            self.disk.pass_time([1.0, 600.0, HOUR, 30 * HOUR][which])
        else:
            self.upkeep("a" if host == "a" else "b", what, at if other == "killed" else None)

    def begin(self, host: str) -> None:
        process, run = self._on(host), f"r{self.number}"
        self.number += 1
        self.writing.append((process, run, process.act(lambda lake: begin(lake, run))))

    def commit(self, which: int, at: int | None, other: str) -> None:
        """As it goes, killed at a step, or with another machine's work before a step."""
        if not self.writing:
            return
        process, run, writer = self.writing.pop(which % len(self.writing))
        process.left.append(writer)
        then = None if other == "killed" else lambda: self._between(other)
        try:
            process.act(lambda _: commit(writer), at=at, then=then)
        except LosslakeError:
            process.end()
            return  # it said so, and the run is not there
        if process.alive:
            self.committed.add(run)
            process.end()
        else:
            self.doubtful.add(run)

    def _between(self, what: str) -> None:
        if what == "time":
            self.disk.pass_time(2 * HOUR)
        else:
            self.upkeep("b", what, None)

    def kill(self, which: int) -> None:
        if self.writing:
            process, _, writer = self.writing.pop(which % len(self.writing))
            process.left.append(writer)
            process.alive = False

    def upkeep(self, host: str, what: str, at: int | None) -> None:
        process = self._on(host)
        act = {
            "gc": lambda lake: collect_garbage(lake, older_than=timedelta(0)),
            "forget": self._forget,
            "compact": lambda lake: compact(lake, "e", least=2),
        }[what]
        try:
            process.act(act, at=at)
        except LosslakeError as error:
            told = str(error)
            if "another process" not in told and "do it again" not in told:
                raise
        if process.alive:
            process.end()

    def _forget(self, lake: Lake) -> None:
        sample = len(self.forgotten) % N
        if len(lake.experiment("e").forgotten) < 3:
            forget(lake, "e", [sample])
            self.forgotten.add(sample)

    @invariant()
    def what_was_committed_is_whole(self) -> None:
        if not (self.disk.path / "experiments/e.json").exists():
            return
        lake = Lake.open(self.disk.path)
        gone = set(lake.experiment("e").forgotten)
        assert self.forgotten <= gone
        found = signals(self.disk)
        assert self.committed <= found.keys() <= self.committed | self.doubtful
        finished = all(each.finished for each in lake.experiment("e").forgettings)
        for run, ids in found.items():
            assert set(range(N)) - gone <= set(ids)
            if finished and run in self.committed:
                assert gone.isdisjoint(ids)
        assert verify(lake).damage == ()

    def teardown(self) -> None:
        if (self.disk.path / "experiments/e.json").exists():
            self.disk.pass_time(30 * HOUR)  # nobody that was killed has a claim by then
            process = self._on("a")
            if Lake.open(self.disk.path).experiment("e").forgettings:
                process.act(lambda lake: forget(lake, "e"))
            lake = Lake.open(self.disk.path)
            for ids in signals(self.disk).values():
                assert set(ids) == set(range(N)) - set(lake.experiment("e").forgotten)
            assert verify(lake).damage == ()
            assert verify(lake).remembered == ()
        self._folder.cleanup()


def test_machines_and_kills_and_clocks_lose_nothing() -> None:
    run_state_machine_as_test(
        Machines,
        settings=settings(
            max_examples=12, stateful_step_count=8, deadline=None, suppress_health_check=[*HealthCheck]
        ),
    )


def test_nor_do_they_with_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (catalogue, index):
        monkeypatch.setattr(module, "LEAST", 1)
    monkeypatch.setattr(index, "SETTLED", -0.1)
    monkeypatch.setattr(index, "_AGAIN", 0.0)
    indexed: list[int] = []
    real = index.write_index

    def write_index(*given: Any, **named: Any) -> int:
        indexed.append(real(*given, **named))
        return indexed[-1]

    monkeypatch.setattr(index, "write_index", write_index)
    run_state_machine_as_test(
        Machines,
        settings=settings(
            max_examples=8, stateful_step_count=10, deadline=None, suppress_health_check=[*HealthCheck]
        ),
    )
    assert sum(indexed) > 0
