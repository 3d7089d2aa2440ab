"""One thread that does slow work (waiting for copies, writing files) beside a training loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

_WAITING_JOBS = 8
"""Jobs that may wait: enough to ride out a slow disk, few enough to bound the memory they hold."""


class Background:
    """Jobs done one after another, in order, in a thread of their own.

    What a job raises comes up in the thread that calls `submit` or `finish` next; jobs after it are not done.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(_WAITING_JOBS)
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        # Waited for in place of the thread: on Python 3.11 and 3.12 an exception that breaks a join marks the thread as
        # ended while it still works (bpo-45274), and whoever joins it again goes on too early.
        self._ended = threading.Event()

    def submit(self, job: Callable[[], None]) -> None:
        """Have ``job`` done; waits while many jobs are waiting. Raises what an earlier job raised."""
        self._raise()
        if self._thread is None:
            # A daemon: an interpreter that ends without `finish` must not wait for a stuck disk.
            self._ended.clear()
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def wait(self) -> None:
        """Wait until every job so far is done. Raises what a job raised."""
        self._jobs.join()
        self._raise()

    def finish(self) -> None:
        """Wait until every job is done and end the thread. Raises what a job raised."""
        self.stop()
        self._raise()

    def stop(self) -> None:
        """As `finish`, without raising: for a caller that is failing already."""
        if self._thread is not None:
            self._jobs.put(None)
            self._ended.wait()
            self._thread = None

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            self.stop()
            raise error

    def _work(self) -> None:
        failed = False
        while True:
            job = self._jobs.get()
            try:
                if job is None:
                    self._ended.set()
                    return
                if not failed:  # after a failure the queue is emptied, so that nobody waits for room in it
                    job()
            except BaseException as error:
                self._error = error
                failed = True
            finally:
                self._jobs.task_done()
