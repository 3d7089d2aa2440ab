"""A process that trains runs for a fleet: ``python -m losslake.collect.fleet.worker``. See `pool`.

It is told what to do by lines of JSON on its standard input and answers with lines of JSON on what was its
standard output. When its input ends, because the parent closed it or died, it stops and leaves nothing half-done.
"""

from __future__ import annotations

import signal

# A Ctrl-C goes to the whole process group; the parent decides what it means for its workers.
signal.signal(signal.SIGINT, signal.SIG_IGN)

import os  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ...store.line_processes import Inside  # noqa: E402

_GRACE_SECONDS = 20.0
"""How long a worker may take to clean up before it ends itself."""


def main() -> None:
    """Train what the lines on standard input ask for, until they end."""
    _serve(Inside(_GRACE_SECONDS))
    from ...store.write import leases

    leases.release()
    os._exit(0)  # nothing is open; unloading torch would take another second


def _serve(inside: Inside) -> None:
    import numpy as np
    import torch

    from ...store.lake import Lake
    from ..data.training import TrainingData
    from ..train.run import RunPlan
    from .runs import Runs

    torch.set_num_threads(1)
    setup = inside.setup
    folder = Path(setup["folder"])
    records = np.load(folder / "records.npy", mmap_mode="r", allow_pickle=False)

    def tell(event: str, **facts: Any) -> None:
        inside.tell({"event": event, **facts})

    runs = Runs(Lake.open(setup["lake"]), setup, TrainingData.load(folder), tell)
    tell("ready")
    for task in inside.tasks():
        numbers = task["numbers"]
        plans = [RunPlan(**plan) for plan in task["plans"]]
        runs.train(numbers, plans, [np.array(records[number]) for number in numbers])


if __name__ == "__main__":
    main()
