"""The built-in trainer: one model trained, its traces and its signals, as one run of the lake."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ..store.errors import InvalidInput, TrainingFailed
from ..store.lake import Lake
from ..store.records import Role, Run, RunInfo
from ..store.writer import RunWriter
from .answers import Recording, append_answers, outputs
from .evaluation import eval_mode
from .models import build_model
from .recipe import Recipe, to_json
from .recorder import TraceRecorder
from .run_facts import device_name, versions
from .schedule import learning_rate
from .step_signals import loss_and_margin
from .training_data import DeviceData, TrainingData

OnEpoch = Callable[[int, float], None]

# Records a forward pass takes at a time: enough to fill the device, few enough to stay in a CPU's cache.
_EVAL_BATCH = {"cpu": 256, "cuda": 4096}
_WEIGHTS, _ORDER, _AUGMENTATION = 1, 2, 3
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    members: np.ndarray,
    *,
    recording: Recording | None = None,
    device: torch.device | None = None,
    held: DeviceData | None = None,
    on_epoch: OnEpoch | None = None,
) -> Run:
    """Train one model on ``members``, bool (N,), and commit its traces and signals as a run.

    Everything random follows from ``plan.seed``: on a CPU with the same number of threads the same call
    gives the same values. ``held`` is the data on the device already, for many runs in a row.
    ``on_epoch(epoch, loss)`` is called after each epoch with the mean training loss.

    Raises TrainingFailed where the loss stops being finite, and then nothing is committed; InvalidInput for
    members that do not fit; AlreadyExists where the run is committed.
    """
    recording = recording or Recording()
    held = held or DeviceData(data, device or torch.device("cpu"), normalize=recipe.normalize)
    with (
        lake.write_run(experiment, plan.run, members=members) as writer,
        _seeded(held.device, plan.seed),
    ):
        started = time.perf_counter()
        model = _build(data, recipe, held.device)
        recorder = TraceRecorder(writer) if recording.traces else None
        try:
            _train(model, held, recipe, plan, writer, recorder, on_epoch)
            if recorder is not None:
                recorder.finish()
        finally:
            if recorder is not None:
                recorder.stop()
        seconds = time.perf_counter() - started
        # In float32 whatever it was trained in: phi loses what bf16 rounds away.
        with eval_mode(model):
            answers = {
                query: outputs(
                    model, held, held.x, query=query, batch=_eval_batch(held), features=recording.features
                )
                for query in recording.queries
            }
            tested = None
            if data.test_x is not None:
                tested, _ = outputs(
                    model, held, torch.from_numpy(data.test_x), query="original", batch=_eval_batch(held)
                )
        try:
            found = append_answers(writer, data.y, answers, recording.logits)
        except InvalidInput as error:
            raise TrainingFailed(f"run {plan.run!r} diverged in its last steps: {error}") from error
        correct = found[recording.queries[0]].correct
        test_accuracy, tested_on = _test_accuracy(data, tested, correct, members)
        return writer.commit(
            RunInfo(
                role=plan.role,
                seed=plan.seed,
                dataset=data.dataset,
                model=recipe.model,
                recipe=to_json(recipe),
                epochs=recipe.epochs,
                train_accuracy=float(correct[members].mean()),
                test_accuracy=test_accuracy,
                seconds=round(seconds, 3),
                device=device_name(held.device),
                versions=versions(),
                parent=plan.parent,
                extra={**plan.extra, "recording": recording.to_json(), "tested_on": tested_on},
            )
        )


def _train(
    model: nn.Module,
    held: DeviceData,
    recipe: Recipe,
    plan: RunPlan,
    writer: RunWriter,
    recorder: TraceRecorder | None,
    on_epoch: OnEpoch | None,
) -> None:
    audit = np.flatnonzero(~held.population)
    members = torch.from_numpy(np.flatnonzero(writer.members))
    order = torch.Generator().manual_seed(_stream(plan.seed, _ORDER))
    augmentation = torch.Generator(held.device).manual_seed(_stream(plan.seed, _AUGMENTATION))
    optimizer = _optimizer(model, recipe, held.device)
    scaler = torch.amp.GradScaler("cuda", enabled=recipe.precision == "fp16" and held.device.type == "cuda")
    step = 0
    if recorder is not None:
        _eval_point(model, held, recipe, recorder, 0, audit)
    for epoch in range(1, recipe.epochs + 1):
        model.train()
        total = torch.zeros((), device=held.device)
        shuffled = members[torch.randperm(len(members), generator=order)].to(held.device)
        parts = _split(shuffled, recipe.batch_size)
        for ids in parts:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step, len(parts))
            x = held.augmented(held.x[ids], flip=recipe.flip, crop=recipe.crop, generator=augmentation)
            y = held.y[ids]
            optimizer.zero_grad(set_to_none=True)
            with _autocast(recipe, held.device):
                logits = model(held.inputs(x))
            loss = functional.cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing)
            scaler.scale(loss).backward()
            if recipe.clip_norm is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            scaler.step(optimizer)
            scaler.update()
            total += loss.detach() * len(ids)
            if recorder is not None:
                with torch.no_grad():
                    recorder.record(ids, *loss_and_margin(logits.detach(), y))
            step += 1
        # The one place in an epoch where the host waits for the device.
        mean = total.item() / len(members)
        if not np.isfinite(mean):
            raise TrainingFailed(
                f"run {plan.run!r} diverged in epoch {epoch} of {recipe.epochs}: its loss is {mean}; lower lr "
                f"({recipe.lr:g}) or set clip_norm or warmup_epochs"
            )
        if recorder is not None:
            recorder.end_epoch()
            _eval_point(model, held, recipe, recorder, epoch, audit)
        if on_epoch is not None:
            on_epoch(epoch, mean)


def _eval_point(
    model: nn.Module, held: DeviceData, recipe: Recipe, recorder: TraceRecorder, epoch: int, audit: np.ndarray
) -> None:
    losses, margins = [], []
    with eval_mode(model):
        for ids in torch.from_numpy(audit).to(held.device).split(_eval_batch(held)):
            with _autocast(recipe, held.device):
                logits = model(held.inputs(held.x[ids]))
            loss, margin = loss_and_margin(logits, held.y[ids])
            losses.append(loss)
            margins.append(margin)
    recorder.write_pass("eval", epoch, audit, torch.cat(losses), torch.cat(margins))


def _build(data: TrainingData, recipe: Recipe, device: torch.device) -> nn.Module:
    model = build_model(
        recipe.model, input_shape=data.x.shape[1:], classes=data.classes, options=recipe.model_options
    ).to(device)
    return model.to(memory_format=torch.channels_last) if data.pictures else model


def _optimizer(model: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    # Fused steps on a GPU are faster, and with a GradScaler the only ones that do not wait for the device.
    common: dict[str, Any] = {
        "lr": recipe.lr,
        "weight_decay": recipe.weight_decay,
        "fused": True if device.type == "cuda" else None,
    }
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=recipe.momentum, nesterov=recipe.nesterov, **common)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, **common)


def _split(ids: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Batches of ``size`` and a rest; a rest of one joins the batch before it, as BatchNorm needs two values."""
    parts = list(ids.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _test_accuracy(
    data: TrainingData, tested: np.ndarray | None, correct: np.ndarray, members: np.ndarray
) -> tuple[float | None, str | None]:
    """Share of right predictions on what the run never saw, and what that was."""
    if tested is not None and data.test_y is not None:
        return float((tested.argmax(axis=1) == data.test_y).mean()), "test split"
    outside = ~members & ~data.population
    return (
        (float(correct[outside].mean()), "audit samples that are no members")
        if outside.any()
        else (None, None)
    )


def _autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, _PRECISIONS[recipe.precision], enabled=recipe.precision != "fp32")


def _eval_batch(held: DeviceData) -> int:
    return _EVAL_BATCH.get(held.device.type, 1024)


def _stream(seed: int, purpose: int) -> int:
    """A seed of its own for each purpose, so that no two random streams of a run are the same one."""
    return int(np.random.SeedSequence([seed, purpose]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """torch's global streams (weights, dropout) seeded in the block, and as they were after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_stream(seed, _WEIGHTS))
        yield
