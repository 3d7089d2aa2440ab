"""Every analysis and evaluation, in several processes at once.

The parts of `all_told` are handed out one at a time, those that take long first, an evaluation once the scores that it looks at are kept;
what they say is given in the order of `all_told`, and is the same however many processes there are. They speak lines of JSON; see `worker`.
"""

from __future__ import annotations

import builtins
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from ...store import errors
from ...store.errors import LosslakeError
from ...store.line_processes import end, read, send, start
from ..scoring.catalogue import ANALYSES
from ..source import Source
from ..statistics.metric import Metric
from .catalogue import EVALUATIONS, Part, Told, all_told

MOST_JOBS = 4
"""Processes that are started unless more are asked for: what takes longest takes about a fifth of all."""

WORTH_ROWS = 20_000
"""Rows of signals and traces below which a second process saves a second and takes half of one: its imports."""

PROCESS, ROW = 400 << 20, 200
"""Bytes that a process may come to, at least and for each row, of which half the machine's memory must have room: more than measured (0.65 GB of 4 million rows)."""

LONG = (
    "influence",
    "shadow-nn",
    "lira",
    "vulnerability",
    "trajectory",
    "compare",
    "duci",
    "shadow-curve",
    "quantile-ablation",
)
"""What takes long, roughly the longest first, and what that waits for; evaluations come after the analyses."""

AFTER = {
    "entropy": "shadow-nn",
    "suspects": "shadow-nn",
    "per-model": "vulnerability",
    "shadow-curve": "vulnerability",
}
"""What goes faster in the process that did another part, and keeps what that read or fitted."""

_STOP_SECONDS = 5.0
# -P: the working directory must not shadow installed packages.
_COMMAND = [sys.executable, "-P", "-m", __name__.rpartition(".")[0] + ".worker"]
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")

Event = Mapping[str, Any]


class WorkerDied(LosslakeError):
    """The process of an analysis ended in the middle of it."""


