"""The thread beside a training loop: what it was given is done, or known to be over, before anybody goes on."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import pytest
from losslake.collect.hook.recorder import Background
from warm import HANGS


def test_jobs_are_done_in_order_and_the_thread_can_start_again() -> None:
    done: list[int] = []
    beside = Background("test")
    for _ in range(2):
        for number in range(20):
            beside.submit(lambda number=number: done.append(number))  # type: ignore[misc]
        beside.finish()
    assert done == [*range(20), *range(20)]


def test_what_a_job_raises_comes_up_and_stops_the_rest() -> None:
    done: list[int] = []
    submitted = threading.Event()

    def failing() -> None:
        submitted.wait(HANGS)
        raise ZeroDivisionError

    beside = Background("test")
    beside.submit(failing)
    beside.submit(lambda: done.append(1))
    submitted.set()
    with pytest.raises(ZeroDivisionError):
        beside.finish()
    assert done == []


def test_a_signal_while_it_ends_does_not_leave_a_job_running() -> None:
    """A worker is told to stop while it waits for its last epoch to be written; then it removes what was written."""
    wait, done = threading.Event(), threading.Event()

    def slow() -> None:
        wait.wait(HANGS)
        done.set()

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(1)

    before = signal.signal(signal.SIGALRM, stop)
    beside = Background("test")
    try:
        beside.submit(slow)

        def finish() -> None:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            beside.finish()

        with pytest.raises(SystemExit):
            finish()
        assert not done.is_set()
        threading.Timer(0.2, wait.set).start()
        beside.stop()
        assert done.is_set()
    finally:
        wait.set()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
