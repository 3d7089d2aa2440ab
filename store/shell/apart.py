"""A process of its own for queries that somebody wrote: what a text makes of the engine, it makes of that process alone.

DuckDB reads a text and computes expressions in the process that asks, and some of them end it (a stack that overflows) or
hold all of its threads (a long text that is parsed). So the process that was started forks before it opens the lake: the
child does all the work and prints by itself, the parent waits, ends it where it does not end in time, and says what became
of it. For a single query the parent then ends as the child did; for a shell it reads what is typed and starts another child.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

import click

from .. import interrupted
from ..errors import LimitReached, LosslakeError

_GRACE = 8.0
"""Seconds beyond its time after which a query's process is killed. Before that the process ends the query by itself."""

_MEANINGS = {
    "SIGKILL": "something killed it, most likely the system, because memory ran out",
    "SIGSEGV": "the engine overflowed its stack or failed: leave out values that are nested very deeply",
    "SIGBUS": "the engine failed: leave out values that are nested very deeply",
    "SIGABRT": "the engine gave up: ask for less",
}

_line: socket.socket | None = None
"""In a child, the way to its parent."""

_folder: str | None = None
"""In a child, its folder of temporary files."""


class QueryDied(LosslakeError):
    """The process of a query ended in the middle of it."""


class Child:
    """A child process and the way to it. Messages are JSON, one a line."""

    def __init__(self, pid: int, line: socket.socket, life: int) -> None:
        self.pid = pid
        self._line, self._life = line, life
        self._limit: float | None = None
        self._read = b""
        self._folder: str | None = None
        self._code: int | None = None

    def say(self, message: dict[str, Any]) -> None:
        """Send a message. One that cannot be sent is not: the next `hear` says why."""
        with contextlib.suppress(OSError):
            self._line.sendall(json.dumps(message).encode() + b"\n")

    def hear(self) -> dict[str, Any] | None:
        """The child's next message; None when it has ended.

        Raises LimitReached where a query did not end in its time, and the child is gone then. Ctrl-C is the child's.
        """
        with _deaf():
            return self._hear()

    def _hear(self) -> dict[str, Any] | None:
        until: float | None = None
        while True:
            *lines, self._read = self._read.split(b"\n")
            for place, line in enumerate(lines):
                message: dict[str, Any] = json.loads(line)
                if "folder" in message:
                    self._folder, self._limit = message["folder"], message["limit"]
                elif "query" in message:
                    begun = message["query"] and self._limit is not None
                    until = time.monotonic() + self._limit + _GRACE if begun and self._limit else None
                else:
                    self._read = b"".join(each + b"\n" for each in lines[place + 1 :]) + self._read
                    return message
            wait = None if until is None else max(0.0, until - time.monotonic())
            try:
                ready = select.select([self._line], [], [], wait)[0]
                data = self._line.recv(1 << 16) if ready else None
            except ConnectionError:
                data = b""
            if data is None:
                self.end()
                raise LimitReached(
                    f"the query ran longer than the {self._limit:g} s it may, and its process was ended; ask for less"
                )
            if not data:
                return None
            self._read += data

    def result(self) -> int:
        """Its exit code, once it has ended. Raises QueryDied where a signal ended it."""
        code = self._ended()
        if code >= 0:
            return code
        self._clear()
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        raise QueryDied(
            f"the process of the query ended ({name}): {_MEANINGS.get(name, 'something ended it from outside')}"
        )

    def end(self) -> None:
        """Kill it, if it is there still."""
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._ended()
            self._clear()

    def _ended(self) -> int:
        if self._code is None:
            self._line.close()
            with _deaf():
                self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._life)
        return self._code

    def _clear(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """In the block Ctrl-C is not this process's; a terminal gives it to the child as well. Who keeps it in mind goes on with that."""
    before = signal.getsignal(signal.SIGINT)
    if before is not _keep_in_mind:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _keep_in_mind(number: int, frame: FrameType | None) -> None:
    interrupted.press()


def possible() -> bool:
    """Whether this process can ask in a child: where it forks, was started for this, and has no engine at work yet.

    A notebook, a test or a program that calls the command has threads of its own, and asks in its own process.
    """
    if not hasattr(os, "fork") or "duckdb" in sys.modules or threading.active_count() > 1:
        return False
    try:
        return (sys.stdout.fileno(), sys.stderr.fileno()) == (1, 2)
    except (OSError, ValueError, AttributeError):
        return False


def serving() -> bool:
    """Whether this process is such a child."""
    return _line is not None


def fork() -> Child | None:
    """A child; None in the child itself, which goes on from here."""
    global _line
    ours, theirs = socket.socketpair()
    life = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    pid = os.fork()
    if pid:
        theirs.close()
        os.close(life[0])
        return Child(pid, ours, life[1])
    ours.close()
    os.close(life[1])
    _line = theirs
    threading.Thread(target=_end_with_parent, args=(life[0],), daemon=True).start()
    return None


def _end_with_parent(life: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(life, 1):
            pass
    if _folder is not None:
        shutil.rmtree(_folder, ignore_errors=True)
    os._exit(1)


def wait(child: Child) -> NoReturn:
    """End as a child does. Raises what `Child.hear` and `Child.result` do; KeyboardInterrupt where Ctrl-C ended it in the middle of something."""
    signal.signal(signal.SIGINT, _keep_in_mind)
    while child.hear() is not None:
        pass
    try:
        code = child.result()
    except QueryDied:
        if interrupted.pressed():
            raise KeyboardInterrupt from None
        raise
    os._exit(code)  # it has nothing of its own to say or to clear away


def carry_out(work: Callable[[], None]) -> NoReturn:
    """In a child that was started in the middle of something else: do the work and end, whatever comes of it."""
    code = 1
    try:
        work()
        code = 0
    except LosslakeError as error:
        click.echo(f"losslake: {error}", err=True)
    except KeyboardInterrupt:
        code = 130
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def tell(message: dict[str, Any]) -> None:
    """In a child, say something to the parent; elsewhere nothing happens."""
    global _folder
    _folder = message.get("folder", _folder)
    if _line is not None:
        with contextlib.suppress(OSError):
            _line.sendall(json.dumps(message).encode() + b"\n")


def told() -> Iterator[dict[str, Any]]:
    """In a child, what the parent says, until it has nothing more to say."""
    assert _line is not None
    with _line.makefile("rb") as lines:
        while True:
            with _deaf():
                line = lines.readline()
            if not line:
                return
            yield json.loads(line)


@contextlib.contextmanager
def query_at_work() -> Iterator[None]:
    """In a child, tell the parent that a query is at work while the block lasts: its time counts."""
    tell({"query": True})
    try:
        yield
    finally:
        tell({"query": False})
