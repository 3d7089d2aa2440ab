"""What a lake must show while processes of several machines write, look after and forget in it, whatever happens to them.

`Protocol` takes steps one after the other, which a test draws: a process begins some work, goes on for so many calls of the system,
is killed; time passes, a machine sleeps meanwhile, a clock jumps. After each step what the lake shows is held to what the
processes were told. Every writer has a mark, which all its rows have.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
from acts import Broken, N, analyze, read, rows_of, samples, samples_in_files, write
from interleaved import Process, World
from losslake.store.errors import ForgottenMeanwhile, LosslakeError
from losslake.store.format.manifest import DataFile
from losslake.store.format.records import Run
from losslake.store.lake import Lake
from losslake.store.read import catalogue
from losslake.store.read.catalogue import fingerprint, results
from losslake.store.upkeep import compact as compaction
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.forget import forget
from losslake.store.upkeep.gc import collect_garbage
from losslake.store.upkeep.remove import remove
from losslake.store.upkeep.verify import verify
from losslake.store.write import index
from losslake.store.write.leases import STALE
from trained import check_checkpoints, train

HOUR = 3600.0
CLOCKS = {"a": 0.0, "b": HOUR, "c": -HOUR}
RUNS = ("r0", "r1", "r2", "r3")
KINDS = ("write", "write", "write", "analyze", "forget", "compact", "gc", "remove", "verify", "read", "train")

_INDEXED = (
    (catalogue, "LEAST", 1),
    (index, "LEAST", 1),
    (index, "SETTLED", -0.1),
    (index, "_AGAIN", 0.0),
    (compaction, "LEAST", 2),
)

REFUSED = {
    "write": "is in the lake already|is not committed|is committed, and holds rows|others remove it again|was forgotten, and no run may train",
    "train": "is in the lake already|is not committed|is committed, and holds rows|others remove it again|was forgotten, and no run may train|"
    "was committed by another process",
    "analyze": "forgotten while|is not kept|there is no run",
    "forget": "another process|do it again|was lost",
    "compact": "another process|do it again|was lost",
    "remove": "another process|is being written|there is no run|was lost",
    "gc": "$never",
    "verify": "$never",
    "read": "$never",
}
"""What a process may be told instead of an answer."""


@dataclass
class Work:
    """A process and what it does: of ``kind`` with the run or the sample ``what``; ``mark`` is a writer's."""

    kind: str
    what: str
    mark: int
    process: Process

    @property
    def done(self) -> bool:
        """Whether it was told that it is done."""
        return not self.process.at_work and not self.process.killed and self.process.error is None

    @property
    def refused(self) -> bool:
        return self.process.error is not None

    @property
    def end(self) -> float:
        """The event at which it ended; of one that is at work or was killed there is none."""
        return self.process.ended if self.done or self.refused else float("inf")

    def __str__(self) -> str:
        p = self.process
        state = "at work" if p.at_work else "killed" if p.killed else repr(p.error) if p.error else "done"
        return f"{self.kind} {self.what} ({self.mark}, host {p.host}, {len(p.calls)} calls, {p.began}-{p.ended}, {state})"


