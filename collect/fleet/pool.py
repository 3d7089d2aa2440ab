"""Processes that train runs side by side, each with one thread, on CPUs or sharing a device.

They share the data through a temporary folder, and speak lines of JSON; see `worker`.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...store.errors import TrainingFailed
from ...store.line_processes import end, read, send, start
from ...store.write.processes import runs
from .work import FleetWork

_FOLDER = "losslake-fleet-"
_STOP_SECONDS = 30.0
# -P: the working directory must not shadow installed packages.
_COMMAND = [sys.executable, "-P", "-m", __name__.rpartition(".")[0] + ".worker"]

_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_ALLOCATION = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
"""Has glibc keep what is freed. By itself it gives the activations of each step back to the system and takes new pages,
which must be filled with zeros, at the next: 15 to 20% of the time of a small CNN."""

Event = Mapping[str, Any]


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[str]
    task: set[int] = field(default_factory=set)
    """The runs it has not said the last of."""
    ready: bool = False


def train_side_by_side(work: FleetWork, *, jobs: int) -> None:
    """Train in ``jobs`` processes."""
    prepared, plans = work.prepared, work.plans
    with _shared_folder() as folder:
        prepared.data.save(folder)
        rows = np.lib.format.open_memmap(
            folder / "records.npy", mode="w+", dtype=np.bool_, shape=(len(plans), len(prepared.data))
        )
        for number in work.todo:
            rows[number] = work.records(number)
        rows.flush()
        tasks = [
            {"numbers": part, "plans": [dataclasses.asdict(plans[number]) for number in part]}
            for part in work.parts()
        ]
        setup = {**work.setup(), "folder": str(folder)}
        run_in_workers(setup, tasks, jobs=jobs, on_event=lambda event: work.watch.tell(**event))


def run_in_workers(
    setup: Mapping[str, Any],
    tasks: Sequence[Mapping[str, Any]],
    *,
    jobs: int,
    on_event: Callable[[Event], None],
) -> None:
    """Have ``jobs`` processes do all tasks, each of which has the ``numbers`` of its runs.

    ``on_event`` gets, in this thread, {"event": "epoch"|"done"|"failed", "number": ..., ...}; a worker that dies
    fails what is left of its task and is replaced. Leaving by an exception stops the workers. Raises TrainingFailed where
    workers die before they are ready.
    """
    waiting = deque(tasks)
    events: queue.Queue[tuple[_Worker, Event | None]] = queue.Queue()
    workers: list[_Worker] = []
    open_runs = sum(len(task["numbers"]) for task in tasks)
    with _stopped_at_end(workers):
        for _ in range(min(jobs, len(tasks))):
            workers.append(_start(setup, events))
        while open_runs:
            worker, event = events.get()
            if event is None:
                workers.remove(worker)
                code = worker.process.wait()
                if not worker.ready:
                    raise TrainingFailed(
                        f"a worker process ended before it could start (exit code {code}); see above"
                    )
                open_runs -= len(worker.task)
                for number in sorted(worker.task):
                    on_event({"event": "failed", "number": number, "message": _death(code)})
                if waiting:
                    workers.append(_start(setup, events))
                continue
            kind = event["event"]
            if kind in ("done", "failed"):
                open_runs -= 1
                worker.task.discard(event["number"])
            if kind == "ready":
                worker.ready = True
            else:
                on_event(event)
            if not worker.task and waiting:
                task = waiting.popleft()
                worker.task = set(task["numbers"])
                send(worker.process, task)


def _start(setup: Mapping[str, Any], events: queue.Queue[tuple[_Worker, Event | None]]) -> _Worker:
    worker = _Worker(start(_COMMAND, {**_ALLOCATION, **os.environ, **_THREADS}))
    read(worker.process, lambda event: events.put((worker, event)))
    send(worker.process, {**setup, "path": [entry for entry in sys.path if entry]})
    return worker


@contextmanager
def _stopped_at_end(workers: list[_Worker]) -> Iterator[None]:
    try:
        yield
    finally:
        end([worker.process for worker in workers], _STOP_SECONDS)


def _death(code: int) -> str:
    if code == -9:
        return "its process was killed (signal 9); out of memory? fewer jobs need less"
    return f"its process ended with {'signal' if code < 0 else 'exit code'} {abs(code)}"


@contextmanager
def _shared_folder() -> Iterator[Path]:
    """A temporary folder that names its process, so that what a killed one left can be removed by the next."""
    for left in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        owner = left.name.removeprefix(_FOLDER).partition("-")[0]
        if owner.isdigit() and not runs(int(owner), None):
            shutil.rmtree(left, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
