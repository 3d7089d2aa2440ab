"""What a fleet has to train, and how far it is: epochs are counted, runs that failed remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..experiment.prepare import Prepared
from ..progress import Progress
from ..recipe import Recipe
from ..signals.ask import Recording
from ..train.checkpoint import Checkpointing
from ..train.plan import RunPlan
from .pool import Event

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
