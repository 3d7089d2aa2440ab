"""What a process does with the runs of a fleet that it is given: trains them, commits them, and tells of each how it went."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ...store.errors import AlreadyExists, LosslakeError, TrainingFailed
from ...store.lake import Lake
from ..data.training import TrainingData
from ..estimators.run import fit_run
from ..recipe import from_json
from ..signals.ask import Recording
from ..train.checkpoint import Checkpointing
from ..train.run import RunPlan, RunSetup, answer_and_commit
from ..train.stacked_mlp import train_stack
from ..train.step import TrainStep, on_device
from ..train.trainer import train_run

Tell = Callable[..., None]
"""``tell(event, number=..., ...)``: "epoch" with epoch, "note" with sentence, "done", "failed" with message."""


class Runs:
    """The runs of one process: what they share, on the device, and what ``setup`` says of all of them.

    ``setup`` is what `FleetWork.setup` made, or the same from JSON.
    """

    def __init__(self, lake: Lake, setup: Mapping[str, Any], data: TrainingData, tell: Tell) -> None:
        self._lake, self._experiment, self._data, self._tell = lake, setup["experiment"], data, tell
        self._recipe = from_json(setup["recipe"])
        recording = setup["recording"]
        self._recording = Recording(**{**recording, "queries": tuple(recording["queries"])})
        self._stacked = setup["stacked"]
        if self._recipe.estimator is not None:
            return  # nothing of it lies on a device
        held = on_device(data, torch.device(setup["device"]), self._recipe)
        self._step = TrainStep(held, self._recipe, compiled=setup["compiled"] and not self._stacked)
        self._checkpointing = setup["checkpointing"] and Checkpointing(**setup["checkpointing"])

    def train(self, numbers: Sequence[int], plans: Sequence[RunPlan], rows: Sequence[np.ndarray]) -> None:
        """Train the runs of these numbers, each on its row, bool (N,). The last word of each is "done" or "failed"."""
        if self._stacked:
            self._train_stacked(numbers, plans, rows)
            return
        for number, plan, row in zip(numbers, plans, rows, strict=True):
            with self._telling_the_end(number):
                self._train_alone(number, plan, row)

    def _train_alone(self, number: int, plan: RunPlan, row: np.ndarray) -> None:
        if self._recipe.estimator is not None:
            fit_run(
                self._lake,
                self._experiment,
                self._data,
                self._recipe,
                plan,
                row,
                self._recording,
                on_epoch=lambda epoch: self._tell("epoch", number=number, epoch=epoch),
            )
            return
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
            on_epoch=lambda epoch, loss: self._tell("epoch", number=number, epoch=epoch),
            on_note=lambda sentence: self._tell("note", number=number, sentence=sentence),
        )

    def _train_stacked(
        self, numbers: Sequence[int], plans: Sequence[RunPlan], rows: Sequence[np.ndarray]
    ) -> None:
        """Train the runs as one stack, then commit them one after another, without traces."""
        held, recipe = self._step.held, self._recipe
        trained = train_stack(
            held,
            recipe,
            plans,
            rows,
            on_epoch=lambda place, epoch: self._tell("epoch", number=numbers[place], epoch=epoch),
        )
        for number, plan, row, each in zip(numbers, plans, rows, trained, strict=True):
            with self._telling_the_end(number):
                if each.model is None:
                    raise TrainingFailed(each.failure)
                setup = RunSetup(plan, recipe, self._data, held, row, self._recording)
                with self._lake.write_run(self._experiment, plan.run, members=setup.members) as writer:
                    answer_and_commit(
                        writer,
                        setup,
                        each.model,
                        epochs=recipe.epochs,
                        seconds=each.seconds,
                        told={"stacked": len(plans)},
                    )

    @contextmanager
    def _telling_the_end(self, number: int) -> Iterator[None]:
        try:
            yield
        except AlreadyExists:
            pass  # another process committed the same run in the meantime
        except LosslakeError as error:
            self._tell("failed", number=number, message=str(error))
            return
        except Exception as error:  # a model of the user's, as a rule; the others go on
            traceback.print_exc()
            self._tell("failed", number=number, message=f"{type(error).__name__}: {error}")
            return
        self._tell("done", number=number)
