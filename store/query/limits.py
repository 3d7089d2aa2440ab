"""What a query may take: time, until it is cancelled, and memory.

DuckDB's own limit of memory counts the blocks of its operators, not the values that one expression builds:
`lpad('x', 2000000000, 'y')` takes gigabytes under a limit of a hundred megabytes. So while a query of the command line
runs, the process as a whole may grow by the limit and a margin and no further; what is over it fails as if memory had
run out, and the query ends.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import duckdb

from .. import interrupted
from ..errors import LimitReached
from ..format.outgoing import unguarded

T = TypeVar("T")

_QUIET = 1.0
"""Seconds before a person is told how far a query is."""

_GRACE = 5.0
"""Seconds within which a query that was cancelled has to end. The engine looks up between batches of rows, not within one."""

_CLEARED = "\r\x1b[K"

_MARGIN = 1 << 30
"""Bytes beside the limit: stacks of threads, copies of the answer."""

_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


class StillRunning(LimitReached):
    """A query is over its time and goes on all the same, inside one expression that nothing can interrupt.

    Its connection is of no more use; it is closed when the query ends.
    """


def wait_for(connection: duckdb.DuckDBPyConnection, work: Callable[[], T], timeout: float | None = None) -> T:
    """What ``work`` returns or raises, done in a thread of its own that alone uses the connection.

    After a second a terminal shows how far the running query is. Ctrl-C cancels it, and KeyboardInterrupt is raised
    once it has ended, so that the connection can be used again. After ``timeout`` seconds it is cancelled in the same
    way and LimitReached raised; StillRunning where it did not end within five seconds more.
    """
    answers: list[T] = []
    errors: list[BaseException] = []
    left_behind = False

    def run() -> None:
        try:
            answers.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            with ending:
                done.set()
                if left_behind:
                    connection.close()

    # Not the thread itself is waited for: a join that Ctrl-C breaks takes it for ended (Python 3.11, 3.12).
    done, ending = threading.Event(), threading.Lock()
    cancelled = late = shown = False
    limit = math.inf if timeout is None else timeout
    watched = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    started = time.monotonic()
    threading.Thread(target=run, daemon=True).start()
    while not (done.is_set() or left_behind):
        try:
            done.wait(min(0.1, limit))
            passed = time.monotonic() - started
            late |= not done.is_set() and passed > limit
            cancelled |= interrupted.pressed()  # before the query, and swallowed there
            if cancelled or late:
                connection.interrupt()  # again and again, in case it came between two statements
            elif not done.is_set() and passed > _QUIET and watched:
                _tell(connection, passed)
                shown = True
            if passed > limit + _GRACE:
                with ending:
                    left_behind = not done.is_set()
        except KeyboardInterrupt:
            cancelled = True
            connection.interrupt()
    if shown:
        _say(_CLEARED)
    if left_behind:
        raise StillRunning(
            f"the query ran longer than the {limit:g} s it may, and cannot be stopped inside the expression it is in; "
            "ask for less"
        )
    if cancelled:
        raise KeyboardInterrupt
    if late and errors:
        raise LimitReached(
            f"the query ran longer than the {limit:g} s it may; ask for less, or give it more time"
        ) from errors[0]
    if errors:
        raise errors[0]
    return answers[0]


def _tell(connection: duckdb.DuckDBPyConnection, seconds: float) -> None:
    share = -1.0
    with contextlib.suppress(duckdb.Error):
        share = connection.query_progress()
    far = f"{min(share, 100):3.0f}%  " if share >= 0 else ""
    _say(f"{_CLEARED}{far}{seconds:.0f} s  (Ctrl-C cancels the query)")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        unguarded(sys.stderr).write(text)
        sys.stderr.flush()


@contextlib.contextmanager
def memory_ceiling(bytes_in_all: int | None) -> Iterator[None]:
    """In the block the process may hold so many bytes of data at most; None: as many as it may anyway."""
    if bytes_in_all is None:
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = [limit for limit in (bytes_in_all, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(allowed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def ceiling_for(connection: duckdb.DuckDBPyConnection) -> int | None:
    """The `memory_ceiling` that goes with a connection's own memory limit; None where the system knows no such thing."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    held = re.search(r"^VmData:\s+(\d+) kB$", status, flags=re.MULTILINE)  # what RLIMIT_DATA counts
    text = connection.execute("select current_setting('memory_limit')").fetchall()[0][0]
    limit = re.fullmatch(r"([\d.]+) (\w+)", text)
    if held is None or limit is None or limit[2] not in _UNITS:
        return None
    return int(held[1]) * 1024 + int(float(limit[1]) * _UNITS[limit[2]]) + _MARGIN
