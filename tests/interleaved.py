"""Processes of several machines in one, stopped and gone on with between any two calls of the operating system.

Each does its work in a thread of its own, and one of them runs at a time, for as many calls as it is given: so any interleaving
can be had, and had again. A process has a machine with a clock, and a memory of its own tokens, leases and claims. It can be
killed, when it does nothing more at all, and a machine can sleep, when its processes do nothing and renew no lease.

The seam is what losslake asks of the system: `os` as the lake's files on a disk see it, the time, who a process is and whether
another one runs. Files are dated by the disk's clock, as on a file server; `World.pass_time` lets time go by there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from losslake.store.delta import log, publish
from losslake.store.files import faults, local, stable, tokens
from losslake.store.format import manifest
from losslake.store.lake import Lake
from losslake.store.read import changes
from losslake.store.upkeep import forget, gc
from losslake.store.write import index, leases
from power import Drive

_STEPS = ("link", "symlink", "replace", "unlink", "mkdir", "rmdir", "scandir", "stat", "lstat")
"""Calls before which a process may be stopped, with opening, writing and syncing a file."""

_NAP = 30.0
"""Seconds that a process waits at least where it waits: it tries again less often than it would."""


_PIDS = itertools.count(100)


class Killed(BaseException):
    """The process is no more."""


class _All(set[Any]):
    """So that no thread is started to renew a lease: `World.pass_time` does it."""

    def __contains__(self, _: object) -> bool:
        return True


class World:
    """A lake's folder that machines share, their clocks (seconds ahead of the disk's), and all processes that there were."""

    def __init__(self, path: Path, clocks: dict[str, float], drive: Drive | None = None) -> None:
        self.path, self.clocks, self.drive = path, dict(clocks), drive
        self.processes: list[Process] = []
        self.elapsed = 0.0
        self.events = itertools.count()
        self.main = threading.Semaphore(0)
        self.running: Process | None = None
        self._made_at: dict[tuple[int, int], float] = {}
        self._held = contextlib.ExitStack()
        clock, seen = _Time(self), _Os(self)
        for module in (leases, index, forget, gc, local, changes, log, publish):
            self._held.enter_context(patch.object(module, "time", clock))
        for module in (local, faults, stable):
            self._held.enter_context(patch.object(module, "os", seen))
        self._held.enter_context(patch.object(stable, "AT_ONCE", 1))  # a process is one thread
        self._held.enter_context(patch.object(local, "_SETTLED", 0))  # else the real time decides how often
        self._held.enter_context(patch.object(local, "NewFile", _new_file(self)))
        self._held.enter_context(patch.object(manifest, "now", self._now))
        self._held.enter_context(patch.object(leases, "host_identity", self._host))
        self._held.enter_context(patch.object(leases, "runs", self._runs))
        self._held.enter_context(patch.object(leases, "_whereabouts", self._whereabouts))

    def start(self, host: str, what: Callable[[Lake], Any]) -> Process:
        """A new process on a machine, which has done nothing yet of what it is to do with the lake."""
        made = Process(self, host, next(_PIDS), what)
        self.processes.append(made)
        return made

    def pass_time(self, seconds: float, asleep: frozenset[str] = frozenset()) -> None:
        """Let time go by, also for the disk's clock, and processes renew their leases, but for those on machines that sleep."""
        for path in (self.path, *self.path.rglob("*")):
            seen = path.lstat()  # the link to a file that has gone is there still
            self._made_at.setdefault((seen.st_ino, seen.st_mtime_ns), self.elapsed)
        self.elapsed += seconds
        for process in self.processes:
            if process.host in asleep:
                process.slept = True
            elif process.at_work:
                process.renew()

    def dated(self, seen: os.stat_result) -> os.stat_result:
        """What the system says of a file, with the time at which it was made by the disk's clock."""
        ahead = int(self._made_at.get((seen.st_ino, seen.st_mtime_ns), self.elapsed) * 1e9)
        times = {name: getattr(seen, f"st_{name}_ns") + ahead for name in ("atime", "mtime", "ctime")}
        named = {f"st_{name}_ns": value for name, value in times.items()}
        return os.stat_result(tuple(seen), named | {f"st_{name}": v / 1e9 for name, v in times.items()})

    def step(self, name: str) -> None:
        """Before each call of whoever acts."""
        if self.acting is not None:
            self.acting.step(name)

    @property
    def acting(self) -> Process | None:
        """The process whose call this is; None where it is another thread's, such as one that renews the leases of another test's lake."""
        running = self.running
        return running if running is not None and running.is_here() else None

    def end(self) -> None:
        """Kill what is at work and put back what the system was."""
        for process in self.processes:
            process.kill()
        self._held.close()

    def _now(self) -> str:
        acting = self.acting
        ahead = self.clocks[acting.host] if acting else 0.0
        return (datetime.now(UTC) + timedelta(seconds=self.elapsed + ahead)).isoformat(
            timespec="milliseconds"
        )

    def _host(self) -> str:
        acting = self.acting
        return acting.host if acting else "nowhere"

    def _whereabouts(self) -> dict[str, Any]:
        acting = self.acting
        return {"host": self._host(), "pid": acting.pid if acting else 1, "started": 1}

    def _runs(self, pid: int, started: object) -> bool:
        return any(p.at_work and p.host == self._host() and p.pid == pid for p in self.processes)


