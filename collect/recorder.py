"""Traces of a run: values scattered on the device during an epoch, copied once, written in the background."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from ..store.errors import InvalidInput
from ..store.writer import RunWriter
from . import ranks
from .background import Background


class TraceRecorder:
    """Per-sample loss and margin of training steps and of evaluation passes, on their way to a `RunWriter`.

    Nothing here makes the host wait for the device inside a step. The writer thread is the only one that
    calls ``writer.append_epoch``.
    """

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer
        self._samples = len(writer.members)
        self._background = Background(f"losslake-{writer.run}")
        self._epoch: _EpochValues | None = None
        self._side: torch.cuda.Stream | None = None
        self.epochs = 0
        """Training epochs ended so far."""

    @property
    def recording(self) -> bool:
        """Whether the epoch under way holds at least one batch."""
        return self._epoch is not None

    def record(
        self, ids: torch.Tensor, loss: torch.Tensor, margin: torch.Tensor, wrong: torch.Tensor | None = None
    ) -> None:
        """Take one batch of the epoch under way: all (B,), on one device, ids int64.

        ``wrong`` (B,) bool marks samples whose label is not that of the samples table; `end_epoch` raises
        where there was one. A sample that comes twice keeps one of its values.
        """
        if self._epoch is None:
            self._epoch = _EpochValues(self._samples, loss.device)
        self._epoch.put(ids, loss, margin, wrong)

    def end_epoch(self) -> None:
        """End the epoch under way and hand its values to the writer thread; nothing happens without a batch."""
        values, self._epoch = self._epoch, None
        if values is None:
            return
        self.epochs += 1
        epoch = self.epochs
        of_epoch = (values.loss, values.margin, values.seen, values.wrong)
        if ranks.several():
            of_epoch = ranks.merge_epoch(*of_epoch)
        if not ranks.writes():
            return
        loss, margin, seen, wrong = self._to_host(*of_epoch)

        def write() -> None:
            mismatches = int(wrong()[0])
            if mismatches:
                raise InvalidInput(
                    f"epoch {epoch} of run {self._writer.run!r}: {mismatches} targets are not the labels of their "
                    "samples, so batches and sample ids do not belong together; a loop that fetches batches ahead, or "
                    "reorders them, says which samples are next with run.batch(ids)"
                )
            ids = np.flatnonzero(seen())
            self._writer.append_epoch("train", epoch, ids, loss=loss()[ids], margin=margin()[ids])

        self._background.submit(write)

    def write_pass(
        self,
        source: Literal["train", "eval"],
        epoch: int,
        ids: np.ndarray,
        loss: torch.Tensor,
        margin: torch.Tensor,
    ) -> None:
        """Write one epoch of a trace that was made in one piece: loss and margin (len(ids),), on any device."""
        host_loss, host_margin = self._to_host(loss, margin)
        self._background.submit(
            lambda: self._writer.append_epoch(source, epoch, ids, loss=host_loss(), margin=host_margin())
        )

    def finish(self) -> None:
        """End the epoch under way and wait until all is written. Raises what the writer thread raised."""
        self.end_epoch()
        self._background.finish()

    def stop(self) -> None:
        """Stop the writer thread without raising; the run is being discarded."""
        self._epoch = None
        self._background.stop()

    def _to_host(self, *values: torch.Tensor) -> list[Callable[[], np.ndarray]]:
        """Start copying; each function returned waits for its copy, and is called by the writer thread."""
        if values[0].device.type != "cuda":
            return [_held(value.detach().cpu().numpy()) for value in values]
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
        return [_awaited(copy, done) for copy in copies]


class _EpochValues:
    """The values of one epoch, one slot a sample, on the device that computes them."""

    def __init__(self, samples: int, device: torch.device) -> None:
        self.loss = torch.zeros(samples, device=device)
        self.margin = torch.zeros(samples, device=device)
        self.seen = torch.zeros(samples, dtype=torch.bool, device=device)
        self.wrong = torch.zeros(1, dtype=torch.int64, device=device)

    def put(
        self, ids: torch.Tensor, loss: torch.Tensor, margin: torch.Tensor, wrong: torch.Tensor | None
    ) -> None:
        self.loss.index_copy_(0, ids, loss)
        self.margin.index_copy_(0, ids, margin)
        self.seen.index_fill_(0, ids, True)
        if wrong is not None:
            self.wrong += wrong.sum()


def _held(value: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: value


def _awaited(copy: torch.Tensor, done: torch.cuda.Event) -> Callable[[], np.ndarray]:
    def wait() -> np.ndarray:
        done.synchronize()
        return copy.numpy()

    return wait
