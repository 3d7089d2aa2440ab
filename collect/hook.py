"""The hook for training loops of one's own: three added lines, and the run is in the lake."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import polars as pl
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from ..store.errors import InvalidInput, InvalidOption
from ..store.lake import Lake
from ..store.records import ROLES, Role, Run, RunInfo
from ..store.writer import RunWriter
from . import ranks
from .choices import unknown_choice
from .evaluated_losses import highest_label, needs_targets, ordered_losses
from .evaluation import ordered_outputs
from .exposed_so_far import as_frame, most_exposed
from .grad_norm_pass import check_layers_in_eval_mode, ordered_norms
from .grad_norms import GradNormWatcher
from .queries import AS_IT_IS, Query, expand_queries, parse_queries
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
from .sample_losses import LossOf, SampleLosses
from .signals import Answers, answers_from_logits
from .step_signals import loss_and_margin
from .watched_criterion import CriterionCall, Reduction, WatchedCriterion
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
    queries   the views that `evaluate` asks for, such as "original,flip,crop:8"; see `queries.parse_queries`.
              noise:N:SIGMA is in units of what the model takes

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
        self._highest_label = highest_label(labels)
        self._labels_on: torch.Tensor | None = None
        self._losses: LossOf | None = None
        self._pending: torch.Tensor | None = None
        self._info, self._queries = info, queries
        self._watcher: GradNormWatcher | None = None
        self._eval_norms = False
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
        positions = self.positions(len(loader.dataset), ids)  # type: ignore[arg-type]
        return watch(
            loader, positions, on_pass=self.end_epoch, on_batch=self._on_batch, on_end=self.end_epoch
        )

    def positions(self, length: int, ids: Any = None) -> np.ndarray:
        """The sample id at each of the ``length`` positions of a data set trained on, int64; ``ids`` as in `watch_loader`."""
        return read_positions(ids, length, self._order, len(self._labels))

    def watch_criterion(
        self, criterion: Callable[..., Any], *, reduction: Reduction | None = None
    ) -> WatchedCriterion:
        """The criterion, a module or a function, recording each sample's own loss and margin; its result is untouched.

        Called with logits (B, C) and a target: class numbers, or class probabilities (mixup), in which case
        the label is that of the samples table; recorded is the clean cross-entropy, whatever smoothing, weights or
        sharpening is trained with. Other losses, binary, regression, of tokens, or your own: see
        `sample_losses.LossOf`. Without gradients, or without a batch noted before, it
        records nothing, so it may serve for validation too. ``reduction``, mean, sum or none, matters to
        `watch_model` alone, and only for a criterion that has no attribute or argument of that name: one number is
        taken to be a mean.
        """
        watched = WatchedCriterion(
            criterion, self._on_criterion, reduction, lambda: self._watcher is not None
        )
        self._losses = watched.losses
        return watched

    def watch_model(
        self, model: nn.Module, *, mode: Literal["train", "eval"] = "train", check: bool = True
    ) -> None:
        """Record the norm of each sample's gradient too: |gradient of the sample's own loss|_2, trainable parameters.

        mode="train" finds it in each training step, exactly, by hooks that read what the backward pass computes
        anyway; it goes into the train trace. The loss is the one trained on, by the watched criterion, with its label
        smoothing, mixup and class weights; the mean over the batch, accumulation and loss scale are undone,
        whatever the loop does, and a criterion called more than once a batch counts as the weighted mean of its
        calls. mode="eval" leaves training alone: `trace_eval` finds the norm of the clean cross-entropy with the model
        in eval mode, for the eval trace. A model with BatchNorm in train mode has norms in eval mode only.

        Call it before torch.compile runs the model first, and on the model that is trained: DDP's or torch.compile's
        wrapper or what is in it. The batch must be the first dimension of every trainable layer. ``check`` compares, in
        the first step of each epoch, the gradients found with those that training uses.

        Raises InvalidOption for a layer that has no per-sample gradients, naming it and what to do; in training
        InvalidInput.
        """
        if mode not in ("train", "eval"):
            raise unknown_choice("mode", mode, ("train", "eval"))
        if self._watcher is not None or self._eval_norms:
            raise InvalidInput(
                f"run {self.name!r} watches a model already; put models that are trained together into one ModuleList"
            )
        if mode == "eval":
            check_layers_in_eval_mode(model)
            self._eval_norms = True
        else:
            self._watcher = GradNormWatcher(model, check=check)

    def batch(self, ids: Any) -> None:
        """Say which samples the next call of the watched criterion sees: ids (B,), on any device.

        With `watch_model` say it before the forward pass.
        """
        self._record_norms()
        if isinstance(ids, torch.Tensor):
            self._pending = ids.detach().long()
            return
        self._pending = torch.from_numpy(read_batch_ids(ids, len(self._labels)))

    def record(self, loss: torch.Tensor, margin: torch.Tensor | None = None) -> None:
        """Record loss and margin (B,) of the samples in the batch, where no criterion gives them, as for texts.

        The batch is the watched loader's, or that which `batch` named; no margin where the loss has none.
        """
        ids, self._pending = self._pending, None
        if self._watcher is not None:
            raise InvalidInput(
                f"run {self.name!r} watches a model, whose gradient norms need a watched criterion"
            )
        if ids is None:
            return
        for value in (loss, margin):
            if value is not None and tuple(value.shape) != (len(ids),):
                raise InvalidInput(
                    f"run {self.name!r} was given losses or margins {tuple(value.shape)} of a batch of {len(ids)} samples"
                )
        margin = None if margin is None else margin.detach().float()
        self._recorder.record(_to_device(ids, loss.device), loss.detach().float(), margin)

    def record_logits(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Record what a model that has its criterion inside says of the samples in the batch: the clean cross-entropy.

        Logits and labels are as a watched criterion would be called with; see `record` for what is recorded when.
        """
        if self._watcher is not None:
            raise InvalidInput(
                f"run {self.name!r} watches a model, whose gradient norms need a watched criterion"
            )
        ids, self._pending = self._pending, None
        if ids is not None:
            self._record_values(ids, logits, lambda known: self._cross_entropy(logits, labels, known))

    @property
    def labels(self) -> np.ndarray:
        """The labels of all samples, int64 (samples,), -1 where the samples table has none."""
        return self._labels

    @property
    def recording(self) -> bool:
        """Whether the epoch under way holds at least one batch."""
        return self._recorder.recording

    def end_epoch(self) -> None:
        """End the epoch, for loops that use `batch`; nothing happens when no batch was recorded in it."""
        self._pending = None
        self._record_norms(last=True)
        if self._watcher is not None:
            self._watcher.check_next()
        if self._recorder.recording:
            self._recorder.end_epoch()
            self._trained = time.perf_counter() - self._started

    def exposed(self, k: int = 10) -> pl.DataFrame:
        """The ``k`` members that look most exposed so far: columns sample_id and score, highest first. Training goes on.

        The score is the LT-IQR of the loss over the epochs that have ended, of the eval trace where `trace_eval` is called,
        else of the train trace; higher = more exposed. It is what ``losslake analyze lt-iqr`` would say of a run
        that stopped here. Call it between epochs: it waits until they are written, and reads them back.

        In training by several processes the first has the scores, of all their batches, and the others an empty frame.
        Raises NotEnoughData before two epochs, InvalidOption for a k below 1.
        """
        if k < 1:
            raise InvalidOption(f"k is {k}; it must be 1 or more")
        if not ranks.writes():
            return as_frame(np.empty(0, dtype=np.int64), np.empty(0))
        self._recorder.wait()
        traces = self._writer.staged_traces("eval" if self._eval_points else "train", "loss")
        return most_exposed(traces, self.members & ~self._population, k, self.name)

    def trace_eval(
        self,
        model: nn.Module,
        data: Any,
        *,
        grad_norm: bool | None = None,
        criterion: Callable[..., Any] | None = None,
    ) -> None:
        """Add a point to the eval trace: loss and margin of every audit sample, the model in eval mode.

        The loss is the clean cross-entropy, or where the watched criterion, or ``criterion``, is of another kind, that of
        each record's target; see `sample_losses.LossOf`.

        With ``grad_norm`` also the norm of each sample's gradient of its clean cross-entropy, at the price of a
        backward pass; by default where `watch_model` asked for it.

        Call it once before training (epoch 0) and after each epoch. ``data`` holds all samples in the order of
        sample ids: a map-style data set of (x, y) or a pair of tensors, without augmentation. The model's
        modes and all random streams are left as they were.
        """
        wanted = self._eval_norms if grad_norm is None else grad_norm
        losses_of = self._losses_of(criterion, data)
        if losses_of is not None:
            if wanted:
                raise InvalidOption(
                    "gradient norms in eval mode are of the cross-entropy; leave grad_norm out, or watch_model in train mode"
                )

            def ask_targets(ids: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None, None]:
                found = _joined(ordered_losses(model, data, ids, self._labels, losses_of, AS_IT_IS))
                return found.loss, found.margin, None

            self.trace_eval_by(ask_targets)
            return

        def ask(ids: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
            losses, margins, norms = [], [], []
            with self._watcher.paused() if self._watcher is not None else contextlib.nullcontext():
                for logits, labels, norm in (
                    ordered_norms(model, data, ids, self._labels)
                    if wanted
                    else ((*both, None) for both in ordered_outputs(model, data, ids, self._labels, AS_IT_IS))
                ):
                    loss, margin = loss_and_margin(logits, labels)
                    losses.append(loss)
                    margins.append(margin)
                    norms.append(norm)
            found = [norm for norm in norms if norm is not None]
            return torch.cat(losses), torch.cat(margins), torch.cat(found) if found else None

        self.trace_eval_by(ask)

    def trace_eval_by(
        self,
        ask: Callable[[np.ndarray], tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]],
    ) -> None:
        """`trace_eval` for a model that is asked in another way: ask(ids) gives loss, margin or None, gradient norm or None,
        (len(ids),) each. Of several processes only the one that writes asks.
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
        self._recorder.write_pass("eval", epoch, ids, *ask(ids))

    def evaluate(self, model: nn.Module, data: Any, *, criterion: Callable[..., Any] | None = None) -> None:
        """Record the signals of the finished model for all samples and queries; arguments as in `trace_eval`.

        Of a loss that is no cross-entropy there is the loss alone, without phi and logits.
        """
        losses_of = self._losses_of(criterion, data)
        if losses_of is not None:

            def ask_targets(ids: np.ndarray, query: Query) -> Answers:
                found = _joined(ordered_losses(model, data, ids, self._labels, losses_of, query))
                margin = None if found.margin is None else found.margin.double().cpu().numpy()
                # Of two classes phi is the margin.
                return Answers(
                    found.loss.double().cpu().numpy(), margin, correct=None if margin is None else margin > 0
                )

            self.evaluate_by(ask_targets)
            return

        def ask(ids: np.ndarray, query: Query) -> Answers:
            outputs = [
                (z.float().cpu().numpy(), y.cpu().numpy())
                for z, y in ordered_outputs(model, data, ids, self._labels, query)
            ]
            logits, labels = (np.concatenate(each) for each in zip(*outputs))
            return answers_from_logits(logits, labels, where=f"logits of run {self.name!r}")

        self.evaluate_by(ask)

    def evaluate_by(self, ask: Callable[[np.ndarray, Query], Answers]) -> None:
        """`evaluate` for a model that is asked in another way: ask(ids, query) gives what it says of the samples ``ids``.

        Of several processes only the one that writes asks.
        """
        self.end_epoch()
        self._evaluated = True
        if not ranks.writes():
            return
        ids = np.arange(len(self._labels))
        for query in expand_queries(self._queries):
            said = ask(ids, query)
            self._writer.append_signals(
                ids,
                np.full(len(ids), query.number),
                said.label,
                loss=said.loss,
                phi=said.phi,
                correct=said.correct,
                logits=said.logits,
            )
            if query.kind == self._queries[0] and said.correct is not None:
                self._note_accuracy(said.correct)
        self._info = dataclasses.replace(
            self._info, extra={**self._info.extra, "recording": {"queries": list(self._queries)}}
        )

    # --- the end --------------------------------------------------------------------------------------------

    def commit(self) -> Run | None:
        """Write what is left and make the run visible; leaving the block does this.

        In training by several processes only the first commits; the others return None.
        """
        self.end_epoch()
        self._unwatch()
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
        self._unwatch()
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

    def _on_batch(self, ids: np.ndarray) -> None:
        self.batch(ids)
        if self._watcher is not None:
            self._watcher.begin()

    def _record_norms(self, *, last: bool = False) -> None:
        """Record the norms of the batches whose backward pass is over; ``last``: of the epoch no more will come."""
        if self._watcher is not None:
            for found in self._watcher.take(last=last):
                self._recorder.record_grad_norm(found, self._watcher.names)

    def _unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.remove()
            self._watcher = None

    def _on_criterion(self, call: CriterionCall) -> None:
        output, target = call.output, call.target
        ids, self._pending = self._pending, None
        if ids is None:
            if self._watcher is not None:
                self._watcher.further_loss(call.result, call.divisor)
            return
        at = self._record_values(
            ids,
            output,
            lambda known: call.losses(output, target, known, self._highest_label, call.more, call.options),
        )
        if self._watcher is not None:
            self._watcher.loss(call.result, at, call.divisor(len(at)))

    def _record_values(
        self, ids: torch.Tensor, output: Any, values: Callable[[torch.Tensor], SampleLosses]
    ) -> torch.Tensor:
        """Record ``values(labels in the samples table)`` of the batch; the ids, on the device of its output."""
        if not isinstance(output, torch.Tensor) or not output.ndim:
            what = type(output).__name__ if not isinstance(output, torch.Tensor) else "a single number"
            raise InvalidInput(
                f"logits are {what}; a model's output, the first argument of the criterion, must be a tensor with a row a sample"
            )
        if len(output) != len(ids):
            tokens = len(ids) > 0 and len(output) > len(ids) and len(output) % len(ids) == 0
            raise InvalidInput(
                f"the criterion of run {self.name!r} saw {len(output)} rows, but the batch holds {len(ids)} samples; "
                + (
                    "tokens are told apart by sample where it is called with logits (batch, classes, positions) and targets "
                    "(batch, positions)"
                    if tokens
                    else "for batches that are split up, call run.batch(ids) before each call"
                )
            )
        with torch.no_grad(), torch.autocast(device_type=output.device.type, enabled=False):
            at = _to_device(ids, output.device)
            found = values(self._known_labels(output.device)[at])
            self._recorder.record(at, found.loss, found.margin, found.wrong)
        return at

    def _cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor, known: torch.Tensor) -> SampleLosses:
        return LossOf(functional.cross_entropy)(logits, labels, known, self._highest_label)

    def _losses_of(self, criterion: Callable[..., Any] | None, data: Any) -> LossOf | None:
        """How records' losses come from their targets in ``data``; None where they come from class numbers."""
        losses = self._losses if criterion is None else LossOf(criterion)
        two_classes = self._highest_label is not None and self._highest_label <= 1
        return losses if losses is not None and needs_targets(losses, data, two_classes=two_classes) else None

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


def _joined(parts: Iterable[SampleLosses]) -> SampleLosses:
    found = list(parts)
    margins = [part.margin for part in found if part.margin is not None]
    loss = torch.cat([part.loss for part in found])
    return SampleLosses(loss, torch.cat(margins) if len(margins) == len(found) else None)