class Process:
    """One process on one machine.

    Once it has ended, ``answer`` is what its work returned and ``error`` what it raised. ``began`` and ``ended`` are the numbers of
    the world's events; ``slept`` says that its machine did meanwhile, ``killed`` that it was.
    """

    def __init__(self, world: World, host: str, pid: int, what: Callable[[Lake], Any]) -> None:
        self.world, self.host, self.pid = world, host, pid
        self.began, self.ended = next(world.events), -1
        self.killed = self.slept = False
        self.answer: Any = None
        self.error: BaseException | None = None
        self.waited = 0.0
        self.calls: list[str] = []
        self._what = what
        self._left = 0
        self._turn = threading.Semaphore(0)
        self._memory: dict[str, Any] = {"_processes": {}, "_renewed": _All(), "_held": set(), "_ended": set()}
        self._memory["_looked"] = {}
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @property
    def at_work(self) -> bool:
        return self.ended < 0

    def go_on(self, calls: int = 1_000_000) -> None:
        """Let it do so many more calls, or all that it does; nothing happens where it has ended."""
        if self.at_work:
            self._left = calls
            self._resume()

    def kill(self) -> None:
        """End it where it is; nothing happens where it has ended."""
        if self.at_work:
            self.killed = True
            self.ended = next(self.world.events)
            self._resume()
            self._thread.join()

    def step(self, name: str) -> None:
        """Before each call."""
        if self.killed:
            raise Killed
        self.calls.append(name)
        if self._left == 0:
            self.world.main.release()
            self._turn.acquire()
            if self.killed:
                raise Killed
        self._left -= 1

    def is_here(self) -> bool:
        """Whether the thread that asks is this process."""
        return threading.current_thread() is self._thread

    def renew(self) -> None:
        """What the thread that renews the lease does."""
        token = self._memory["_processes"].get(str(self.world.path.resolve()))
        if token is not None:
            path = self.world.path / "writers" / f"{token[0]}.json"
            if path.exists():
                os.utime(path)

    def _work(self) -> None:
        self._turn.acquire()
        try:
            if not self.killed:
                lake = Lake.open(self.world.path, create=True)
                self.answer = self._what(lake)
                self._leave(lake)
        except Killed:
            pass
        except BaseException as error:
            self.error = error
            with contextlib.suppress(Killed):
                self._leave(Lake.open(self.world.path))
        if not self.killed:
            self.ended = next(self.world.events)
        self.world.main.release()

    def _leave(self, lake: Lake) -> None:
        """What a process does at its end: the lease goes, and claims that could not be removed before."""
        leases.remove_ended(lake.files)
        token = tokens._processes.get(lake.files.root)
        if token is not None:
            lake.files.delete(f"writers/{token[0]}.json")

    def _resume(self) -> None:
        before = _exchange(self._memory)
        self.world.running = self
        self._turn.release()
        self.world.main.acquire()
        self.world.running = None
        self._memory = _exchange(before)


_MEMORY = {
    "_processes": tokens,
    "_renewed": leases,
    "_held": leases,
    "_ended": leases,
    "_looked": index,
}


def _exchange(memory: dict[str, Any]) -> dict[str, Any]:
    before = {name: getattr(module, name) for name, module in _MEMORY.items()}
    for name, module in _MEMORY.items():
        setattr(module, name, memory[name])
    return before


class _Time:
    """The module time, as a process sees it: its machine's clock, and waiting that takes no time of the tests'."""

    CLOCK_BOOTTIME = 0

    def __init__(self, world: World) -> None:
        self._world = world

    def time(self) -> float:
        running = self._world.acting
        return time.time() + self._world.elapsed + (self._world.clocks[running.host] if running else 0.0)

    def time_ns(self) -> int:
        return int(self.time() * 1e9)

    def monotonic(self) -> float:
        running = self._world.acting
        return time.monotonic() + self._world.elapsed + (running.waited if running else 0.0)

    def clock_gettime(self, _: int) -> float:
        return self.monotonic()

    def sleep(self, seconds: float) -> None:
        acting = self._world.acting
        if acting is not None:
            acting.step("sleep")
            acting.waited += max(seconds, _NAP)
        elif threading.current_thread() is not threading.main_thread():
            time.sleep(seconds)


class _Os:
    """The module os, as the lake's files see it."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in _STEPS:
            return real
        if name in ("stat", "lstat"):
            look = real

            def real(*given: Any, **named: Any) -> Any:
                return self._world.dated(look(*given, **named))

        def call(*given: Any, **named: Any) -> Any:
            self._world.step(name)
            answer = real(*given, **named)
            if self._world.drive is not None and self._world.acting is not None:
                self._world.drive.called(name, given)
            return answer

        return call

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        if not os.path.isdir(path):
            self._world.step("open")
        handle = os.open(path, flags, mode)
        if self._world.drive is not None and self._world.acting is not None:
            self._world.drive.opened(path, handle, bool(flags & os.O_CREAT))
        return handle

    def fsync(self, handle: int) -> None:
        """Nothing waits for a disk."""
        self._world.step("fsync")
        if self._world.drive is not None and self._world.acting is not None:
            self._world.drive.fsync(handle)


def _new_file(world: World) -> type[faults.NewFile]:
    class NewFile(faults.NewFile):
        """What a killed process had not written yet is never written, whoever closes the file."""

        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self._writer = world.acting

        def write(self, data: Any) -> int:
            if self._writer is not None:
                if self._writer.killed:
                    return len(data)
                if world.acting is self._writer:
                    self._writer.step("write")
            return super().write(data)

    return NewFile
