"""A criterion that is called again before the next batch, or after the last one: whether what is recorded is the records' own."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import torch

from ...store.errors import InvalidInput
from .. import ranks

_WAY_OUT = (
    "give watch_criterion an object for the records' loss alone and call the plain one for all else; validation belongs under "
    "torch.no_grad()"
)

_LOOKED_AT = 32
"""Batches of which it is looked whether a backward pass comes before the next call: a hook costs each step some microseconds."""


class FurtherCalls:
    """Of one run: which call of the watched criterion is a batch's, where there are several, or batches without one.

    The first call after a batch is taken for its. A second one with the same output is a second target of the same records (mixup); one
    after a backward pass with the same target is the same loss once more (SAM, LBFGS, adversarial steps). Others may be the records' as
    well as the first, which only labels can tell.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._output: weakref.ref[torch.Tensor] | None = None
        self._target: torch.Tensor | None = None
        self._within: tuple[int, torch.Tensor] | None = (
            None  # of a call in a compiled step: its output's place, a copy of its target
        )
        self._followed_back = self._compared = self._over = False
        self._calls = 0
        self._passed = 0  # batches of the pass under way that had no call
        self._told: set[str] = set()

    def batch_passed(self) -> None:
        """Another batch came before the criterion was called for the one named."""
        self._passed += 1

    def next_batch(self) -> None:
        """What was called is of the past."""
        self._output = self._target = self._within = None
        if self._over:
            self._over, self._passed = False, 0

    def over(self, *, whole: bool, compared: bool) -> None:
        """A pass has ended, ``whole`` as in `RecordedSteps.end`; ``compared``: labels were compared in it."""
        self._output = self._target = self._within = None
        self._compared = compared
        if not whole and not self._over:
            self._passed = 0
        self._over = self._over or whole

    def first(self, output: Any, target: Any, result: Any, *, compared: bool) -> None:
        """The call that is recorded; ``compared``: its targets were compared with the labels of all samples."""
        self._compared = compared
        self._output = weakref.ref(output) if isinstance(output, torch.Tensor) else None
        # Within a compiled step tensors are others each time, and their memory is used again.
        self._target = target.detach() if result is not None and isinstance(target, torch.Tensor) else None
        self._within = None
        if (
            result is None
            and not compared
            and isinstance(output, torch.Tensor)
            and isinstance(target, torch.Tensor)
        ):
            self._within = output.data_ptr(), target.detach().clone()
        self._followed_back = True
        self._calls += 1
        if (
            self._calls <= _LOOKED_AT
            and "again" not in self._told
            and isinstance(result, torch.Tensor)
            and result.requires_grad
        ):
            self._followed_back = False
            result.register_hook(self._note_backward)

    def again(self, output: Any, target: Any, result: Any) -> None:
        """A call with gradients of which nothing is recorded. Raises InvalidInput where it may be the records' as well as the one that is."""
        if self._over:
            self._after_the_last()
            return
        if result is None:
            self._again_within(output, target)
            return
        if self._target is None or self._output is None:
            return
        if self._output() is output:
            return
        if self._followed_back and self._compared:
            return
        same = _same(self._target, target)
        if not same and not self._compared:
            raise self._untold()
        if same and not self._followed_back:
            self._tell(
                "again",
                f"the criterion is called for one batch with several outputs, as for auxiliary heads and further views, and run {self._run!r} "
                f"records the first call's loss: if that is not the records', {_WAY_OUT}",
            )

    def _again_within(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """The same of a call in a compiled step, whose tensors have no names: their places are looked at, which may be used again, and values."""
        if self._within is None or self._within[0] == output.data_ptr():
            return
        if not _same(self._within[1], target):
            raise self._untold()

    def _untold(self) -> InvalidInput:
        return InvalidInput(
            f"the criterion of run {self._run!r} is called for one batch with different outputs and targets (several heads or steps, generated "
            f"records, validation), and no labels tell which are the records': {_WAY_OUT}; losses that are summed in the loop are recorded by "
            "run.record(losses)"
        )

    def _after_the_last(self) -> None:
        if self._passed and not self._compared:
            raise InvalidInput(
                f"the criterion of run {self._run!r} is called for a batch more than the loader was asked for after it: the loop fetches batches "
                "ahead, and losses would be those of other records; call run.batch(ids) before each call of the criterion"
            )
        self._tell(
            "over",
            f"the criterion is called with gradients after the last batch of an epoch, of which run {self._run!r} records nothing: validation belongs "
            "under torch.no_grad(); a loop that keeps batches, as itertools.cycle(loader) and list(loader) do, asks the loader anew "
            "for each epoch, or says which samples are next by run.batch(ids)",
        )

    def _note_backward(self, gradient: torch.Tensor) -> None:
        self._followed_back = True

    def _tell(self, what: str, message: str) -> None:
        if what not in self._told and ranks.writes():
            self._told.add(what)  # each once in a run
            warnings.warn(message, stacklevel=6)


def _same(one: torch.Tensor, other: Any) -> bool:
    """Whether two targets are the same; the host waits for the device where they are not one object."""
    if not isinstance(other, torch.Tensor) or one.numel() != other.numel() or one.device != other.device:
        return False
    return one.data_ptr() == other.data_ptr() or bool((one.flatten() == other.flatten()).all())
