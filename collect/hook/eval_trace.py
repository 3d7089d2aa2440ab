"""The points of a recorded run's eval trace: one before training and one after each epoch, what is due, what was left out."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from ...store.errors import InvalidInput, NotEnoughData
from .. import ranks
from .asked_model import TracePoint
from .recorder import TraceRecorder


class EvalTrace:
    """The eval trace of a run under way; ``recorder`` writes its points beside those of the train trace.

    points  that it has so far, the one before training and those without values counted
    """

    def __init__(self, run: str, recorder: TraceRecorder, ids: np.ndarray) -> None:
        """``ids`` (n,): the samples asked for, in their order."""
        self.points = 0
        self._run, self._recorder, self._ids = run, recorder, ids

    def add(self, ask: Callable[[np.ndarray], TracePoint]) -> None:
        """Add the point that is due, by ask(ids); epochs before it that have none get one without values.

        What ``ask`` raises is raised before training, and a warning later: the point has no values. Of several processes only the one that
        writes asks. Raises InvalidInput for a point that is not due.
        """
        epoch, due = self.points, self._recorder.epochs
        if due and epoch > due:
            raise InvalidInput(f"trace_eval of run {self._run!r} was called twice after epoch {due}")
        if due and epoch == 0:
            raise InvalidInput(
                f"trace_eval of run {self._run!r} is due before training and after each epoch; epoch {epoch} was left out"
            )
        while epoch < due:
            if ranks.writes():
                self._recorder.write_no_pass(epoch)
            epoch += 1
        if ranks.writes():
            self._add(epoch, ask)
        self.points = epoch + 1

    def _add(self, epoch: int, ask: Callable[[np.ndarray], TracePoint]) -> None:
        try:
            point = ask(self._ids)
        except Exception as error:
            if epoch == 0:
                raise
            self._recorder.write_no_pass(epoch)
            warnings.warn(
                f"trace_eval of run {self._run!r} failed, and its point after epoch {epoch} has no values; training goes on: "
                f"{type(error).__name__}: {error}",
                stacklevel=5,
            )
        else:
            self._recorder.write_pass(epoch, self._ids, *point)

    @property
    def before_training_alone(self) -> bool:
        """Whether it says nothing of the epochs that have ended, though there are some."""
        return self.points == 1 and self._recorder.epochs > 1

    def check_follows(self) -> None:
        """Raises NotEnoughData where there are epochs and it has the point before training alone."""
        if self.before_training_alone:
            raise NotEnoughData(
                f"trace_eval of run {self._run!r} was called before training alone, and {self._recorder.epochs} epochs have ended since; "
                "call it after each epoch too, or not at all: exposed() then reads what is recorded within the steps"
            )
