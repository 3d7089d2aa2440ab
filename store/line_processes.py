"""Processes that speak lines of JSON, one a task and one an answer: how they are started and ended, and what one does inside.

Plain subprocesses: unlike multiprocessing's spawn they do not run the caller's main module again, and send nothing pickled. They are started anew
and not forked, as engines have threads. A closed pipe tells one that its parent is gone, however it went. A module that is such
a process has SIGINT ignored before it imports anything: a Ctrl-C goes to the whole group, and the parent decides what it means.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

# --- outside ------------------------------------------------------------------------------------------------


def start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """A process that waits for lines."""
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", env=dict(environment)
    )


def send(process: subprocess.Popen[str], content: Mapping[str, Any]) -> None:
    """A line for the process; one that is dead is noticed by who reads its answers."""
    pipe = process.stdin
    assert pipe is not None
    with suppress(BrokenPipeError):
        pipe.write(json.dumps(content) + "\n")
        pipe.flush()


def read(process: subprocess.Popen[str], take: Callable[[Any], object]) -> None:
    """Have ``take`` get each answer as it comes, in a thread of its own, and None when there will be no more."""

    def answers() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with suppress(ValueError):  # half a line of one that was killed
                take(json.loads(line))
        take(None)

    threading.Thread(target=answers, daemon=True).start()


def end(processes: Sequence[subprocess.Popen[str]], seconds: float) -> None:
    """Have the processes end: told by their input, and killed where that takes longer than so many ``seconds``."""
    for process in processes:
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
    for process in processes:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# --- inside -------------------------------------------------------------------------------------------------


class Inside:
    """The process as it sees itself: it has taken standard output for its answers, and ends when its input does.

    setup  the first line; modules are found where the parent finds them, by its "path"
    """

    def __init__(self, grace: float, leave: Callable[[], object] = lambda: None) -> None:
        """``grace``: the seconds that it may take to clear away what it is at when its input ends; ``leave`` is called before it is ended then."""
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # what a library or a user's model prints is no answer
        signal.signal(signal.SIGTERM, _stop)
        self.setup: dict[str, Any] = json.loads(sys.stdin.readline())
        sys.path.extend(entry for entry in self.setup["path"] if entry not in sys.path)
        self._grace, self._leave = grace, leave
        self._tasks: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._idle = threading.Event()
        # Of this name: it imports nothing that is not imported yet.
        threading.Thread(target=self._listen, name="losslake-listens", daemon=True).start()

    def tell(self, answer: Mapping[str, Any]) -> None:
        """Without a parent the input ends too, and that is what counts."""
        with suppress(BrokenPipeError):
            self._answers.write(json.dumps(answer) + "\n")
            self._answers.flush()

    def tasks(self) -> Iterator[dict[str, Any]]:
        """The lines after the first, until the input ends. In the middle of one the main thread unwinds then, by SystemExit."""
        self._idle.set()
        while (task := self._tasks.get()) is not None:
            self._idle.clear()
            yield task
            self._idle.set()

    def _listen(self) -> None:
        for line in sys.stdin:
            self._tasks.put(json.loads(line))
        # The parent is gone or has had enough.
        self._tasks.put(None)
        if not self._idle.is_set():
            # A real signal also ends a wait inside a system call.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        threading.Event().wait(self._grace)  # inside a long computation: the process ends all the same
        self._leave()
        os._exit(1)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)
