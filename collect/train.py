"""The built-in trainer: one model trained, its traces and its signals, as one run of the lake."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ..store.errors import InvalidInput, TrainingFailed
from ..store.lake import Lake
from ..store.records import Role, Run, RunInfo
from ..store.writer import RunWriter
from .answers import Recording, append_answers, outputs
from .dp_training import PrivateSteps
from .early_stopping import EarlyStopping, held_out
from .evaluation import eval_mode
from .grad_norm_pass import norms_of_batch
from .grad_norms import GradNormWatcher
from .optimizers import set_rate
from .queries import AS_IT_IS
from .recipe import Recipe, to_json
from .recorder import TraceRecorder
from .run_facts import device_name, versions
from .schedule import learning_rate
from .step_signals import loss_and_margin
from .train_step import TrainStep, eval_batch
from .training_data import DeviceData, TrainingData

OnEpoch = Callable[[int, float], None]

_WEIGHTS, _ORDER, _AUGMENTATION, _NOISE = 1, 2, 3, 4


@dataclass(frozen=True)
class RunPlan:
    """One run to train: its name, role, the seed of weights, order and augmentation, and what it derives from."""

    run: str
    role: Role
    seed: int
    parent: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def train_run(
    lake: Lake,
    experiment: str,
    data: TrainingData,
    recipe: Recipe,
    plan: RunPlan,
    records: np.ndarray,
    *,
    recording: Recording | None = None,
    device: torch.device | None = None,
    held: DeviceData | None = None,
    step: TrainStep | None = None,
    on_epoch: OnEpoch | None = None,
) -> Run:
    """Train one model on ``records``, bool (N,), its members, and commit its traces and signals as a run.

    Where ``data`` has soft labels the model learns these; no record is then a member of it, whose label it never saw,
    and it has no train trace and no train accuracy.

    Everything random follows from ``plan.seed``: on a CPU with the same number of threads the same call
    gives the same values. ``held`` is the data on the device already, for many runs in a row, and ``step`` the model
    that they share, which is on ``held``.
    ``on_epoch(epoch, loss)`` is called after each epoch with the mean training loss.

    With DP-SGD (see `PrivateSteps`) a train trace has a gap where a record was in no batch of an epoch. ``extra`` tells
    of DP-SGD under dp, of early stopping under early_stop; ``epochs`` are those trained.

    Raises TrainingFailed where the loss stops being finite, and then nothing is committed; InvalidInput for
    members that do not fit; AlreadyExists where the run is committed.
    """
    recording = recording or Recording()
    if step is not None:
        held = step.held
    held = held or DeviceData(data, device or torch.device("cpu"), normalize=recipe.normalize)
    members = records if data.soft is None else np.zeros_like(records)
    with (
        lake.write_run(experiment, plan.run, members=members) as writer,
        seeded(held.device, plan.seed),
    ):
        started = time.perf_counter()
        step = step or TrainStep(held, recipe)
        model = step.start(torch.from_numpy(np.flatnonzero(records)))
        recorder = TraceRecorder(writer) if recording.traces else None
        try:
            epochs, told = _train(step, plan, records, recording, recorder, on_epoch)
            if recorder is not None:
                recorder.finish()
        finally:
            if recorder is not None:
                recorder.stop()
        seconds = time.perf_counter() - started
        return _answer(
            writer,
            model,
            held,
            data,
            recipe,
            plan,
            records,
            recording,
            epochs=epochs,
            seconds=seconds,
            told=told,
        )


def commit_trained(
    lake: Lake,
    experiment: str,
    data: TrainingData,
    held: DeviceData,
    recipe: Recipe,
    plan: RunPlan,
    records: np.ndarray,
    model: nn.Module,
    *,
    recording: Recording,
    seconds: float,
    told: Mapping[str, Any],
) -> Run:
    """Ask a model that was trained by the recipe on ``records`` about every sample, and commit it as `train_run` does.

    ``told`` goes into the run's ``extra``.
    """
    members = records if data.soft is None else np.zeros_like(records)
    with lake.write_run(experiment, plan.run, members=members) as writer:
        return _answer(
            writer,
            model,
            held,
            data,
            recipe,
            plan,
            records,
            recording,
            epochs=recipe.epochs,
            seconds=seconds,
            told=told,
        )


def _answer(
    writer: RunWriter,
    model: nn.Module,
    held: DeviceData,
    data: TrainingData,
    recipe: Recipe,
    plan: RunPlan,
    records: np.ndarray,
    recording: Recording,
    *,
    epochs: int,
    seconds: float,
    told: Mapping[str, Any],
) -> Run:
    """Write what the trained model says of every sample, and commit the run."""
    members = records if data.soft is None else np.zeros_like(records)
    # In float32 whatever it was trained in: phi loses what bf16 rounds away.
    with eval_mode(model):
        ask = partial(outputs, model, held, batch=eval_batch(held.device))
        try:
            found = append_answers(
                writer, data.y, partial(ask, held.x, features=recording.features), recording
            )
        except InvalidInput as error:
            raise TrainingFailed(f"run {plan.run!r} diverged in its last steps: {error}") from error
        tested = None
        if data.test_x is not None:
            tested, _ = ask(torch.from_numpy(data.test_x), query=AS_IT_IS)
    correct = found.correct
    test_accuracy, tested_on = _test_accuracy(data, tested, correct, records)
    return writer.commit(
        RunInfo(
            role=plan.role,
            seed=plan.seed,
            dataset=data.dataset,
            model=recipe.model,
            recipe=to_json(recipe),
            epochs=epochs,
            train_accuracy=float(correct[members].mean()) if members.any() else None,
            test_accuracy=test_accuracy,
            seconds=round(seconds, 3),
            device=device_name(held.device),
            versions=versions(),
            parent=plan.parent,
            extra={**plan.extra, **told, "recording": recording.to_json(), "tested_on": tested_on},
        )
    )


def _train(
    step: TrainStep,
    plan: RunPlan,
    records: np.ndarray,
    recording: Recording,
    recorder: TraceRecorder | None,
    on_epoch: OnEpoch | None,
) -> tuple[int, dict[str, Any]]:
    """Train the model; how many epochs, and what there is to tell of its defences."""
    held, recipe, model = step.held, step.recipe, step.model
    audit = np.flatnonzero(~held.population)
    chosen = torch.from_numpy(np.flatnonzero(records))
    order = order_of(plan.seed)
    augmentation = torch.Generator(held.device).manual_seed(_stream(plan.seed, _AUGMENTATION))
    optimizer, scaler = step.optimizer, step.scaler
    flips = _flips(held, recipe, augmentation)
    private = None
    if recipe.private:
        noise = torch.Generator(held.device).manual_seed(_stream(plan.seed, _NOISE))
        private = PrivateSteps(model, optimizer, recipe, len(chosen), sampling=order, noise=noise)
        optimizer = private.optimizer
    stopping = None
    if recipe.early_stop is not None:
        stopping = EarlyStopping(model, held, held_out(held.population, records), recipe.early_stop)
    done = epoch = 0
    if recorder is not None:
        _eval_point(step, recording, recorder, 0, audit)
    # Soft labels are taught to records that are nobody's members; nothing is traced of them.
    wanted = recording.grad_norms == "train" and held.soft is None
    watcher = GradNormWatcher(model.train()) if wanted else None
    for epoch in range(1, recipe.epochs + 1):
        model.train()
        total, seen = torch.zeros((), device=held.device), 0
        if private is None:
            shuffled = chosen[torch.randperm(len(chosen), generator=order)].to(held.device)
            parts = split(shuffled, recipe.batch_size)
            batches, steps = iter(parts), len(parts)
        else:
            batches, steps = private.batches(chosen.to(held.device)), private.steps
        for ids in batches:
            set_rate(optimizer, learning_rate(recipe, done, steps))
            done += 1
            if private is not None and len(ids) == 0:
                private.step_on_nothing()
                continue
            x, mirrored = held.augmented(
                held.x[ids],
                flip=flips(ids, epoch),
                crop=recipe.crop,
                border=recipe.crop_border,
                generator=augmentation,
            )
            y = held.y[ids]
            optimizer.zero_grad(set_to_none=True)
            if watcher is not None:
                watcher.begin()
            logits = step.logits(x)
            loss = step.loss(logits, ids, y, mirrored)
            if watcher is not None:
                watcher.loss(loss, ids, len(ids))
            scaler.scale(loss).backward()
            if recipe.clip_norm is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            scaler.step(optimizer)
            scaler.update()
            total += loss.detach() * len(ids)
            seen += len(ids)
            if recorder is not None and held.soft is None:
                with torch.no_grad():
                    recorder.record(ids, *loss_and_margin(logits.detach(), y))
                if watcher is not None:
                    for found in watcher.take():
                        recorder.record_grad_norm(found, watcher.names)
        # The one place in an epoch where the host waits for the device.
        mean = total.item() / max(seen, 1)
        if not np.isfinite(mean):
            raise TrainingFailed(
                f"run {plan.run!r} diverged in epoch {epoch} of {recipe.epochs}: its loss is {mean}; lower lr "
                f"({recipe.lr:g}) or set clip_norm or warmup_epochs"
            )
        if recorder is not None:
            recorder.end_epoch()
            _eval_point(step, recording, recorder, epoch, audit)
        if on_epoch is not None:
            on_epoch(epoch, mean)
        if stopping is not None and stopping.is_over(eval_batch(held.device)):
            break
    if watcher is not None:
        watcher.remove()
    told = {}
    if private is not None:
        told["dp"] = private.report()
    if stopping is not None:
        stopping.restore()
        told["early_stop"] = stopping.report()
    return epoch, told


def _eval_point(
    step: TrainStep,
    recording: Recording,
    recorder: TraceRecorder,
    epoch: int,
    audit: np.ndarray,
) -> None:
    held, model = step.held, step.model
    losses, margins, norms = [], [], []
    with eval_mode(model), ExitStack() as stack:
        watcher, size = None, eval_batch(held.device)
        if recording.grad_norms == "eval":
            watcher, size = stack.enter_context(GradNormWatcher(model)), size // 2
        for ids in torch.from_numpy(audit).to(held.device).split(size):
            x, y = held.x[ids], held.y[ids]
            if watcher is None:
                logits = step.logits(x)
            else:
                with step.autocast():
                    logits, norm = norms_of_batch(watcher, model, held.inputs(x), y)
                norms.append(norm)
            loss, margin = loss_and_margin(logits, y)
            losses.append(loss)
            margins.append(margin)
    traced = (torch.cat(each) for each in (losses, margins, norms) if each)
    recorder.write_pass("eval", epoch, audit, *traced)


def _flips(
    held: DeviceData, recipe: Recipe, generator: torch.Generator
) -> Callable[[torch.Tensor, int], bool | torch.Tensor]:
    """Which of the records ``ids`` to mirror in an epoch, bool (B,), or only whether to mirror at random."""
    if not (recipe.flip and recipe.flip_order == "alternate" and held.pictures):
        return lambda ids, epoch: recipe.flip
    first = torch.rand(len(held.x), generator=generator, device=held.device) < 0.5
    return lambda ids, epoch: first[ids] ^ (epoch % 2 == 0)


def split(ids: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Batches of ``size`` and a rest; a rest of one joins the batch before it, as BatchNorm needs two values."""
    parts = list(ids.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _test_accuracy(
    data: TrainingData, tested: np.ndarray | None, correct: np.ndarray, records: np.ndarray
) -> tuple[float | None, str | None]:
    """Share of right predictions on what the run never saw, and what that was."""
    if tested is not None and data.test_y is not None:
        return float((tested.argmax(axis=1) == data.test_y).mean()), "test split"
    outside = ~records & ~data.population
    return (
        (float(correct[outside].mean()), "audit samples that are no members")
        if outside.any()
        else (None, None)
    )


def order_of(seed: int) -> torch.Generator:
    """The stream that a run's batches are drawn from: one permutation of its records an epoch."""
    return torch.Generator().manual_seed(_stream(seed, _ORDER))


def _stream(seed: int, purpose: int) -> int:
    """A seed of its own for each purpose, so that no two random streams of a run are the same one."""
    return int(np.random.SeedSequence([seed, purpose]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """torch's global streams (weights, dropout) seeded in the block, and as they were after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_stream(seed, _WEIGHTS))
        yield