class Protocol:
    """One lake, and all that was done in it. ``indexed``: it has an index of few runs already, and nobody waits with it."""

    refused = REFUSED
    asleep = "missing|was lost|is not kept"
    """What a process may be told besides whose machine slept."""

    def __init__(self, *, indexed: bool = False) -> None:
        self._set = contextlib.ExitStack()
        for module, name, value in _INDEXED if indexed else ():
            self._set.enter_context(patch.object(module, name, value))
        self._folder = tempfile.TemporaryDirectory(dir=_fast())
        self.world = World(Path(self._folder.name) / "lake", CLOCKS)
        self.path = self.world.path
        self.work: list[Work] = []
        self.log: list[str] = []
        self.steps = 0
        self._known: dict[DataFile, pa.Table] = {}
        self.checkpointed: dict[int, list[int]] = {}
        """Of each training by its mark the epochs after which it was told that there is a checkpoint."""
        made = self.world.start("a", lambda lake: lake.create_experiment("e", samples()))
        made.go_on()
        if made.error:
            raise made.error

    # --- steps --------------------------------------------------------------------------------------------

    def start(self, kind: str, host: str, which: int, calls: int) -> None:
        """A process on ``host`` begins work and does so many calls of it."""
        mark = len(self.work) + 1
        what, act = self._act(kind, which, mark)
        made = Work(kind, what, mark, self.world.start(host, act))
        self.work.append(made)
        made.process.go_on(calls)
        self._step(f"start {made}")

    def _act(self, kind: str, which: int, mark: int) -> tuple[str, Callable[[Lake], Any]]:
        """The run or the sample that work is about, and the work."""
        run, sample = RUNS[which % len(RUNS)], which % (N - 1)
        match kind:
            case "write":
                return run, lambda lake: write(lake, run, mark)
            case "train":
                told = self.checkpointed[mark] = []
                return run, lambda lake: train(lake, run, mark, told)
            case "remove":
                return run, lambda lake: remove(lake, "e", [run])
            case "forget":
                return str(sample), lambda lake: forget(lake, "e", [sample])
            case "compact":
                return "", lambda lake: compact(lake, "e", least=2)
            case "gc":
                return "", lambda lake: collect_garbage(lake, older_than=timedelta(0))
            case "verify":
                return "", verify
            case "analyze":
                return "", analyze
            case _:
                return "", read

    def go_on(self, which: int, calls: int) -> None:
        """One that is at work does so many calls more."""
        if work := self._chosen(which):
            work.process.go_on(calls)
            self._step(f"go on {work}")

    def kill(self, which: int) -> None:
        """One that is at work is killed."""
        if work := self._chosen(which):
            work.process.kill()
            self._step(f"kill {work}")

    def time(self, seconds: float, asleep: str = "") -> None:
        """Time passes, and a machine sleeps meanwhile."""
        self.world.pass_time(seconds, frozenset(asleep))
        self._step(f"{seconds:g} s pass, {asleep or 'nobody'} sleeps")

    def jump(self, host: str, seconds: float) -> None:
        """A clock is put forward or back."""
        self.world.clocks[host] += seconds
        self._step(f"the clock of {host} jumps by {seconds:g} s")

    def _chosen(self, which: int) -> Work | None:
        there = [work for work in self.work if work.process.at_work]
        return there[which % len(there)] if there else None

    def _step(self, said: str) -> None:
        self.steps += 1
        self.log.append(said)
        self.check()

    # --- what must hold -----------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises Broken."""
        try:
            self._check_answers()
            shown = self._check_runs()
            self._check_results(shown)
            check_checkpoints(self, RUNS)
            self._check_more(shown)
            found = verify(Lake.open(self.path))
            if damage := [each for each in found.damage if not self._may_be_told(each)]:
                raise Broken(f"damage: {damage}")
        except (Broken, LosslakeError) as error:
            raise Broken(f"{error!r} after\n  {self._told()}") from error

    def _check_answers(self) -> None:
        for work in self.work:
            error = work.process.error
            if error is not None:
                expected = self.refused[work.kind] + (f"|{self.asleep}" if work.process.slept else "")
                if not isinstance(error, LosslakeError) or not re.search(expected, str(error)):
                    raise Broken(f"{work} was told {error!r}") from error
                if isinstance(error, ForgottenMeanwhile) and not self._of("forget"):
                    raise Broken(f"{work}: nobody has forgotten anything")
                if "missing or not whole" in str(error) and not work.process.slept:
                    raise Broken(f"{work}: {error}: files of one at work were removed")
            elif work.done and work.kind == "verify" and work.process.answer.damage:
                raise Broken(f"{work} found {work.process.answer.damage}")
            elif work.done and work.kind == "compact" and work.process.answer.left_out:
                raise Broken(f"{work} left out {work.process.answer.left_out}")

    def _rows(self, run: Run, table: str) -> pa.Table:
        """No listed file changes, which `verify` sees to: each is read once."""
        found = [file for file in run.files if file.table == table]
        for file in found:
            if file not in self._known:
                self._known[file] = Lake.open(self.path).read_file(file)
        return pa.concat_tables([self._known[file] for file in found])

    def _check_runs(self) -> dict[str, tuple[int, dict[str, list[int]]]]:
        shown = rows_of(Lake.open(self.path), self._rows)
        gone = {int(each.what) for each in self._of("forget") if each.done}
        begun = {int(each.what) for each in self._of("forget")}
        writers = {each.mark: each for each in self._of("write", "train")}
        for run, (mark, tables) in shown.items():
            writer = writers[mark]
            if writer.what != run or (writer.refused and "is committed" not in str(writer.process.error)):
                raise Broken(f"{run} is there, of {writer}")
            for table, ids in tables.items():
                if len(set(ids)) != len(ids) or not set(range(N)) - begun <= set(ids):
                    raise Broken(f"{run} has {table} of {ids}")
                if writer.done and not gone.isdisjoint(ids):
                    raise Broken(f"{run} of {writer} has {table} of {ids}, forgotten are {gone}")
            for removal in self._of("remove"):
                if removal.done and removal.what == run and writer.end < removal.process.began:
                    raise Broken(f"{run} of {writer} is there after {removal}")
        for writer in writers.values():
            mark = shown.get(writer.what, (0, {}))[0]
            removed = any(
                each.what == writer.what and each.end > writer.process.began
                for each in self._of("remove")
                if not each.refused or "was lost" in str(each.process.error)
            )
            if writer.done and mark != writer.mark and not removed:
                raise Broken(f"{writer} is not there, but {mark or 'nothing'}")
        return shown

    def _check_results(self, shown: dict[str, tuple[int, dict[str, list[int]]]]) -> None:
        lake = Lake.open(self.path)
        gone = {int(each.what): each for each in self._of("forget") if each.done}
        working = [each for each in self._of("analyze") if not each.done and not each.refused]
        for result in results(lake, "e"):
            said = {str(metric["metric"]): int(metric["value"]) for metric in result.metrics}
            with_gone = [i for i in gone if said["bits"] >> i & 1 or i not in result.forgotten]
            if with_gone and not working:
                raise Broken(f"a result was computed with {with_gone}, which are forgotten")
            if result.fingerprint == fingerprint(lake, "e"):
                total = sum(mark for mark, _ in shown.values())
                if said["total"] != total:
                    raise Broken(f"a fresh result says {said['total']}, it is {total}")

    def _may_be_told(self, damage: str) -> bool:
        """Whether `verify` may say so at this moment."""
        return False

    def _check_more(self, shown: dict[str, tuple[int, dict[str, list[int]]]]) -> None:
        """What else must hold, of which a test knows."""

    def _told(self) -> str:
        return "\n  ".join([*self.log, "and so", *map(str, self.work)])

    def _of(self, *kinds: str) -> list[Work]:
        return [work for work in self.work if work.kind in kinds]

    # --- the end ------------------------------------------------------------------------------------------

    def end(self, *, kill: bool) -> None:
        """All end, or are killed; then nobody is kept out for longer than is said, and nothing is left. Raises Broken."""
        for _ in range(3):  # those that wait for others have their turn again
            for work in self.work:
                if kill:
                    work.process.kill()
                else:
                    work.process.go_on(20_000)
        self.log.append("all are killed" if kill else "all go on to their end")
        self.check()
        if any(work.process.at_work for work in self.work):
            raise Broken(f"it does not end: {[str(w) for w in self.work if w.process.at_work]}")
        self.time(STALE.total_seconds() + 1)
        if any(each.kind == "forget" for each in self.work if Lake.open(self.path).experiment("e").forgotten):
            self._now("b", lambda lake: forget(lake, "e"))
        self._now("c", lambda lake: compact(lake, "e", least=2))
        self.time(25 * HOUR)
        self._now("b", lambda lake: collect_garbage(lake, checkpoints=True))
        for told in self.checkpointed.values():
            told.clear()
        self.check()
        lake = Lake.open(self.path)
        found = verify(lake)
        if found.remembered or found.leftovers:
            raise Broken(f"left in the end: {found.remembered} {found.leftovers} after\n  " + self._told())
        gone = set(lake.experiment("e").forgotten)
        if wrong := {str(path): ids for path, ids in samples_in_files(self.path).items() if gone & ids}:
            raise Broken(f"files hold forgotten samples {gone}: {wrong} after\n  " + self._told())
        for run in RUNS:  # every name is free, or has a whole run
            if run not in rows_of(lake):
                self.start("write", "a", RUNS.index(run), 1_000_000)
                if not self.work[-1].done:
                    raise Broken(f"{self.work[-1]}: the name is locked")

    def _now(self, host: str, act: Callable[[Lake], Any]) -> None:
        made = self.world.start(host, act)
        made.go_on()
        if made.error or made.at_work:
            raise Broken(f"kept out: {made.error!r} after\n  " + self._told()) from made.error

    def close(self) -> None:
        """Kill what is at work and remove the lake."""
        self.world.end()
        self._set.close()
        with contextlib.suppress(OSError):
            self._folder.cleanup()


def _fast() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
