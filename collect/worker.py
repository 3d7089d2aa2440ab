"""A process that trains runs for a fleet: ``python -m losslake.collect.worker``. See `worker_pool`.

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
import traceback  # noqa: E402
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
    os._exit(0)  # nothing is open; unloading torch would take another second


def _serve(
    setup: dict[str, Any], tasks: queue.Queue[dict[str, Any] | None], idle: threading.Event, answers: TextIO
) -> None:
    import numpy as np
    import torch

    from ..store.errors import AlreadyExists, LosslakeError
    from ..store.lake import Lake
    from .answers import Recording
    from .checkpoint import Checkpointing
    from .fleet_stacked import trained_stack
    from .recipe import from_json
    from .run_plan import RunPlan
    from .train import train_run
    from .train_step import TrainStep
    from .training_data import DeviceData, TrainingData

    torch.set_num_threads(1)
    folder = Path(setup["folder"])
    lake = Lake.open(setup["lake"])
    data = TrainingData.load(folder)
    records = np.load(folder / "records.npy", mmap_mode="r", allow_pickle=False)
    recipe = from_json(setup["recipe"])
    recording = Recording(**{**setup["recording"], "queries": tuple(setup["recording"]["queries"])})
    held = DeviceData(data, torch.device(setup["device"]), normalize=recipe.normalize)
    step = TrainStep(held, recipe, compiled=setup["compiled"])
    checkpointing = setup["checkpointing"] and Checkpointing(**setup["checkpointing"])

    def tell(event: str, **facts: Any) -> None:
        with suppress(BrokenPipeError):  # without a parent the input ends too, and that is what counts
            answers.write(json.dumps({"event": event, **facts}) + "\n")
            answers.flush()

    def alone(number: int, plan: dict[str, Any]) -> None:
        try:
            train_run(
                lake,
                setup["experiment"],
                data,
                recipe,
                RunPlan(**plan),
                np.array(records[number]),
                recording=recording,
                step=step,
                checkpointing=checkpointing,
                on_epoch=lambda epoch, loss: tell("epoch", number=number, epoch=epoch),
                on_note=lambda sentence: tell("note", number=number, sentence=sentence),
            )
            tell("done", number=number)
        except AlreadyExists:
            tell("done", number=number)  # another process committed the same run in the meantime
        except LosslakeError as error:
            tell("failed", number=number, message=str(error))
        except Exception as error:  # one run's failure is told, the others go on
            traceback.print_exc()
            tell("failed", number=number, message=f"{type(error).__name__}: {error}")

    def stacked(numbers: list[int], plans: list[dict[str, Any]]) -> None:
        failures = trained_stack(
            lake,
            setup["experiment"],
            data,
            held,
            recipe,
            recording,
            [RunPlan(**plan) for plan in plans],
            [np.array(records[number]) for number in numbers],
            on_epoch=lambda place, epoch: tell("epoch", number=numbers[place], epoch=epoch),
        )
        for number, failure in zip(numbers, failures, strict=True):
            if failure is None:
                tell("done", number=number)
            else:
                tell("failed", number=number, message=failure)

    tell("ready")
    idle.set()
    while (task := tasks.get()) is not None:
        idle.clear()
        if setup["stacked"]:
            stacked(task["numbers"], task["plans"])
        else:
            for number, plan in zip(task["numbers"], task["plans"], strict=True):
                alone(number, plan)
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
