"""What a worker does with the runs it is given: trains them, commits them, and tells of each how it went."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ...store.errors import AlreadyExists, LosslakeError
from ...store.lake import Lake
from ..data.training import DeviceData, TrainingData
from ..recipe import from_json
from ..signals.ask import Recording
from ..train.checkpoint import Checkpointing
from ..train.plan import RunPlan
from ..train.step import TrainStep
from ..train.trainer import train_run
from .stacked import trained_stack

Tell = Callable[..., None]
"""``tell(event, number=..., ...)``: "epoch" with epoch, "note" with sentence, "done", "failed" with message."""


class WorkerRuns:
    """The runs of one worker: what they share, on the device, and what ``setup`` says of all of them.

    ``setup`` is what `workers_setup` made, or the same from JSON.
    """

    def __init__(self, setup: Mapping[str, Any], data: TrainingData, tell: Tell) -> None:
        self._lake, self._experiment = Lake.open(setup["lake"]), setup["experiment"]
        self._data, self._tell = data, tell
        self._recipe = from_json(setup["recipe"])
        recording = setup["recording"]
        self._recording = Recording(**{**recording, "queries": tuple(recording["queries"])})
        self._held = DeviceData(data, torch.device(setup["device"]), normalize=self._recipe.normalize)
        self._step = TrainStep(self._held, self._recipe, compiled=setup["compiled"])
        self._checkpointing = setup["checkpointing"] and Checkpointing(**setup["checkpointing"])
        self._stacked = setup["stacked"]

    def train(
        self, numbers: Sequence[int], plans: Sequence[Mapping[str, Any]], rows: Sequence[np.ndarray]
    ) -> None:
        """Train the runs of these numbers, each on its row, bool (N,). The last word of each is "done" or "failed"."""
        runs = [RunPlan(**plan) for plan in plans]
        if self._stacked:
            self._train_stacked(numbers, runs, rows)
        else:
            for number, plan, row in zip(numbers, runs, rows, strict=True):
                self._train_alone(number, plan, row)

    def _train_alone(self, number: int, plan: RunPlan, row: np.ndarray) -> None:
        tell = self._tell
        try:
            train_run(
                self._lake,
                self._experiment,
                self._data,
                self._recipe,
                plan,
                row,
                recording=self._recording,
                step=self._step,
                checkpointing=self._checkpointing,
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

    def _train_stacked(
        self, numbers: Sequence[int], plans: Sequence[RunPlan], rows: Sequence[np.ndarray]
    ) -> None:
        failures = trained_stack(
            self._lake,
            self._experiment,
            self._data,
            self._held,
            self._recipe,
            self._recording,
            plans,
            rows,
            on_epoch=lambda place, epoch: self._tell("epoch", number=numbers[place], epoch=epoch),
        )
        for number, failure in zip(numbers, failures, strict=True):
            if failure is None:
                self._tell("done", number=number)
            else:
                self._tell("failed", number=number, message=failure)
