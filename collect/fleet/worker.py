"""A process that trains runs for a fleet: ``python -m losslake.collect.fleet.worker``. See `pool`.

It is told what to do by lines of JSON on its standard input and answers with lines of JSON on what was its
standard output. When its input ends, because the parent closed it or died, it stops and leaves nothing half-done.
"""

from __future__ import annotations

import signal

# A Ctrl-C goes to the whole process group; the parent decides what it means for its workers.
signal.signal(signal.SIGINT, signal.SIG_IGN)

import json  # noqa: E402
import os  # noqa: E402
import queue  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from contextlib import suppress  # noqa: E402
from pathlib import Path  # noqa: E402
from types import FrameType  # noqa: E402
from typing import Any, TextIO  # noqa: E402

_GRACE_SECONDS = 20.0
"""How long a worker may take to clean up before it ends itself."""


def main() -> None:
    """Train what the lines on standard input ask for, until they end."""
    answers = _own_output()
    signal.signal(signal.SIGTERM, _stop)
    tasks: queue.Queue[dict[str, Any] | None] = queue.Queue()
    setup = json.loads(sys.stdin.readline())
    idle = threading.Event()
    threading.Thread(target=_listen, args=(tasks, idle), daemon=True).start()
    sys.path.extend(entry for entry in setup["path"] if entry not in sys.path)
    _serve(setup, tasks, idle, answers)
    from ...store.write import leases

    leases.release()
    os._exit(0)  # nothing is open; unloading torch would take another second


def _serve(
    setup: dict[str, Any], tasks: queue.Queue[dict[str, Any] | None], idle: threading.Event, answers: TextIO
) -> None:
    import numpy as np
    import torch

    from ...store.lake import Lake
    from ..data.training import TrainingData
    from ..train.run import RunPlan
    from .runs import Runs

    torch.set_num_threads(1)
    folder = Path(setup["folder"])
    records = np.load(folder / "records.npy", mmap_mode="r", allow_pickle=False)

    def tell(event: str, **facts: Any) -> None:
        with suppress(BrokenPipeError):  # without a parent the input ends too, and that is what counts
            answers.write(json.dumps({"event": event, **facts}) + "\n")
            answers.flush()

    runs = Runs(Lake.open(setup["lake"]), setup, TrainingData.load(folder), tell)
    tell("ready")
    idle.set()
    while (task := tasks.get()) is not None:
        idle.clear()
        numbers = task["numbers"]
        plans = [RunPlan(**plan) for plan in task["plans"]]
        runs.train(numbers, plans, [np.array(records[number]) for number in numbers])
        idle.set()


def _own_output() -> TextIO:
    """Standard output for answers alone: what a user's model prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _listen(tasks: queue.Queue[dict[str, Any] | None], idle: threading.Event) -> None:
    for line in sys.stdin:
        tasks.put(json.loads(line))
    # The parent is gone or has had enough.
    tasks.put(None)
    if not idle.is_set():
        # The main thread unwinds, discarding its run. A real signal also ends a wait inside a system call.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    threading.Event().wait(_GRACE_SECONDS)  # stuck in a long computation: the process ends all the same
    os._exit(1)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
