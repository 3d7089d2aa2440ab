"""One training run on its way to the lake: what its loop is given, its evaluations, and its end."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import polars as pl
import torch
from torch import nn
from torch.utils.data import default_collate

from ...store.errors import AlreadyExists, InvalidInput, InvalidOption
from ...store.format.records import Run, RunInfo
from ...store.write.run_writer import RunWriter
from .. import ranks
from ..callables import unknown_choice
from ..grad_norms.eval_pass import check_layers_in_eval_mode
from ..losses.criterion import LossOf
from ..losses.sample_losses import BY_HAND
from ..ranks import inner_model
from ..run_facts import device_name, versions
from ..signals.calls import Call, Forward
from ..signals.from_logits import Answers
from ..signals.queries import Query
from .asked_model import TracePoint, asked_model
from .criterion import Reduction, WatchedCriterion
from .doubts import (
    check_order,
    leave,
    tell_it_has_ended,
    tell_it_is_dropped,
    tell_of_a_lone_point,
    tell_of_its_other_name,
    tell_of_sigmoids,
    tell_who_was_in_no_batch,
)
from .eval_trace import EvalTrace
from .evaluation import Evaluation
from .exposed_so_far import COLUMNS, most_exposed
from .given import KeyLookup, keys_in
from .loader import (
    KeyedLoader,
    WatchedLoader,
    check_followable,
    read_batch_ids,
    read_numbers,
    unwatched,
)
from .positions import Positions, read_positions
from .recorder import TraceRecorder
from .steps import RecordedSteps


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
        by_key: KeyLookup,
        forward: Forward | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        free_name: Callable[[], str] | None = None,
        reopen: Callable[[Run, np.ndarray], RunWriter] | None = None,
    ) -> None:
        self.name = writer.run
        self.experiment = writer.experiment
        self.members = writer.members
        self.seed = info.seed
        self.committed: Run | None = None
        self.ended = False
        """Whether it is committed or discarded, and takes nothing any more."""
        self._evaluation = Evaluation(writer, info, queries, population, reopen)
        self._free_name = free_name
        self._forgets = bool(writer.forgotten.any())
        self._recorder = TraceRecorder(writer)
        self.labels = labels
        """Of all samples, int64 (samples,), -1 where the samples table has none."""
        self._population, self._order, self._by_key = population, order, by_key
        self._not_shown: list[Positions] = []
        self._doubted = self._told_it_has_ended = False
        self._steps = RecordedSteps(writer.run, self._recorder, labels)
        self._losses: LossOf | None = None
        self._forward, self._collate = forward, collate
        self._collate_of_loop: Callable[[list[Any]], Any] | None = None
        self._eval_norms = False
        self._eval_trace = EvalTrace(writer.run, self._recorder, np.flatnonzero(~population))
        self._unfinished = weakref.finalize(self, leave, self._recorder, writer)
        self._started = time.perf_counter()
        self._trained = 0.0

    @property
    def _writer(self) -> RunWriter:
        return self._evaluation.writer

    def watch_loader(self, loader: Any, ids: Any = None, *, key: str | int | None = None) -> Any:
        """The loader, noting which samples are in each batch. One pass over it is one epoch.

        By default a torch DataLoader is followed through its sampler. The sample at each position of its data set is told by the indices of
        Subset, ConcatDataset and the like, where these are into a data set of all samples and name members alone; otherwise they are
        the members, in the order given to `start_run` (ascending for a mask), where the data set
        is as long as they are many, or all samples where it is as long as the experiment. Where neither indices nor labels show that this
        is so, as in a regression, the run warns of it once; two orders that are as likely are refused.

        ``ids`` (len(dataset),), or keys as text, says it: the sample at each position of the loader's data set. ``key`` says it
        too, for any iterable of batches: the field of each batch, by its name or its place in a tuple, with sample ids or keys.
        Numbers are keys where those of the experiment are numbers; by default a sample's key is its id.
        """
        loader = unwatched(loader, self._is_over)
        if key is not None:
            if ids is not None:
                raise InvalidOption(
                    "ids are told by the loader's positions or by a field of its batches: give ids= or key="
                )
            self._collate_of_loop = getattr(loader, "collate_fn", None)
            return KeyedLoader(
                loader, key, on_pass=self._end_epoch, on_batch=self._on_field, on_end=self.end_epoch
            )
        check_followable(loader)
        self._collate_of_loop = loader.collate_fn
        positions = self.positions(loader.dataset, ids)
        return WatchedLoader(
            loader, positions, on_pass=self._end_epoch, on_batch=self._on_batch, on_end=self.end_epoch
        )

    def positions(self, data: Any, ids: Any = None) -> np.ndarray:
        """The sample id at each position of a data set trained on, int64; ``ids`` and what is taken without as in `watch_loader`."""
        found = read_positions(data, self._ids(ids), self._order, len(self.labels), self.labels)
        if not found.shown:
            self._not_shown.append(found)
        return found.ids

    def watch_criterion(
        self, criterion: Callable[..., Any], *, reduction: Reduction | None = None
    ) -> WatchedCriterion:
        """The criterion, a module or a function, recording each sample's own loss and margin; its result is untouched.

        Called with logits (B, C) and a target: class numbers, or class probabilities (mixup), in which case
        the label is that of the samples table; recorded is the clean cross-entropy, whatever smoothing, weights or
        sharpening is trained with. Other losses, binary, regression, of tokens, or your own: see
        `losses.criterion.LossOf`. Without gradients, or without a batch noted before, it
        records nothing, so it may serve for validation too. A run records one loss, decided by its first values, named in its
        facts (extra, loss) and asked by `trace_eval` and `evaluate` too; output and target whose shapes would broadcast are refused. ``reduction``, mean, sum or none, matters to
        `watch_model` alone, and only for a criterion that has no attribute or argument of that name: one number is
        taken to be a mean.
        """
        if isinstance(criterion, type) or not callable(criterion):
            what = criterion.__name__ if isinstance(criterion, type) else type(criterion).__name__
            raise InvalidInput(
                f"the criterion is {what}; give a loss function, or a module as nn.CrossEntropyLoss() makes it"
            )
        while isinstance(criterion, WatchedCriterion) and self._is_over(criterion.on_call):
            criterion = criterion.criterion
        watched = WatchedCriterion(
            criterion, self._steps.criterion_called, reduction, lambda: self._steps.watching
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
        the first step of each epoch, the gradients found with those that training uses. Whatever ``check`` is, in the first step and
        ever more rarely later (after 1, 2, 4, ... 256 steps, then every 256) one record's gradient is also taken by itself, and the run
        is refused where its norm is another one: rows that are no records, or terms beside the criterion that reach the weights through
        the records. Not where a step cannot have a second backward pass: reentrant checkpoints, some compiled models. Of tokens,
        pixels and several outputs the norm is that of their mean, as the loss is.

        Raises InvalidOption for a layer that has no per-sample gradients, naming it and what to do; in training
        InvalidInput.
        """
        if mode not in ("train", "eval"):
            raise unknown_choice("mode", mode, ("train", "eval"))
        if not isinstance(inner_model(model), nn.Module):
            raise InvalidInput(
                f"the model is {getattr(model, '__name__', type(model).__name__)}; give the torch module that is trained"
            )
        if self._steps.watching or self._eval_norms:
            raise InvalidInput(
                f"run {self.name!r} watches a model already; put models that are trained together into one ModuleList"
            )
        if mode == "eval":
            check_layers_in_eval_mode(model)
            self._eval_norms = True
        else:
            self._steps.watch(model, check=check)

    def batch(self, ids: Any) -> None:
        """Say which samples the next call of the watched criterion sees: ids (B,), on any device, or their keys as text.

        With `watch_model` say it before the forward pass. A run that has ended takes none, and says so.
        """
        if self.ended or self._writer.ended:
            if torch.is_grad_enabled() and not self._told_it_has_ended:
                self._told_it_has_ended = True
                tell_it_has_ended(self.name)
            return
        ids = self._ids(ids)
        if self._forgets:
            given = read_batch_ids(ids, len(self.labels))
            seen = given[self._writer.forgotten[given]]
            if len(seen):
                raise InvalidInput(
                    f"a batch of run {self.name!r} holds sample {seen[0]}, which experiment {self.experiment!r} has forgotten; "
                    "leave it out of the training set"
                )
        self._steps.batch(ids)

    def record(
        self, loss: torch.Tensor, margin: torch.Tensor | None = None, *, name: str | None = None
    ) -> None:
        """Record loss and margin (B,) of the samples in the batch, where no criterion gives them, as for texts.

        The batch is the watched loader's, or that which `batch` named; no margin where the loss has none. ``name`` says which loss
        it is, in the run's facts (extra, loss): "cross-entropy" where it is that of each record's class, which its probability is
        made of. Without it what is made of a cross-entropy alone is not made of these losses.
        """
        self._steps.record(loss, margin, name)

    def record_logits(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Record what a model that has its criterion inside says of the samples in the batch: the clean cross-entropy.

        Logits and labels are as a watched criterion would be called with; see `record` for what is recorded when.
        """
        self._steps.record_logits(logits, labels)

    @property
    def traced_points(self) -> int:
        """Points that the eval trace has so far, the one before training counted."""
        return self._eval_trace.points

    @property
    def recording(self) -> bool:
        """Whether the epoch under way holds at least one batch."""
        return self._recorder.recording

    def end_epoch(self) -> None:
        """End the epoch, for loops that use `batch`; where no batch was recorded in it nothing happens, but a warning if there were some."""
        self._end_epoch(whole=True)

    def _end_epoch(self, *, whole: bool = False) -> None:
        self._steps.end(whole=whole)
        if self._recorder.recording:
            self._doubt()
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
            return pl.DataFrame(schema=COLUMNS)
        self._recorder.wait()
        self._eval_trace.check_follows()
        traces = self._writer.staged_traces("eval" if self._eval_trace.points else "train", "loss")
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
        each record's target; see `losses.criterion.LossOf`.

        With ``grad_norm`` also the norm of each sample's gradient of its clean cross-entropy, at the price of a
        backward pass; by default where `watch_model` asked for it.

        Call it once before training (epoch 0) and after each epoch. ``data`` holds all samples in the order of
        sample ids: a map-style data set of (x, y) or a pair of tensors, without augmentation; records of any kind with
        `start_run`'s forward=. The model's
        modes and all random streams are left as they were. Where an earlier point is there, an error is a warning, so that
        training goes on: the point has no values. So have epochs after which it was not called.
        """
        wanted = self._eval_norms if grad_norm is None else grad_norm
        losses = self._losses_of(criterion)

        def ask(ids: np.ndarray) -> TracePoint:
            with self._steps.paused():
                asked = asked_model(
                    model,
                    data,
                    self.labels,
                    losses,
                    norms=wanted,
                    decide=self._steps.decide,
                    call=self._call(),
                    by_hand=self._steps.by_hand,
                )
            return asked.trace_point(ids, unwatched=self._steps.paused())

        self.trace_eval_by(ask)

    def trace_eval_by(self, ask: Callable[[np.ndarray], TracePoint]) -> None:
        """`trace_eval` for a model that is asked in another way: ask(ids) gives loss, margin or None, gradient norm or None,
        (len(ids),) each. Of several processes only the one that writes asks.
        """
        self._end_epoch()
        self._eval_trace.add(ask)

    def evaluate(self, model: nn.Module, data: Any, *, criterion: Callable[..., Any] | None = None) -> None:
        """Record the signals of the finished model for all samples and queries; arguments as in `trace_eval`.

        Of a loss that is no cross-entropy there is the loss alone, without phi and logits. Called again, the new signals replace the
        old. Where it raises, the run has no signals: it may be called again, and an error that leaves the run's block
        all the same commits the traces, so that no training is lost to it. A committed run that has no signals gets them too.
        """
        losses = self._losses_of(criterion)
        with self._evaluating():
            asked = asked_model(
                model,
                data,
                self.labels,
                losses,
                norms=False,
                decide=self._steps.decide,
                call=self._call(),
                by_hand=self._steps.by_hand,
            )
            where = f"logits of run {self.name!r}"
            self._end_epoch()
            self._evaluation.write(lambda ids, query: asked.answers(ids, query, where=where))

    def evaluate_by(self, ask: Callable[[np.ndarray, Query], Answers]) -> None:
        """`evaluate` for a model that is asked in another way: ask(ids, query) gives what it says of the samples ``ids``.

        Of several processes only the one that writes asks.
        """
        with self._evaluating():
            self._end_epoch()
            self._evaluation.write(lambda ids, query: [(ids, ask(ids, query))])

    def _losses_of(self, criterion: Callable[..., Any] | None) -> LossOf | None:
        """Of the criterion given; without one of that whose values are recorded, or is watched, the last of several."""
        return LossOf(criterion) if criterion is not None else self._steps.losses or self._losses

    def _call(self) -> Call:
        return Call(self._forward, self._collate or self._collate_of_loop or default_collate)

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        with self._evaluation.under_way(self.committed, lambda: self._steps.loss) as committed:
            yield
        if committed:
            self.committed = committed[0]

    def commit(self) -> Run | None:
        """Write what is left and make the run visible; leaving the block does this.

        A name that another process took meanwhile stays its own, and this run is committed as the next free one; of a run of
        `shadow_runs`, which has the same members, the other's stays, and None is returned. In training by several processes only the
        first commits; the others return None.
        """
        self._end_epoch()
        self._steps.unwatch()
        self._steps.ended = True
        self._recorder.finish()
        if not (self._recorder.epochs or self._eval_trace.points or self._evaluation.done):
            raise InvalidInput(
                f"run {self.name!r} recorded nothing: watch the loader and the criterion of the loop, or call evaluate"
            )
        self._unfinished.detach()
        if not ranks.writes():
            return None
        if self._recorder.epochs:
            missing = self.members & ~self._writer.forgotten & ~self._recorder.trained_on
            tell_who_was_in_no_batch(self.name, self.members, missing)
        if self._eval_trace.before_training_alone:
            tell_of_a_lone_point(self.name, self._recorder.epochs)
        try:
            self.committed = self._writer.commit(self._facts(), if_taken=self._free_name)
        except AlreadyExists:
            if self._free_name is not None:
                raise
            tell_it_is_dropped(self.name, self.experiment)
            return None
        if self.committed.run != self.name:
            tell_of_its_other_name(self.name, self.experiment, self.committed.run)
            self.name = self.committed.run
        return self.committed

    def _facts(self) -> RunInfo:
        """What the run says of itself, now that its loop has ended."""
        losses = self._losses_of(None)
        return dataclasses.replace(
            self._evaluation.info,
            extra={
                **self._evaluation.info.extra,
                **({"loss": BY_HAND} if self._steps.by_hand else {}),
                **({} if self._steps.loss is None or self._steps.by_hand else {"loss": self._steps.loss}),
                **({"outputs": "probabilities"} if losses is not None and losses.of_probabilities else {}),
            },
            epochs=self._recorder.epochs or max(self._eval_trace.points - 1, 0) or None,
            seconds=self._trained or time.perf_counter() - self._started,
            versions=versions(),
            device=device_name(None),
        )

    def resume(self, run: Run) -> None:
        """Be a run that is committed, whose signals are still to come, of the loss that it records."""
        self._unfinished.detach()
        self.committed = run
        loss = run.info.extra.get("loss")
        self._steps.by_hand = loss == BY_HAND
        if loss is not None and loss != BY_HAND:
            self._steps.decide(str(loss))

    def discard(self) -> None:
        """Leave nothing behind."""
        self.ended = self._steps.ended = True
        self._unfinished.detach()
        self._steps.unwatch()
        self._recorder.stop()
        self._writer.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.committed is None and (kind is None or self._only_evaluation_failed(error)):
                self.commit()
                if error is not None:
                    without = "" if self._evaluation.done else "; it has no signals"
                    error.add_note(f"the traces of run {self.name!r} are in the lake{without}")
        finally:
            self.discard()
            if self.committed is None and ranks.writes():
                self._writer.fail()

    def _is_over(self, told: Any) -> bool:
        """Whether what loaders and criteria tell goes to this run already, or to one that has ended."""
        owner = getattr(told, "__self__", None)
        steps = owner._steps if isinstance(owner, RecordedRun) else owner
        return steps is self._steps or (isinstance(steps, RecordedSteps) and steps.ended)

    def _only_evaluation_failed(self, error: BaseException | None) -> bool:
        """Whether the training before is whole: what leaves the block is what `evaluate` raised."""
        failed = error is not None and error is self._evaluation.failed
        return failed and bool(self._recorder.epochs or self._eval_trace.points or self._evaluation.done)

    def _ids(self, given: Any) -> Any:
        """Sample ids, by their keys where these are given."""
        keys = keys_in(given)
        return given if keys is None else self._by_key(keys)

    def _on_batch(self, ids: np.ndarray) -> None:
        self.batch(ids)
        self._steps.begin()

    def _on_field(self, field: Any) -> None:
        """A field of a batch: keys as text, or numbers, which may be keys as well as ids."""
        self._on_batch(field if keys_in(field) is not None else self._by_key(read_numbers(field)))

    def _doubt(self) -> None:
        """In the first epoch that holds a batch: what there is to tell of its records and outputs."""
        if self._doubted:
            return
        self._doubted = True
        check_order(self.experiment, self._not_shown, self.labels, compared=self._recorder.compared)
        losses = self._losses_of(None)
        if losses is not None:
            tell_of_sigmoids(self.name, losses.taken.shares_for_logits())
