"""Processes of several machines in one: each with a host, a clock and tokens of its own, over one lake on a shared disk.

The seam is what losslake asks of the system: who it is (`leases.host_identity`), whether a process runs (`leases.runs`), what
time it is (`time.time`), and what it remembers of its own tokens, leases and claims. Files are dated by the disk's clock, as on a
file server; `Disk.pass_time` lets time go by there. A process that is killed does nothing more, not even tidy up.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from losslake.store.files import tokens
from losslake.store.files.local import LocalFiles
from losslake.store.lake import Lake
from losslake.store.write import leases

STEPS = (
    "put",
    "put_if_absent",
    "delete",
    "create",
    "list",
    "read",
    "settle",
    "sync",
    "exists",
    "size",
    "modified",
    "open_input",
)
"""Calls of the lake's files between which a process may be stopped, or another may act."""


def one_by_one(
    files: LocalFiles, contents: Mapping[str, bytes], *, before: Callable[[], object] | None = None
) -> None:
    """`LocalFiles.put_all` for what looks at each `put`: the same in more time."""
    for path, data in contents.items():
        files.put(path, data, before=before)


class Killed(BaseException):
    """The process is no more."""


class _All(set[Any]):
    """So that no thread is started to renew a lease: `Disk.pass_time` does it."""

    def __contains__(self, _: object) -> bool:
        return True


class Disk:
    """A lake's folder that machines share, and the processes that have been on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.processes: list[Process] = []
        self._pids = itertools.count(100)

    def process(self, host: str, clock: float = 0.0) -> Process:
        """A new process on a machine whose clock differs by so many seconds from the disk's."""
        made = Process(self, host, next(self._pids), clock)
        self.processes.append(made)
        return made

    def pass_time(self, seconds: float) -> None:
        """Let time go by: files grow older, and processes at work renew their leases, as their threads do."""
        for file in self.path.rglob("*"):
            if file.is_file():
                status = file.stat()
                os.utime(file, (status.st_atime - seconds, status.st_mtime - seconds))
        for process in self.processes:
            if process.alive:
                process.renew()


class Process:
    """One process on one machine. What it does goes through `act`."""

    def __init__(self, disk: Disk, host: str, pid: int, clock: float) -> None:
        self.disk, self.host, self.pid, self.clock = disk, host, pid, clock
        self.alive = True
        self.lake: Lake | None = None
        self.left: list[object] = []  # what it held when it was killed, and never let go in good order
        self._memory: dict[str, Any] = {"processes": {}, "renewed": _All(), "held": set(), "ended": set()}

    def act(
        self, what: Callable[[Lake], Any], *, at: int | None = None, then: Callable[[], object] | None = None
    ) -> Any:
        """Do something with the lake. At its step ``at`` of files, counted from 0, it is killed, or ``then`` goes on before the
        step, which may be what another process does.
        """
        steps = itertools.count()

        def before() -> None:
            if not self.alive:
                raise Killed
            if next(steps) == at:
                if then is None:
                    self.alive = False
                    raise Killed
                with self._away():
                    then()

        with self._here(before):
            try:
                if self.lake is None:
                    self.lake = Lake.open(self.disk.path, create=True)
                return what(self.lake)
            except Killed as end:
                self.left.append(end)
                return None

    def renew(self) -> None:
        """What the thread that renews the lease does."""
        token = self._memory["processes"].get(str(self.disk.path.resolve()))
        if token is not None:
            path = self.disk.path / "writers" / f"{token[0]}.json"
            if path.exists():
                os.utime(path)

    def end(self) -> None:
        """Leave in good order: the lease goes, and claims that could not be removed before."""

        def leave(lake: Lake) -> None:
            leases.remove_ended(lake.files)
            token = self._memory["processes"].get(lake.files.root)
            if token is not None:
                lake.files.delete(f"writers/{token[0]}.json")

        self.act(leave)
        self.alive = False

    @contextlib.contextmanager
    def _here(self, before: Callable[[], None]) -> Iterator[None]:
        real = _put_in_place(self, before)
        try:
            yield
        finally:
            _put_back(real)

    @contextlib.contextmanager
    def _away(self) -> Iterator[None]:
        """For a while it is not this process that acts."""
        real = _put_in_place(None, lambda: None)
        try:
            yield
        finally:
            _put_back(real)


def _seen() -> dict[str, Any]:
    return {
        "memory": {
            "processes": tokens._processes,
            "renewed": leases._renewed,
            "held": leases._held,
            "ended": leases._ended,
        },
        "host": leases.host_identity,
        "runs": leases.runs,
        "whereabouts": leases._whereabouts,
        "time": time.time,
        **{name: getattr(LocalFiles, name) for name in (*STEPS, "put_all")},
    }


_PLAIN = _seen()


def _put_in_place(process: Process | None, before: Callable[[], None]) -> dict[str, Any]:
    """Let losslake see the world as a process does, or as it is; what it saw before."""
    seen = _seen()
    if process is None:
        _put_back(_PLAIN)
        return seen
    there = process
    real_time = _PLAIN["time"]
    here = str(there.disk.path.resolve())

    def stepping(name: str) -> Callable[..., Any]:
        real = _PLAIN[name]

        def call(files: LocalFiles, *given: Any, **named: Any) -> Any:
            if files.root == here:  # or a thread renews the lease of another lake
                before()
            return real(files, *given, **named)

        return call

    _put_back(
        {
            "memory": there._memory,
            "host": lambda: there.host,
            "runs": lambda pid, started: any(
                each.alive and each.host == there.host and each.pid == pid for each in there.disk.processes
            ),
            "whereabouts": lambda: {"host": there.host, "pid": there.pid, "started": 1},
            "time": lambda: real_time() + there.clock,
            **{name: stepping(name) for name in STEPS},
            "put_all": one_by_one,
        }
    )
    return seen


def _put_back(seen: dict[str, Any]) -> None:
    memory = seen["memory"]
    tokens._processes = memory["processes"]
    leases._renewed, leases._held, leases._ended = memory["renewed"], memory["held"], memory["ended"]
    leases.host_identity, leases.runs = seen["host"], seen["runs"]
    leases._whereabouts = seen["whereabouts"]
    time.time = seen["time"]
    for name in (*STEPS, "put_all"):
        setattr(LocalFiles, name, seen[name])
