"""What a fleet has to train, and how far it is: epochs are counted, runs that failed remembered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..experiment.prepare import Prepared
from ..progress import Progress
from ..recipe import Recipe, to_json
from ..signals.ask import Recording
from ..train.checkpoint import Checkpointing
from ..train.run import RunPlan

RecordsOf = Callable[[int], np.ndarray]
"""What the plan of that number trains on: bool (N,). A function, so that no fleet needs a row a run in memory."""


@dataclass(frozen=True, eq=False)
class FleetWork:
    """Train the plans of the numbers ``todo``, each on its ``records``, by one recipe, on one device.

    ``stack`` models at a time are trained as one; ``compiled``: a process compiles one for all of its runs.
    """

    prepared: Prepared
    recipe: Recipe
    plans: Sequence[RunPlan]
    todo: Sequence[int]
    records: RecordsOf
    recording: Recording
    device: torch.device
    compiled: bool
    stack: int
    checkpointing: Checkpointing | None
    watch: Watch

    def parts(self) -> Iterator[list[int]]:
        """The numbers of the runs, ``stack`` at a time."""
        return (list(self.todo[at : at + self.stack]) for at in range(0, len(self.todo), self.stack))

    def setup(self) -> dict[str, Any]:
        """What every process is told of all runs, as JSON values; see `Runs`."""
        return {
            "lake": self.prepared.lake.path,
            "experiment": self.prepared.experiment.name,
            "recipe": to_json(self.recipe),
            "recording": self.recording.to_json(),
            "device": str(self.device),
            "compiled": self.compiled,
            "stacked": self.stack > 1,
            "checkpointing": self.checkpointing and dataclasses.asdict(self.checkpointing),
        }


class Watch:
    """Counts epochs over all runs and remembers which runs failed."""

    def __init__(self, plans: Sequence[RunPlan], epochs: int, progress: Progress) -> None:
        self._plans, self._epochs, self._progress = plans, epochs, progress
        self._at = [0] * len(plans)
        self.failed: dict[int, str] = {}

    def say(self, words: str) -> None:
        """A few words about the whole."""
        self._progress.advance(0, words)

    def note(self, sentence: str) -> None:
        self._progress.note(sentence)

    def done(self, number: int) -> None:
        self._advance(number, self._epochs, "is in the lake")

    def fail(self, number: int, message: str) -> None:
        self.failed[number] = message
        self._advance(number, self._epochs, f"failed: {message}")

    def tell(self, event: str, number: int, **facts: Any) -> None:
        """One of the events of `Runs`."""
        if event == "epoch":
            self._advance(number, facts["epoch"], f"epoch {facts['epoch']}/{self._epochs}")
        elif event == "note":
            self.note(facts["sentence"])
        elif event == "done":
            self.done(number)
        else:
            self.fail(number, facts["message"])

    def summary(self, tried: int) -> str:
        """Which of the ``tried`` runs failed, and why, for an error."""
        named = [
            message if self._plans[number].run in message else f"{self._plans[number].run}: {message}"
            for number, message in sorted(self.failed.items())
        ]
        more = f"; and {len(named) - 3} more" if len(named) > 3 else ""
        rest = "; the others are in the lake" if tried > len(named) else ""
        return f"{len(named)} of {tried} runs failed{rest}: {'; '.join(named[:3])}{more}"

    def _advance(self, number: int, epoch: int, words: str) -> None:
        more, self._at[number] = epoch - self._at[number], epoch  # several where a run is gone on with
        self._progress.advance(more, f"{self._plans[number].run} {words}")
