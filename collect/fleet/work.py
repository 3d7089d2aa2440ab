"""What a fleet has to train, and how far it is: epochs are counted, runs that failed remembered."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..experiment.prepare import Prepared
from ..progress import Progress
from ..recipe import Recipe, to_json
from ..signals.ask import Recording
from ..train.checkpoint import Checkpointing
from ..train.plan import RunPlan
from .pool import Event, run_in_workers

RecordsOf = Callable[[int], np.ndarray]
"""What the plan of that number trains on: bool (N,). A function, so that no fleet needs a row a run in memory."""


@dataclass(frozen=True, eq=False)
class FleetWork:
    """Train the plans of the numbers ``todo``, each on its ``records``, by one recipe, on one device."""

    prepared: Prepared
    recipe: Recipe
    plans: Sequence[RunPlan]
    todo: Sequence[int]
    records: RecordsOf
    recording: Recording
    device: torch.device
    checkpointing: Checkpointing | None
    watch: Watch


class Watch:
    """Counts epochs over all runs and remembers which runs failed."""

    def __init__(self, plans: Sequence[RunPlan], epochs: int, progress: Progress) -> None:
        self._plans, self._epochs, self._progress = plans, epochs, progress
        self._at = [0] * len(plans)
        self.failed: dict[int, str] = {}

    def epoch(self, number: int, epoch: int) -> None:
        more, self._at[number] = epoch - self._at[number], epoch  # several where a run is gone on with
        self._progress.advance(more, f"{self._plans[number].run} epoch {epoch}/{self._epochs}")

    def note(self, sentence: str) -> None:
        self._progress.note(sentence)

    def say(self, words: str) -> None:
        """A few words about the whole."""
        self._progress.advance(0, words)

    def done(self, number: int) -> None:
        self._progress.advance(self._epochs - self._at[number], f"{self._plans[number].run} is in the lake")

    def fail(self, number: int, message: str) -> None:
        self.failed[number] = message
        self._progress.advance(
            self._epochs - self._at[number], f"{self._plans[number].run} failed: {message}"
        )

    def summary(self, tried: int) -> str:
        """Which of the ``tried`` runs failed, and why, for an error."""
        named = [
            message if self._plans[number].run in message else f"{self._plans[number].run}: {message}"
            for number, message in sorted(self.failed.items())
        ]
        more = f"; and {len(named) - 3} more" if len(named) > 3 else ""
        rest = "; the others are in the lake" if tried > len(named) else ""
        return f"{len(named)} of {tried} runs failed{rest}: {'; '.join(named[:3])}{more}"

    def event(self, event: Event) -> None:
        number = event["number"]
        if event["event"] == "epoch":
            self.epoch(number, event["epoch"])
        elif event["event"] == "note":
            self.note(event["sentence"])
        elif event["event"] == "done":
            self.done(number)
        else:
            self.fail(number, event["message"])


def parts(todo: Sequence[int], stack: int) -> Iterator[Sequence[int]]:
    """The numbers of the runs, ``stack`` at a time."""
    return (todo[start : start + stack] for start in range(0, len(todo), stack))


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
