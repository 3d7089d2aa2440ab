"""The runs of a fleet some at a time as one: where that is possible, and doing it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ...store.errors import AlreadyExists, InvalidOption, LosslakeError, TrainingFailed
from ...store.lake import Lake
from ..data.training import DeviceData, TrainingData
from ..experiment.prepare import Prepared
from ..recipe import Recipe
from ..signals.ask import Recording
from ..train.finish import TrainedModel, commit_trained
from ..train.plan import RunPlan, RunSetup
from ..train.stacked_mlp import OnEpoch, stackable, train_stack
from .work import FleetWork, parts

_SIZE = 32
"""Models in a stack unless told."""


def stack_size(
    wanted: int | None,
    prepared: Prepared,
    recipe: Recipe,
    recording: Recording,
    device: torch.device,
    jobs: int | None,
) -> int:
    """How many models to train as one; 1: each on its own. Raises InvalidOption where that is not possible."""
    data = prepared.data
    augmented = data.pictures and (recipe.flip or recipe.crop > 0)
    possible = stackable(recipe, recording, augmented=augmented, soft=data.soft is not None)
    if wanted is None:
        return _SIZE if possible and device.type == "cuda" and jobs is None else 1
    if wanted < 1:
        raise InvalidOption(f"stack is {wanted}; it must be 1 or more")
    if wanted > 1 and not possible:
        raise InvalidOption(
            "only plain mlps can be trained as a stack: by sgd in fp32, without dropout, flips, crops, clipped gradients, "
            "DP-SGD, early stopping, traces or soft labels; leave stack out"
        )
    return wanted


def train_stacked(work: FleetWork, size: int) -> None:
    """Train ``size`` models at a time as one, in this process."""
    prepared, watch = work.prepared, work.watch
    held = DeviceData(prepared.data, work.device, normalize=work.recipe.normalize)
    for numbers in parts(work.todo, size):

        def on_epoch(place: int, epoch: int, numbers: Sequence[int] = numbers) -> None:
            watch.epoch(numbers[place], epoch)

        failures = trained_stack(
            prepared.lake,
            prepared.experiment.name,
            prepared.data,
            held,
            work.recipe,
            work.recording,
            [work.plans[number] for number in numbers],
            [work.records(number) for number in numbers],
            on_epoch=on_epoch,
        )
        for number, failure in zip(numbers, failures, strict=True):
            if failure is None:
                watch.done(number)
            else:
                watch.fail(number, failure)


def trained_stack(
    lake: Lake,
    experiment: str,
    data: TrainingData,
    held: DeviceData,
    recipe: Recipe,
    recording: Recording,
    plans: Sequence[RunPlan],
    rows: Sequence[np.ndarray],
    *,
    on_epoch: OnEpoch,
) -> Iterator[str | None]:
    """Train a model for each plan on its ``rows``, bool (N,), as one stack, then commit them one after another.

    Yields for each, once it is in the lake, None, or why it failed.
    """
    trained = train_stack(held, recipe, plans, rows, on_epoch=on_epoch)
    for plan, row, each in zip(plans, rows, trained, strict=True):
        try:
            if each.model is None:
                raise TrainingFailed(each.failure)
            setup = RunSetup(plan, recipe, data, held, row, recording)
            told = {"stacked": len(plans)}
            commit_trained(
                lake, experiment, TrainedModel(setup, each.model, recipe.epochs, each.seconds, told)
            )
        except AlreadyExists:
            pass  # another process committed the same run in the meantime
        except LosslakeError as error:
            yield str(error)
            continue
        yield None
