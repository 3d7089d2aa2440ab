"""Waiting for a query: how far it is, and Ctrl-C ends the query and nothing else."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import duckdb

T = TypeVar("T")

_QUIET = 1.0
"""Seconds before a person is told how far a query is."""

_CLEARED = "\r\x1b[K"


def wait_for(connection: duckdb.DuckDBPyConnection, work: Callable[[], T]) -> T:
    """What ``work`` returns or raises, done in a thread of its own that alone uses the connection.

    After a second a terminal shows how far the running query is. Ctrl-C cancels it, and KeyboardInterrupt is raised
    once it has ended, so that the connection can be used again.
    """
    answers: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    # Not the thread itself is waited for: a join that Ctrl-C breaks takes it for ended (Python 3.11, 3.12).
    done = threading.Event()
    cancelled = shown = False
    started = time.monotonic()
    threading.Thread(target=run, daemon=True).start()
    while not done.is_set():
        try:
            done.wait(0.1)
            if cancelled:
                connection.interrupt()  # again, in case it came between two statements
            elif not done.is_set() and time.monotonic() - started > _QUIET and _watched():
                _tell(connection, time.monotonic() - started)
                shown = True
        except KeyboardInterrupt:
            cancelled = True
            connection.interrupt()
    if shown:
        _say(_CLEARED)
    if cancelled:
        raise KeyboardInterrupt
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
