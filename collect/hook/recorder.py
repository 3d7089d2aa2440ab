"""Traces of a run: values scattered on the device during an epoch, copied once, written in the background."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import numpy as np
import torch

from ...store.errors import InvalidInput
from ...store.write.run_writer import RunWriter
from .. import ranks
from ..grad_norms.step import StepNorms

_WAITING_JOBS = 8
"""Jobs that may wait: enough to ride out a slow disk, few enough to bound the memory they hold."""


class TraceRecorder:
    """Per-sample loss, margin and gradient norm of training steps and evaluation passes, on their way to a `RunWriter`.

    Nothing here makes the host wait for the device inside a step. The writer thread is the only one that
    calls ``writer.append_epoch``.
    """

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer
        self._samples = len(writer.members)
        self._background = Background(f"losslake-{writer.run}")
        self._epoch: _EpochValues | None = None
        self._side: torch.cuda.Stream | None = None
        self._names: tuple[str, ...] = ()
        self.epochs = 0
        """Training epochs ended so far."""
        self.compared = False
        """Whether targets were compared with the labels of their samples, in any batch."""
        self.trained_on = np.zeros(self._samples, dtype=bool)
        """Which samples were in a batch of the epochs written so far."""

    @property
    def recording(self) -> bool:
        """Whether the epoch under way holds at least one batch."""
        return self._epoch is not None

    def record(
        self,
        ids: torch.Tensor,
        loss: torch.Tensor,
        margin: torch.Tensor | None = None,
        wrong: torch.Tensor | None = None,
        *,
        by_label: bool = True,
    ) -> None:
        """Take one batch of the epoch under way: all (B,), on one device, ids int64; no margin where there is none.

        ``wrong`` (B,) bool marks samples whose label is not that of the samples table; `end_epoch` raises
        where there was one; ``by_label``: as labels were compared. A sample that comes twice keeps one of its values.
        """
        if self._epoch is None:
            self._epoch = _EpochValues(self._samples, loss.device)
        self.compared = self.compared or (wrong is not None and by_label)
        self._epoch.put(ids, loss, margin, wrong)

    def record_grad_norm(self, found: StepNorms, names: tuple[str, ...]) -> None:
        """Take the gradient norms of a batch of the epoch under way, after its loss; on the same device.

        ``names`` are the model's parameters; `end_epoch` raises, naming them, where the gradients found of some
        are not those that autograd computed. A sample of the epoch without a norm has NaN.
        """
        if self._epoch is None:
            self._epoch = _EpochValues(self._samples, found.norms.device)
        self._names = names
        self._epoch.put_norms(found, len(names))

    def end_epoch(self) -> None:
        """End the epoch under way and hand its values to the writer thread; nothing happens without a batch."""
        values, self._epoch = self._epoch, None
        if values is None:
            return
        self.epochs += 1
        epoch = self.epochs
        with_margin = values.with_margin
        of_epoch = values.all()
        if ranks.several():
            of_epoch = ranks.merge_epoch(*of_epoch)
        if not ranks.writes():
            return
        on_host = self._to_host(*of_epoch)
        names = self._names

        def write() -> None:
            loss, margin, seen, counts, *norm = on_host()
            mismatches, *faults = counts.tolist()
            if mismatches:
                raise InvalidInput(
                    f"epoch {epoch} of run {self._writer.run!r}: {mismatches} targets are not the labels of their "
                    "samples, so batches and sample ids do not belong together; a loop that fetches batches ahead, or "
                    "reorders them, says which samples are next with run.batch(ids); a data set whose records are not the members in "
                    "their order with watch_loader(loader, ids=...); or start_run's samples= have other labels than the loop trains on, as with "
                    "label noise: give those"
                )
            strangers = np.flatnonzero(seen & ~self._writer.members)
            if len(strangers):
                raise InvalidInput(
                    f"epoch {epoch} of run {self._writer.run!r}: {len(strangers)} samples in its batches are no members, the first of them "
                    f"{strangers[0]}; either members= are not those that the loop trains on, or its batches are not followed rightly: "
                    "watch_loader(loader, ids=...)"
                )
            self.trained_on |= seen
            sums, alone = faults[: len(names)], faults[len(names) :]
            if any(sums):
                raise InvalidInput(_not_adding_up(self._writer.run, epoch, sums, names, alone=any(alone)))
            if any(alone):
                raise InvalidInput(_not_alone(self._writer.run, epoch, alone, names))
            ids = np.flatnonzero(seen)
            self._writer.append_epoch(
                "train",
                epoch,
                ids,
                loss=loss[ids],
                margin=margin[ids] if with_margin else None,
                grad_norm=norm[0][ids] if norm else None,
            )

        self._background.submit(write)

    def write_pass(
        self,
        epoch: int,
        ids: np.ndarray,
        loss: torch.Tensor,
        margin: torch.Tensor | None,
        grad_norm: torch.Tensor | None = None,
    ) -> None:
        """Write one epoch of the eval trace: loss, margin, norm (len(ids),), on any device."""
        values = {"loss": loss, "margin": margin, "grad_norm": grad_norm}
        given = {name: value for name, value in values.items() if value is not None}
        on_host = self._to_host(*given.values())
        self._background.submit(
            lambda: self._writer.append_epoch("eval", epoch, ids, **dict(zip(given, on_host(), strict=True)))
        )

    def write_no_pass(self, epoch: int) -> None:
        """Write an epoch of the eval trace in which no sample has a value."""
        nothing = torch.zeros(0)
        self.write_pass(epoch, np.zeros(0, dtype=np.int64), nothing, None)

    def wait(self) -> None:
        """Wait until the epochs that have ended are written. Raises what the writer thread raised."""
        self._background.wait()

    def finish(self) -> None:
        """End the epoch under way and wait until all is written. Raises what the writer thread raised."""
        self.end_epoch()
        self._background.finish()

    def stop(self) -> None:
        """Stop the writer thread without raising; the run is being discarded."""
        self._epoch = None
        self._background.stop()

    def _to_host(self, *values: torch.Tensor) -> Callable[[], list[np.ndarray]]:
        """Start copying; the function returned waits for the copies, and is called by the writer thread."""
        if values[0].device.type != "cuda":
            held = [value.detach().cpu().numpy() for value in values]
            return lambda: held
        if self._side is None:
            self._side = torch.cuda.Stream(values[0].device)
        self._side.wait_stream(torch.cuda.current_stream(values[0].device))
        done = torch.cuda.Event()
        copies = []
        with torch.cuda.stream(self._side):
            for value in values:
                copy = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
                copy.copy_(value.detach(), non_blocking=True)
                # The allocator must not hand the memory out again before this stream has read it.
                value.record_stream(self._side)
                copies.append(copy)
            done.record(self._side)

        def copied() -> list[np.ndarray]:
            done.synchronize()
            return [copy.numpy() for copy in copies]

        return copied


class _EpochValues:
    """The values of one epoch, one slot a sample, on the device that computes them."""

    def __init__(self, samples: int, device: torch.device) -> None:
        self.loss = torch.zeros(samples, device=device, dtype=torch.float32)
        # NaN for a batch without one among batches with one.
        self.margin = torch.full_like(self.loss, torch.nan)
        self.with_margin = False
        self.seen = torch.zeros(samples, dtype=torch.bool, device=device)
        self.wrong = torch.zeros(1, dtype=torch.int64, device=device)
        self.grad_norm: torch.Tensor | None = None
        self.faults = self.wrong[:0]

    def put(
        self,
        ids: torch.Tensor,
        loss: torch.Tensor,
        margin: torch.Tensor | None,
        wrong: torch.Tensor | None,
    ) -> None:
        self.loss.index_copy_(0, ids, loss)
        if margin is not None:
            self.margin.index_copy_(0, ids, margin)
            self.with_margin = True
        self.seen.index_fill_(0, ids, True)
        if wrong is not None:
            self.wrong += wrong.sum()

    def put_norms(self, found: StepNorms, parameters: int) -> None:
        if self.grad_norm is None:
            self.grad_norm = torch.full_like(self.loss, torch.nan)
        self.grad_norm.index_copy_(0, found.ids, found.norms)
        if not len(self.faults):
            self.faults = self.wrong.new_zeros(2 * parameters)
        for at, faults in enumerate((found.faults, found.apart)):
            if faults is not None:
                self.faults[at * parameters : (at + 1) * parameters] += faults

    def all(self) -> tuple[torch.Tensor, ...]:
        """loss, margin, seen, counts (wrong labels, then twice faults of each parameter), and the norms where there are any."""
        values = (self.loss, self.margin, self.seen, torch.cat([self.wrong, self.faults]))
        return values if self.grad_norm is None else (*values, self.grad_norm)


def _named(faults: list[int], names: tuple[str, ...]) -> str:
    wrong = [name for name, fault in zip(names, faults, strict=True) if fault]
    return ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")


_BESIDE = (
    "what is trained on holds a term beside the criterion that reaches these weights (a second task, a penalty on features): put "
    "it into the criterion, record by record, or leave out watch_model"
)


def _not_alone(run: str, epoch: int, faults: list[int], names: tuple[str, ...]) -> str:
    return (
        f"epoch {epoch} of run {run!r}: the gradient norm found of a record is not that of its own loss, in "
        f"{_named(faults, names)}. Either the rows that these weights see are not the records of the batch, as in sequence-first "
        "layers, position embeddings and prototypes as many as the batch, or weights used past their layer: freeze them, or change "
        f"the layer. Or what the criterion returns is no mean: watch_criterion(..., reduction='sum'). Or {_BESIDE}"
    )


def _not_adding_up(run: str, epoch: int, faults: list[int], names: tuple[str, ...], *, alone: bool) -> str:
    """``alone``: whether the norm of one record was found to be wrong too, so that no term on the weights alone explains it."""
    return (
        f"epoch {epoch} of run {run!r}: the per-sample gradients of {_named(faults, names)} do not add up to the gradients "
        "that training used, so the norms would be wrong; either these weights are used past their layer (freeze them, or "
        "call the layer), or "
        + (
            _BESIDE
            if alone
            else "the records pass through them more than once, or the loss has a term past the criterion (then watch_model(model, "
            "check=False) leaves it out)"
        )
    )


class Background:
    """Jobs done one after another, in order, in a thread of their own.

    What a job raises comes up in the thread that calls `submit` or `finish` next; jobs after it are not done.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(_WAITING_JOBS)
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        # Waited for in place of the thread: on Python 3.11 and 3.12 an exception that breaks a join marks the thread as
        # ended while it still works (bpo-45274), and whoever joins it again goes on too early.
        self._ended = threading.Event()

    def submit(self, job: Callable[[], None]) -> None:
        """Have ``job`` done; waits while many jobs are waiting. Raises what an earlier job raised."""
        self._raise()
        if self._thread is None:
            # A daemon: an interpreter that ends without `finish` must not wait for a stuck disk.
            self._ended.clear()
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def wait(self) -> None:
        """Wait until every job so far is done. Raises what a job raised."""
        self._jobs.join()
        self._raise()

    def finish(self) -> None:
        """Wait until every job is done and end the thread. Raises what a job raised."""
        self.stop()
        self._raise()

    def stop(self) -> None:
        """As `finish`, without raising: for a caller that is failing already."""
        if self._thread is not None:
            self._jobs.put(None)
            self._ended.wait()
            self._thread = None

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            self.stop()
            raise error

    def _work(self) -> None:
        failed = False
        while True:
            job = self._jobs.get()
            try:
                if job is None:
                    self._ended.set()
                    return
                if not failed:  # after a failure the queue is emptied, so that nobody waits for room in it
                    job()
            except BaseException as error:
                self._error = error
                failed = True
            finally:
                self._jobs.task_done()
