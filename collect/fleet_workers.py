"""The runs of a fleet side by side: what worker processes are told, and the folder through which they share the data."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .fleet_work import FleetWork
from .recipe import to_json
from .worker_pool import run_in_workers

_FOLDER = "losslake-fleet-"


def train_side_by_side(work: FleetWork, *, compiled: bool, jobs: int, stack: int = 1) -> None:
    """Train in ``jobs`` processes, each ``stack`` models at a time; ``compiled``: each compiles one for all of its runs."""
    prepared, plans = work.prepared, work.plans
    with _shared_folder() as folder:
        prepared.data.save(folder)
        rows = np.lib.format.open_memmap(
            folder / "records.npy", mode="w+", dtype=np.bool_, shape=(len(plans), len(prepared.data))
        )
        for number in work.todo:
            rows[number] = work.records(number)
        rows.flush()
        setup = {
            "lake": prepared.lake.path,
            "experiment": prepared.experiment.name,
            "folder": str(folder),
            "recipe": to_json(work.recipe),
            "recording": work.recording.to_json(),
            "device": str(work.device),
            "compiled": compiled,
            "stacked": stack > 1,
            "checkpointing": work.checkpointing and dataclasses.asdict(work.checkpointing),
        }
        parts = (work.todo[start : start + stack] for start in range(0, len(work.todo), stack))
        tasks = [
            {"numbers": list(part), "plans": [dataclasses.asdict(plans[number]) for number in part]}
            for part in parts
        ]
        run_in_workers(setup, tasks, jobs=jobs, on_event=work.watch.event)


@contextmanager
def _shared_folder() -> Iterator[Path]:
    """A temporary folder that names its process, so that what a killed one left can be removed by the next."""
    base = Path(tempfile.gettempdir())
    for left in base.glob(f"{_FOLDER}*"):
        owner = left.name.removeprefix(_FOLDER).partition("-")[0]
        if owner.isdigit() and not alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def alive(process: int) -> bool:
    """Whether there is a process of this id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's process
    return True
