"""One run's training, epoch by epoch: everything that the next epoch depends on, its batches, and its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ...store.errors import TrainingFailed
from ..data.training import DeviceData
from ..grad_norms.eval_pass import norms_of_batch
from ..grad_norms.hooks import GradNormWatcher
from ..hook.recorder import TraceRecorder
from ..losses.cross_entropy import loss_and_margin
from ..random_streams import augmentation_of, noise_of, order_of
from ..recipe import Recipe
from ..signals.ask import Recording
from ..signals.evaluation import eval_mode
from .dp import PrivateSteps
from .early_stopping import EarlyStopping, held_out
from .optimizers import learning_rate, set_rate
from .run import RunPlan
from .step import TrainStep, eval_batch

Flips = Callable[[torch.Tensor, int], bool | torch.Tensor]
"""``flips(ids, epoch)``: which of the records ids (B,) to mirror in an epoch, bool (B,), or only whether to mirror at
random."""


class Training:
    """A run between two epochs; ``step`` has its model, which has begun, and its optimizer.

    epoch, steps   how many are over
    order, augmentation, noise  its random streams, beside torch's global one (dropout)
    stopping       where the recipe asks for it
    chosen         the records that it trains on, (M,)
    """

    def __init__(self, step: TrainStep, plan: RunPlan, records: np.ndarray) -> None:
        held, recipe = step.held, step.recipe
        self.step, self.plan = step, plan
        self.epoch = self.steps = 0
        self.chosen = torch.from_numpy(np.flatnonzero(records))
        self.order = order_of(plan.seed)
        self.augmentation = augmentation_of(plan.seed, held.device)
        self.noise = noise_of(plan.seed, held.device)
        self._flips = flips_of(held, recipe, self.augmentation)
        self._private: PrivateSteps | None = None
        if recipe.private:
            self._private = PrivateSteps(
                step.model, step.optimizer, recipe, len(self.chosen), sampling=self.order, noise=self.noise
            )
        self.stopping: EarlyStopping | None = None
        if recipe.early_stop is not None:
            watched = held_out(held.outsiders, records)
            self.stopping = EarlyStopping(step.model, held, watched, recipe.early_stop)

    def next_epoch(self, recorder: TraceRecorder | None, watcher: GradNormWatcher | None) -> float:
        """Train one more epoch; its mean loss. ``recorder`` and ``watcher`` see each batch.

        Raises TrainingFailed where the loss is not finite any more.
        """
        step, held, recipe = self.step, self.step.held, self.step.recipe
        model, scaler = step.model, step.scaler
        optimizer = step.optimizer if self._private is None else self._private.optimizer
        epoch = self.epoch + 1
        model.train()
        total, seen = torch.zeros((), device=held.device), 0
        batches, steps = self._batches()
        for ids in batches:
            set_rate(optimizer, learning_rate(recipe, self.steps, steps))
            self.steps += 1
            if self._private is not None and len(ids) == 0:
                self._private.step_on_nothing()
                continue
            x, mirrored = held.augmented(
                held.x[ids],
                flip=self._flips(ids, epoch),
                crop=recipe.crop,
                border=recipe.crop_border,
                generator=self.augmentation,
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
                f"run {self.plan.run!r} diverged in epoch {epoch} of {recipe.epochs}: its loss is {mean}; lower lr "
                f"({recipe.lr:g}) or set clip_norm or warmup_epochs"
            )
        self.epoch = epoch
        return mean

    def told(self) -> dict[str, Any]:
        """What there is to tell of its defences. With early stopping the model gets its best weights."""
        told = {}
        if self._private is not None:
            told["dp"] = self._private.report()
        if self.stopping is not None:
            self.stopping.restore()
            told["early_stop"] = self.stopping.report()
        return told

    def _batches(self) -> tuple[Iterable[torch.Tensor], int]:
        """The batches of an epoch, and how many."""
        held, recipe = self.step.held, self.step.recipe
        if self._private is not None:
            return self._private.batches(self.chosen.to(held.device)), self._private.steps
        shuffled = self.chosen[torch.randperm(len(self.chosen), generator=self.order)].to(held.device)
        parts = split(shuffled, recipe.batch_size)
        return parts, len(parts)


def eval_point(
    step: TrainStep, recording: Recording, recorder: TraceRecorder, epoch: int, audit: np.ndarray
) -> None:
    """Trace what the model says of the samples ``audit`` (A,) after an epoch, in eval mode."""
    held, model = step.held, step.model
    found: list[tuple[torch.Tensor, ...]] = []
    with eval_mode(model), ExitStack() as stack:
        watcher, size = None, eval_batch(held.device)
        if recording.grad_norms == "eval":
            watcher, size = stack.enter_context(GradNormWatcher(model)), size // 2
        for ids in torch.from_numpy(audit).to(held.device).split(size):
            x, y = held.x[ids], held.y[ids]
            if watcher is None:
                found.append(loss_and_margin(step.logits(x), y))
            else:
                with step.autocast():
                    ask = partial(held.logits, model)
                    logits, norm = norms_of_batch(watcher, ask, x, y)
                found.append((*loss_and_margin(logits, y), norm))
    recorder.write_pass(epoch, audit, *map(torch.cat, zip(*found, strict=True)))


def split(ids: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Batches of ``size`` and a rest; a rest of one joins the batch before it, as BatchNorm needs two values."""
    parts = list(ids.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def flips_of(held: DeviceData, recipe: Recipe, generator: torch.Generator) -> Flips:
    """Whom the recipe mirrors. The generator, on the device of ``held``, is drawn from here and not later."""
    if not (recipe.flip and recipe.flip_order == "alternate" and held.pictures):
        return lambda ids, epoch: recipe.flip
    first = torch.rand(len(held.y), generator=generator, device=held.device) < 0.5
    return lambda ids, epoch: first[ids] ^ (epoch % 2 == 0)
