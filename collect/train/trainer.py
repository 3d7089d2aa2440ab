"""The built-in trainer: one model trained, its traces and its signals, as one run of the lake."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from ...store.format.records import Run
from ...store.lake import Lake
from ..data.training import TrainingData
from ..grad_norms.hooks import GradNormWatcher
from ..hook.recorder import TraceRecorder
from ..random_streams import seeded
from ..recipe import Recipe
from ..signals.ask import Recording
from .checkpoint import Checkpointing, Checkpoints
from .loop import Training, eval_point
from .run import RunPlan, RunSetup, answer_and_commit
from .step import TrainStep, eval_batch, on_device


def train_run(
    lake: Lake,
    experiment: str,
    data: TrainingData,
    recipe: Recipe,
    plan: RunPlan,
    records: np.ndarray,
    *,
    recording: Recording | None = None,
    step: TrainStep | None = None,
    checkpointing: Checkpointing | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Run:
    """Train one model on ``records``, bool (N,), its members, and commit its traces and signals as a run.

    Where ``data`` has soft labels the model learns these; no record is then a member of it, whose label it never saw,
    and it has no train trace and no train accuracy.

    Everything random follows from ``plan.seed``: on a CPU with the same number of threads the same call
    gives the same values. ``step`` is the model that many runs in a row share, with the data on their device (default: a
    model of its own, on the CPU).
    ``on_epoch(epoch, loss)`` is called after each epoch with the mean training loss.

    With ``checkpointing`` a run whose process was stopped goes on where its last checkpoint was made, with the values
    that it would have had (see `Checkpoints`); ``on_note`` is told so, in a sentence. What was trained before is not
    told to ``on_epoch`` again, and ``extra`` says under resumed_after after which epochs that was.

    With DP-SGD (see `PrivateSteps`) a train trace has a gap where a record was in no batch of an epoch. ``extra`` tells
    of DP-SGD under dp, of early stopping under early_stop; ``epochs`` are those trained.

    Raises TrainingFailed where the loss stops being finite, and then nothing is committed; InvalidInput for
    members that do not fit; AlreadyExists where the run is committed.
    """
    recording = recording or Recording()
    if step is None:
        step = TrainStep(on_device(data, torch.device("cpu"), recipe), recipe)
    held = step.held
    setup = RunSetup(plan, recipe, data, held, records, recording)
    with (
        lake.write_run(experiment, plan.run, members=setup.members) as writer,
        seeded(held.device, plan.seed),
        nullcontext()
        if checkpointing is None
        else Checkpoints(lake, writer, setup, checkpointing, on_note) as checkpoints,
    ):
        recorder = TraceRecorder(writer) if recording.traces else None
        started = time.perf_counter()
        model = step.start(torch.from_numpy(np.flatnonzero(records)))
        try:
            epochs, told = _train(setup, step, recorder, on_epoch, checkpoints)
            if recorder is not None:
                recorder.finish()
            seconds = time.perf_counter() - started
            if checkpoints is not None:
                seconds += checkpoints.seconds_before
            return answer_and_commit(writer, setup, model, epochs=epochs, seconds=seconds, told=told)
        finally:
            if recorder is not None:
                recorder.stop()


def _train(
    setup: RunSetup,
    step: TrainStep,
    recorder: TraceRecorder | None,
    on_epoch: Callable[[int, float], None] | None,
    checkpoints: Checkpoints | None,
) -> tuple[int, dict[str, Any]]:
    """Train the model; how many epochs, and what there is to tell of it."""
    held, recipe, recording = setup.held, setup.recipe, setup.recording
    audit = np.flatnonzero(~held.population)
    training = Training(step, setup.plan, setup.records)
    if checkpoints is not None:
        checkpoints.resume(training, recorder)
    if recorder is not None and training.epoch == 0:
        eval_point(step, recording, recorder, 0, audit)
    # Soft labels are taught to records that are nobody's members; nothing is traced of them.
    wanted = recording.grad_norms == "train" and held.soft is None
    watcher = GradNormWatcher(step.model.train()) if wanted else None
    while training.epoch < recipe.epochs:
        mean = training.next_epoch(recorder, watcher)
        if recorder is not None:
            recorder.end_epoch()
            eval_point(step, recording, recorder, training.epoch, audit)
        if on_epoch is not None:
            on_epoch(training.epoch, mean)
        if training.stopping is not None and training.stopping.is_over(eval_batch(held.device)):
            break
        if checkpoints is not None:
            checkpoints.after_epoch(training, recorder)
    if watcher is not None:
        watcher.remove()
    told = training.told()
    if checkpoints is not None and checkpoints.resumed_after:
        told["resumed_after"] = checkpoints.resumed_after
    return training.epoch, told
