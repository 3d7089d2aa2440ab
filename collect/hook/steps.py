"""What a training loop tells of its steps: which samples are in a batch, what the criterion says of them, their norms."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...store.errors import InvalidInput
from .. import ranks
from ..grad_norms.hooks import GradNormWatcher
from ..grad_norms.use import plain
from ..losses.criterion import LossOf
from ..losses.sample_losses import SampleLosses
from .asked_model import highest_label
from .criterion import Losses, Share
from .further_calls import FurtherCalls
from .loader import read_batch_ids
from .recorder import TraceRecorder


class RecordedSteps:
    """The steps of one run, on their way to its recorder; public methods are those that `RecordedRun` has, and raise as these do.

    Batch and criterion take turns: ids that come are those of the next values, and no later ones.
    """

    def __init__(self, run: str, recorder: TraceRecorder, labels: np.ndarray) -> None:
        self._run, self._recorder, self._labels = run, recorder, labels
        self._highest_label = highest_label(labels)
        self._labels_on: torch.Tensor | None = None
        self._clean = LossOf(functional.cross_entropy)
        self._pending: torch.Tensor | None = None
        self._watcher: GradNormWatcher | None = None
        self._named = self._named_ever = 0  # batches with records, in training
        self._told: set[str] = set()
        self._further = FurtherCalls(run)
        self.ended = False
        """Whether the run takes nothing any more."""
        self.by_hand = False
        """Whether losses were given that only the loop knows."""
        self.losses: LossOf | None = None
        """Of the criterion whose values are recorded, once there are any."""
        self.loss: str | None = None
        """The name of the loss that the run records, once it is decided; see `decide`."""

    def decide(self, loss: str) -> None:
        """A run records one loss: that of its first values. Raises InvalidInput for another one."""
        if self.loss is None:
            self.loss = loss
        elif loss != self.loss:
            raise InvalidInput(
                f"run {self._run!r} records one loss, which is: {self.loss}; here it would be: {loss}. Watch the criterion before the "
                "first trace_eval, evaluate by the criterion that is trained with, or record what has another loss in a run of its own"
            )

    @property
    def watching(self) -> bool:
        """Whether gradient norms are found in each step."""
        return self._watcher is not None

    def watch(self, model: nn.Module, *, check: bool) -> None:
        """Find gradient norms of the model in each step."""
        self._watcher = GradNormWatcher(model, check=check)

    def unwatch(self) -> None:
        """Leave the model as it was."""
        if self._watcher is not None:
            self._watcher.remove()
            self._watcher = None

    def paused(self) -> AbstractContextManager[None]:
        """In the block the model runs without being watched."""
        return nullcontext() if self._watcher is None else self._watcher.paused()

    def begin(self) -> None:
        """A loader hands out the batch just named: the forward pass is to come."""
        if self._watcher is not None:
            self._watcher.begin()

    def batch(self, ids: Any) -> None:
        """The samples (B,) that the next values are of."""
        self._record_norms()
        if self._pending is not None and len(self._pending) and torch.is_grad_enabled():
            self._further.batch_passed()
        self._further.next_batch()
        if isinstance(ids, torch.Tensor):
            self._pending = ids.detach().long()
        else:
            self._pending = torch.from_numpy(read_batch_ids(ids, len(self._labels)))
        if len(self._pending) and torch.is_grad_enabled():
            self._named, self._named_ever = self._named + 1, self._named_ever + 1

    def end(self, *, whole: bool) -> None:
        """No batch of the epoch comes any more; ``whole``: a pass ended by itself, or the loop said so. Warns where it recorded nothing."""
        named, self._named = self._named, 0
        if whole and named and not self._recorder.recording:
            self._tell(
                f"an epoch of {named} batches has ended in which run {self._run!r} recorded nothing: the loop does not call the criterion that "
                "watch_criterion returned, or calls it without gradients"
            )
        self._pending = None
        compared = self._recorder.compared and self._highest_label is not None
        self._further.over(whole=whole, compared=compared)
        self._record_norms(last=True)
        if self._watcher is not None:
            self._watcher.check_next()

    def record(self, loss: torch.Tensor, margin: torch.Tensor | None, name: str | None) -> None:
        """Record values (B,) that are there already, of the loss called so, if any name is known."""
        ids = self._named_without_norms()
        if ids is None:
            return
        for value in (loss, margin):
            if value is not None and tuple(value.shape) != (len(ids),):
                raise InvalidInput(
                    f"run {self._run!r} was given losses or margins {tuple(value.shape)} of a batch of {len(ids)} samples"
                )
        if name is None:
            self.by_hand = True
        else:
            self.decide(name)
        margin = None if margin is None else margin.detach().float()
        self._recorder.record(_to_device(ids, loss.device), loss.detach().float(), margin)

    def record_logits(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Record the clean cross-entropy of logits (B, C)."""
        ids = self._named_without_norms()
        if ids is not None:
            self._record_values(ids, logits, partial(self._clean, logits, labels))

    def criterion_called(self, output: Any, target: Any, result: Any, losses: Losses, share: Share) -> None:
        """Record the losses behind a call of the watched criterion; further calls for a batch matter to norms alone.

        ``result`` is the sum of the samples' ``losses``, each over its ``share.divisor(rows)``.
        """
        ids, self._pending = self._pending, None
        if ids is None:
            if not self._named_ever:
                self._tell(
                    f"the criterion was called in training, but nothing has said which samples are in the batch, and run {self._run!r} does not "
                    "record it: iterate over what watch_loader returned, or call run.batch(ids) before"
                )
            if not self.ended:
                self._further.again(output, target, result)
            if self._watcher is not None:
                self._watcher.further_loss(result, share.divisor, share.alone)
            return
        if not len(ids):
            # An empty batch, as Poisson sampling makes them.
            self.begin()
            return
        at, found = self._record_values(ids, output, losses)
        self.losses = share.by
        self._further.first(output, target, result, compared=self._all_compared(found))
        if self._watcher is not None:
            self._watcher.loss(result, at, share.divisor(len(at)), share.alone)

    def _all_compared(self, found: SampleLosses) -> bool:
        return found.wrong is not None and found.by_label and self._highest_label is not None

    def _tell(self, what: str) -> None:
        if what.partition(" ")[0] not in self._told and ranks.writes():
            self._told.add(what.partition(" ")[0])  # each once in a run
            warnings.warn(what, stacklevel=5)

    def _named_without_norms(self) -> torch.Tensor | None:
        if self._watcher is not None:
            raise InvalidInput(
                f"run {self._run!r} watches a model, whose gradient norms need a watched criterion"
            )
        ids, self._pending = self._pending, None
        return ids

    def _record_norms(self, *, last: bool = False) -> None:
        """Record the norms of the batches whose backward pass is over; ``last``: of the epoch no more will come."""
        if self._watcher is not None:
            for found in self._watcher.take(last=last):
                self._recorder.record_grad_norm(found, self._watcher.names)

    def _record_values(
        self, ids: torch.Tensor, output: Any, losses: Losses
    ) -> tuple[torch.Tensor, SampleLosses]:
        """Record the losses of the batch: the ids, on the device of its output, and what was found."""
        if not isinstance(output, torch.Tensor) or not output.ndim:
            what = type(output).__name__ if not isinstance(output, torch.Tensor) else "a single number"
            raise InvalidInput(
                f"logits are {what}; a model's output, the first argument of the criterion, must be a tensor with a row a sample; call it with "
                "the tensor that the loss is of, or compute the samples' losses yourself: run.batch(ids), then run.record(losses)"
            )
        if torch._C._functorch.is_functorch_wrapped_tensor(output):
            raise InvalidInput(
                f"the criterion of run {self._run!r} is called within a transform of torch.func (grad, vmap), where nothing can be recorded: return "
                "the samples' losses from it (has_aux=True), and give them to run.record(losses)"
            )
        if len(output) != len(ids):
            tokens = len(ids) > 0 and len(output) > len(ids) and len(output) % len(ids) == 0
            raise InvalidInput(
                f"the criterion of run {self._run!r} saw {len(output)} rows, but the batch holds {len(ids)} samples; "
                + (
                    "tokens are told apart by sample where it is called with logits (batch, classes, positions) and targets "
                    "(batch, positions); losses of several views of a record are computed in the loop: run.record(losses)"
                    if tokens
                    else "for batches that are split up, call run.batch(ids) before each call; where the first dimension is not the batch, as "
                    "in CTC, compute the samples' losses yourself: run.record(losses)"
                )
            )
        with torch.no_grad(), plain(output):
            at = _to_device(ids, output.device)
            found = losses(self._known_labels(output.device)[at], self._highest_label)
            self.decide(found.name)
            self._recorder.record(at, found.loss, found.margin, found.wrong, by_label=found.by_label)
        return at, found

    def _known_labels(self, device: torch.device) -> torch.Tensor:
        if self._labels_on is None or self._labels_on.device != device:
            self._labels_on = torch.from_numpy(self._labels).to(device)
        return self._labels_on


def _to_device(ids: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type == "cuda" and ids.device.type == "cpu":
        # From pinned memory the copy does not wait for what the device is doing.
        return ids.pin_memory().to(device, non_blocking=True)
    return ids.to(device)
