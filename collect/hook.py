"""The hook for training loops of one's own: three added lines, and the run is in the lake."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from ..store.errors import InvalidInput
from ..store.lake import Lake
from ..store.records import ROLES, Role, Run, RunInfo
from ..store.writer import RunWriter
from . import ranks
from .choices import unknown_choice
from .evaluation import ordered_outputs
from .queries import QUERIES, parse_queries
from .recorder import TraceRecorder
from .run_facts import device_name, versions
from .run_inputs import (
    free_run_name,
    read_batch_ids,
    read_members,
    read_positions,
    recipe_mapping,
    samples_table,
)
from .signals import signals_from_logits
from .step_signals import as_logits, loss_and_margin, two_class_logits
from .watched_criterion import WatchedCriterion
from .watched_loader import WatchedLoader, check_followable, watch


def start_run(
    lake: Lake,
    experiment: str,
    *,
    samples: Any = None,
    members: Any,
    role: Role = "target",
    run: str | None = None,
    recipe: Any = None,
    seed: int | None = None,
    model: str = "",
    dataset: str = "",
    queries: str | Sequence[str] = "original",
) -> RecordedRun:
    """Start recording one training run. Use it as ``with start_run(...) as run:``.

    samples   what the experiment consists of, in the order of sample ids: integer labels, or a table (Arrow,
              Polars, or a mapping of columns) with a column label. None where the experiment is there already
    members   who is trained on: a boolean mask over the samples, or sample ids in any order
    run       its name; by default the role, then role-2, role-3, ...
    recipe    how it is trained: a mapping, a dataclass or a namespace, stored as JSON
    queries   the views that `evaluate` asks for, such as "original,flip"

    Leaving the block commits the run; an exception leaves nothing behind. Raises InvalidInput for members
    that do not fit, NotFound, AlreadyExists, InvalidOption.
    """
    if role not in ROLES:
        raise unknown_choice("role", role, ROLES)
    if samples is not None:
        lake.create_experiment(
            experiment, samples_table(samples), dataset={"spec": dataset} if dataset else None
        )
    table = lake.samples(experiment)
    mask, order = read_members(members, len(table))
    name = run if run is not None else free_run_name(lake, experiment, role)
    writer = lake.write_run(experiment, name, members=mask)
    labels = table["label"].fill_null(-1).to_numpy().astype(np.int64)
    population = np.asarray(table["pool"].to_numpy(zero_copy_only=False) == "population")
    info = RunInfo(role=role, seed=seed, dataset=dataset, model=model, recipe=recipe_mapping(recipe))
    return RecordedRun(writer, labels, population, order, info, parse_queries(queries, pictures=True))


class RecordedRun:
    """One run being recorded. Make it with `start_run`; leaving its block commits it."""

    def __init__(
        self,
        writer: RunWriter,
        labels: np.ndarray,
        population: np.ndarray,
        order: np.ndarray,
        info: RunInfo,
        queries: tuple[str, ...],
    ) -> None:
        self.name = writer.run
        self.experiment = writer.experiment
        self.members = writer.members
        self.committed: Run | None = None
        self._writer = writer
        self._recorder = TraceRecorder(writer)
        self._labels, self._population, self._order = labels, population, order
        self._labels_on: torch.Tensor | None = None
        self._pending: torch.Tensor | None = None
        self._info, self._queries = info, queries
        self._eval_points = 0
        self._evaluated = False
        self._started = time.perf_counter()
        self._trained = 0.0

    # --- what the loop is given -----------------------------------------------------------------------------

    def watch_loader(self, loader: DataLoader[Any], ids: Any = None) -> WatchedLoader:
        """The loader, noting which samples are in each batch. One pass over it is one epoch.

        ``ids`` (len(dataset),) says which sample stands at each position of the loader's data set. By default
        these are the members, in the order given to `start_run` (ascending for a mask), where the data set
        is as long as they are many, or all samples where it is as long as the experiment.
        """
        check_followable(loader)
        positions = read_positions(ids, len(loader.dataset), self._order, len(self._labels))  # type: ignore[arg-type]
        return watch(loader, positions, on_pass=self.end_epoch, on_batch=self.batch, on_end=self.end_epoch)

    def watch_criterion(self, criterion: Callable[..., Any]) -> WatchedCriterion:
        """The criterion, recording each sample's clean cross-entropy and margin; its result is untouched.

        Called with logits (B, C) and a target: class numbers, or class probabilities (mixup), in which case
        the label is that of the samples table. Without gradients, or without a batch noted before, it
        records nothing, so it may serve for validation too.
        """
        return WatchedCriterion(criterion, self._on_criterion)

    def batch(self, ids: Any) -> None:
        """Say which samples the next call of the watched criterion sees: ids (B,), on any device."""
        if isinstance(ids, torch.Tensor):
            self._pending = ids.detach().long()
            return
        self._pending = torch.from_numpy(read_batch_ids(ids, len(self._labels)))

    def end_epoch(self) -> None:
        """End the epoch, for loops that use `batch`; nothing happens when no batch was recorded in it."""
        self._pending = None
        if self._recorder.recording:
            self._recorder.end_epoch()
            self._trained = time.perf_counter() - self._started

    def trace_eval(self, model: nn.Module, data: Any) -> None:
        """Add a point to the eval trace: loss and margin of every audit sample, the model in eval mode.

        Call it once before training (epoch 0) and after each epoch. ``data`` holds all samples in the order of
        sample ids: a map-style data set of (x, y) or a pair of tensors, without augmentation. The model's
        modes and all random streams are left as they were.
        """
        self.end_epoch()
        epoch = self._eval_points
        if self._recorder.epochs and epoch != self._recorder.epochs:
            raise InvalidInput(
                f"trace_eval of run {self.name!r} is due before training and after each epoch; epoch {epoch} was left out"
            )
        self._eval_points += 1
        if not ranks.writes():
            return
        ids = np.flatnonzero(~self._population)
        losses, margins = [], []
        for logits, labels in ordered_outputs(model, data, ids, self._labels, "original"):
            loss, margin = loss_and_margin(logits, labels)
            losses.append(loss)
            margins.append(margin)
        self._recorder.write_pass("eval", epoch, ids, torch.cat(losses), torch.cat(margins))

    def evaluate(self, model: nn.Module, data: Any) -> None:
        """Record the signals of the finished model for all samples and queries; ``data`` as in `trace_eval`."""
        self.end_epoch()
        self._evaluated = True
        if not ranks.writes():
            return
        ids = np.arange(len(self._labels))
        for query in self._queries:
            outputs = [
                (z.float().cpu().numpy(), y.cpu().numpy())
                for z, y in ordered_outputs(model, data, ids, self._labels, query)
            ]
            logits, labels = (np.concatenate(each) for each in zip(*outputs))
            found = signals_from_logits(logits, labels, where=f"logits of run {self.name!r}")
            self._writer.append_signals(
                ids,
                np.full(len(ids), QUERIES[query]),
                labels,
                loss=found.loss,
                phi=found.phi,
                correct=found.correct,
                logits=logits,
            )
            if query == self._queries[0]:
                self._note_accuracy(found.correct)

    # --- the end --------------------------------------------------------------------------------------------

    def commit(self) -> Run | None:
        """Write what is left and make the run visible; leaving the block does this.

        In training by several processes only the first commits; the others return None.
        """
        self.end_epoch()
        self._recorder.finish()
        if not (self._recorder.epochs or self._eval_points or self._evaluated):
            raise InvalidInput(
                f"run {self.name!r} recorded nothing: watch the loader and the criterion of the loop, or call evaluate"
            )
        if not ranks.writes():
            return None
        elapsed = self._trained or time.perf_counter() - self._started
        epochs = self._recorder.epochs or max(self._eval_points - 1, 0) or None
        info = dataclasses.replace(
            self._info,
            epochs=epochs,
            seconds=elapsed,
            versions=versions(),
            device=self._info.device or device_name(None),
        )
        self.committed = self._writer.commit(info)
        return self.committed

    def discard(self) -> None:
        """Leave nothing behind."""
        self._recorder.stop()
        self._writer.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self.committed is None:
                self.commit()
        finally:
            self.discard()

    # --- inside ---------------------------------------------------------------------------------------------

    def _on_criterion(self, output: Any, target: Any) -> None:
        ids, self._pending = self._pending, None
        if ids is None:
            return
        with torch.no_grad(), torch.autocast(device_type=as_logits(output).device.type, enabled=False):
            logits = as_logits(output)
            if len(logits) != len(ids):
                raise InvalidInput(
                    f"the criterion of run {self.name!r} saw {len(logits)} rows, but the batch holds {len(ids)} samples; "
                    "for batches that are split up, call run.batch(ids) before each call"
                )
            ids = _to_device(ids, logits.device)
            known = self._known_labels(logits.device)[ids]
            labels, wrong = self._labels_of(logits, target, known)
            loss, margin = loss_and_margin(two_class_logits(logits), labels)
            self._recorder.record(ids, loss, margin, wrong)

    def _labels_of(
        self, logits: torch.Tensor, target: Any, known: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Labels (B,) to take the loss at, and which of them are not those of the samples table."""
        if (
            isinstance(target, torch.Tensor)
            and not target.is_floating_point()
            and target.numel() == len(logits)
        ):
            labels = target.detach().reshape(-1).long().to(logits.device, non_blocking=True)
            return labels, (known != labels) & (known >= 0)
        if (self._labels < 0).any():
            raise InvalidInput(
                "the target of the criterion is no class number a sample, and the samples table has no labels to take "
                "instead; give start_run samples with labels"
            )
        return known, None

    def _known_labels(self, device: torch.device) -> torch.Tensor:
        if self._labels_on is None or self._labels_on.device != device:
            self._labels_on = torch.from_numpy(self._labels).to(device)
        return self._labels_on

    def _note_accuracy(self, correct: np.ndarray) -> None:
        outside = ~self.members & ~self._population
        self._info = dataclasses.replace(
            self._info,
            train_accuracy=float(correct[self.members].mean()) if self.members.any() else None,
            test_accuracy=float(correct[outside].mean()) if outside.any() else None,
            extra={**self._info.extra, "tested_on": "audit samples that are no members"}
            if outside.any()
            else self._info.extra,
        )


def _to_device(ids: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type == "cuda" and ids.device.type == "cpu":
        # From pinned memory the copy does not wait for what the device is doing.
        return ids.pin_memory().to(device, non_blocking=True)
    return ids.to(device)
