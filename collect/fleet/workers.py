"""The runs of a fleet side by side: what worker processes are told, and the folder through which they share the data."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..recipe import to_json
from .pool import run_in_workers
from .work import FleetWork, parts

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
        setup = {**workers_setup(work, compiled=compiled, stack=stack), "folder": str(folder)}
        tasks = [
            {"numbers": list(part), "plans": [dataclasses.asdict(plans[number]) for number in part]}
            for part in parts(work.todo, stack)
        ]
        run_in_workers(setup, tasks, jobs=jobs, on_event=work.watch.event)


def workers_setup(work: FleetWork, *, compiled: bool, stack: int) -> dict[str, Any]:
    """What every worker is told of all runs, as JSON values; see `WorkerRuns`."""
    return {
        "lake": work.prepared.lake.path,
        "experiment": work.prepared.experiment.name,
        "recipe": to_json(work.recipe),
        "recording": work.recording.to_json(),
        "device": str(work.device),
        "compiled": compiled,
        "stacked": stack > 1,
        "checkpointing": work.checkpointing and dataclasses.asdict(work.checkpointing),
    }


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
