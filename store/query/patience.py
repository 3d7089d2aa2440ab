"""Waiting for a query: how far it is; Ctrl-C, or the end of the time it was given, ends the query and nothing else."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import duckdb

from ..errors import LimitReached

T = TypeVar("T")

_QUIET = 1.0
"""Seconds before a person is told how far a query is."""

_GRACE = 5.0
"""Seconds within which a query that was cancelled has to end. The engine looks up between batches of rows, not within one."""

_CLEARED = "\r\x1b[K"


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
    started = time.monotonic()
    threading.Thread(target=run, daemon=True).start()
    while not (done.is_set() or left_behind):
        try:
            done.wait(0.1 if timeout is None else min(0.1, timeout))
            passed = time.monotonic() - started
            late |= not done.is_set() and timeout is not None and passed > timeout
            if cancelled or late:
                connection.interrupt()  # again and again, in case it came between two statements
            elif not done.is_set() and passed > _QUIET and _watched():
                _tell(connection, passed)
                shown = True
            if late and timeout is not None and passed > timeout + _GRACE:
                with ending:
                    left_behind = not done.is_set()
        except KeyboardInterrupt:
            cancelled = True
            connection.interrupt()
    if shown:
        _say(_CLEARED)
    if left_behind:
        raise StillRunning(
            f"the query ran longer than the {timeout:g} s it may, and cannot be stopped inside the expression it is in; "
            "ask for less"
        )
    if cancelled:
        raise KeyboardInterrupt
    if late and errors:
        raise LimitReached(
            f"the query ran longer than the {timeout:g} s it may; ask for less, or give it more time"
        ) from errors[0]
    if errors:
        raise errors[0]
    return answers[0]


def _watched() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _tell(connection: duckdb.DuckDBPyConnection, seconds: float) -> None:
    share = -1.0
    with contextlib.suppress(duckdb.Error):
        share = connection.query_progress()
    far = f"{min(share, 100):3.0f}%  " if share >= 0 else ""
    _say(f"{_CLEARED}{far}{seconds:.0f} s  (Ctrl-C cancels the query)")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()