def jobs_for(source: Source) -> int:
    """How many processes the analyses of an experiment are worth on this machine."""
    rows = sum(file.rows for run in source.runs for file in run.files)
    if rows < WORTH_ROWS:
        return 1
    return max(1, min(_cores(), MOST_JOBS, _memory() // 2 // (PROCESS + ROW * rows)))


def run_side_by_side(source: Source, fprs: tuple[float, ...], jobs: int) -> Generator[Told]:
    """`run_all` by ``jobs`` processes, with the same results and in the same order.

    Where a part fails, what comes before it is told, then its error is raised; some of what comes after it may be kept by then. Leaving by an
    exception ends the processes. Raises WorkerDied, too, where one of them ended.
    """
    threads = max(1, _cores() // jobs)
    setup = {
        "path": [entry for entry in sys.path if entry],
        "lake": source.lake.path,
        "experiment": source.experiment,
        "target": source.target_name or None,
        "runs": {run.run: run.created for run in source.runs},
        "forgotten": source.forgotten,
        "fprs": fprs,
        "jobs": jobs,
        "threads": threads,
    }
    crew = _Crew(setup, {**dict.fromkeys(_THREADS, str(threads)), **os.environ})
    with crew.at_work(jobs):
        yield from all_told(crew.ask, source.experiment)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> int:
    """Bytes of memory that the machine has; none where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[str]
    part: Part | None = None
    ready: bool = False
    done: set[str] = field(default_factory=set)


class _Crew:
    """The processes, what they have said, and what is still to be handed to them."""

    def __init__(self, setup: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self._setup, self._environment = setup, environment
        evaluations = [each.name for each in EVALUATIONS if each.default_scores]
        self._order = [*(analysis.name for analysis in ANALYSES), "compare", *evaluations]
        self._needs = {each.name: each.default_scores for each in EVALUATIONS}
        rank = {name: place for place, name in enumerate(LONG)}
        self._rank = {name: (name in self._needs, rank.get(name, len(rank))) for name in self._order}
        self._waiting = [Part(name) for name in self._order if name != "compare"]
        self._answers: dict[str, Told | Exception] = {}
        self._events: queue.Queue[tuple[_Worker, Event | None]] = queue.Queue()
        self._workers: list[_Worker] = []

    def ask(self, part: Part) -> Told:
        """What a part says, once a process has said it. Raises its error."""
        if part.scores:  # which scores are compared is known when all are there
            self._waiting.append(part)
        while part.name not in self._answers:
            self._hand_out()
            worker, event = self._events.get()
            if event is None:
                self._replace(worker)
            else:
                self._note(worker, event)
        answer = self._answers[part.name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _hand_out(self) -> None:
        if not self._workers:  # all have died, of parts that come later
            self._start()
        for worker in self._workers:
            if worker.part is None:
                ready = [part for part in self._waiting if self._is_ready(part)]
                if ready:
                    worker.part = min(ready, key=lambda part: self._how_soon(worker, part))
                    self._waiting.remove(worker.part)
                    send(worker.process, asdict(worker.part))

    def _is_ready(self, part: Part) -> bool:
        return all(score in self._answers for score in self._needs.get(part.name, ()))

    def _how_soon(self, worker: _Worker, part: Part) -> tuple[int, bool, int, int]:
        """The order in which a process takes parts: first what it does faster than others, last what another one does."""
        before = AFTER.get(part.name)
        turn = 1 if before is None else 0 if before in worker.done else 2
        return turn, *self._rank[part.name], self._order.index(part.name)

    def _note(self, worker: _Worker, event: Event) -> None:
        worker.ready = True
        if "not opened" in event:
            raise _error(**event["not opened"])
        if "ready" in event:
            return
        assert worker.part is not None
        worker.done.add(worker.part.name)
        self._keep(worker.part, _error(**event["error"]) if "error" in event else _told(**event))
        worker.part = None

    def _keep(self, part: Part, told: Told | Exception) -> None:
        self._answers[part.name] = told
        if isinstance(told, Exception):  # what comes after it will not be told
            place = self._order.index(part.name)
            self._waiting = [each for each in self._waiting if self._order.index(each.name) < place]

    def _replace(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        code = worker.process.wait()
        if not worker.ready:
            raise WorkerDied(f"a process for analyses could not start ({_death(code)}); --jobs 1 needs none")
        if worker.part is not None:
            text = f"the process that computed {worker.part.name} {_death(code)}; fewer --jobs need less memory, and what is done is kept"
            self._keep(worker.part, WorkerDied(text))
        if self._waiting:
            self._start()

    def _start(self) -> None:
        # Until the new process ignores Ctrl-C it does not get it; here it comes a moment later.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            worker = _Worker(start(_COMMAND, self._environment))
            self._workers.append(worker)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        read(worker.process, lambda event: self._events.put((worker, event)))
        send(worker.process, self._setup)

    @contextmanager
    def at_work(self, jobs: int) -> Iterator[None]:
        """In the block there are so many processes; they end with it, whatever they are at."""
        try:
            for _ in range(min(jobs, len(self._order))):
                self._start()
            yield
        finally:
            end([worker.process for worker in self._workers], _STOP_SECONDS)


def _told(metrics: Sequence[Mapping[str, Any]], notes: Sequence[str], **rest: Any) -> Told:
    return Told(metrics=tuple(Metric(**metric) for metric in metrics), notes=tuple(notes), **rest)


def _error(kind: str, message: str, trace: str) -> Exception:
    """The error that a worker met, by the same name: the command line tells it as its own, and where it was with --debug."""
    made = getattr(errors, kind, None) or getattr(builtins, kind, None)
    if not (isinstance(made, type) and issubclass(made, Exception)):
        made = type(kind, (Exception,), {})
    try:
        error = made(message)
    except TypeError:  # one that is not made of a text
        error = type(kind, (Exception,), {})(message)
    error.add_note(f"in a process of its own:\n{trace}")
    return error


def _death(code: int) -> str:
    if code == -9:
        return "was killed (signal 9), most likely because memory ran out"
    return f"ended with {'signal' if code < 0 else 'exit code'} {abs(code)}"
