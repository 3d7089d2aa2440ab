"""Checkpoints of the built-in trainer: a run whose process was stopped goes on where it was, with the same values.

A checkpoint has the state of the training (see `state_of`) and the epochs recorded so far, as safetensors, in the lake
(see `store.write.checkpoints`) until the run is committed. A run goes on from one only where everything that decides
about its state after an epoch is the same (see `what_decides`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from ...store.errors import (
    AlreadyExists,
    ForgottenMeanwhile,
    InvalidInput,
    InvalidOption,
    LosslakeError,
    TrainingFailed,
)
from ...store.lake import Lake
from ...store.write.checkpoints import (
    Checkpoint,
    CheckpointWriter,
    checkpoint_key,
    find_checkpoints,
    read_checked,
    remove_checkpoints,
    remove_idle,
)
from ...store.write.run_writer import RunWriter
from ..data.record import content_digest
from ..hook.recorder import TraceRecorder
from ..recipe import to_json
from ..run_facts import versions
from .checkpoint_facts import check_facts
from .loop import Training
from .run import RunSetup
from .state import Epoch, give_piece, new_pieces, restore, state_of

_STATE = 1
"""Version of what `state_of` answers."""

_SECONDS = 30.0
"""Training between two checkpoints, at least, unless epochs are counted."""

_SHARE = 0.05
"""Of the time that training takes, what checkpoints take at most, unless epochs are counted."""


@dataclass(frozen=True)
class Checkpointing:
    """When a run is checkpointed, and whether it goes on from a checkpoint that is there.

    every     after so many epochs; None: after an epoch that ends 30 s or more after the last checkpoint, and so that
              checkpoints take at most a twentieth of the time; 0: none is made
    restart   the run begins anew, and what there was of its checkpoints is removed
    """

    every: int | None = None
    restart: bool = False

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 0:
            raise InvalidOption(
                f"checkpoint_every is {self.every}; it must be a number of epochs, or 0 for none"
            )


class Checkpoints:
    """The checkpoints of one run, which ``writer`` writes.

    A run goes on from the furthest checkpoint with the same recipe, seed, members, data and traces (`what_decides`). On a
    CPU, with the same number of threads and the same versions, it ends with the values of a run that was never stopped.
    Python's and NumPy's global random streams, which the trainer does not draw from, go on too.

    As a context manager around the training it removes them where the run is committed, as nobody goes on with it any
    more, and where it failed, and would again, those it made and went on from.

    ``say`` is told, in a sentence, what a person wants to know. A checkpoint that cannot be stored or read does not stop
    a training.
    """

    def __init__(
        self,
        lake: Lake,
        writer: RunWriter,
        setup: RunSetup,
        rules: Checkpointing,
        say: Callable[[str], None] | None,
    ) -> None:
        self._lake, self._writer, self._setup, self._rules = lake, writer, setup, rules
        self._say = say or (lambda sentence: None)
        self._place = (lake.files, writer.experiment, writer.run)
        self._out = CheckpointWriter(*self._place, writer.token, np.flatnonzero(writer.forgotten).tolist())
        self._origin: str | None = None
        self._stored: set[Epoch] = set()
        self.resumed_after: list[int] = []
        """After which epochs the run was gone on with."""
        self.seconds_before = 0.0
        """How long the run was trained in the processes before this one."""
        self._cost = 0.0
        self._began = self._last = time.monotonic()
        self._off = False

    @cached_property
    def _what(self) -> dict[str, Any]:
        return what_decides(self._setup)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, AlreadyExists):
            remove_checkpoints(*self._place)
        elif isinstance(error, TrainingFailed):
            remove_idle(*self._place, {self._writer.token, self._origin or self._writer.token})

    def resume(self, training: Training, recorder: TraceRecorder | None) -> None:
        """Take up the furthest checkpoint that fits and is whole, with the epochs recorded so far; where there is none, nothing.

        Raises InvalidOption for a checkpoint of a model that is another one by now.
        """
        if self._rules.restart:
            remove_idle(*self._place)
            return
        found, damage = find_checkpoints(*self._place)
        fitting = [each for each in found if each.key == checkpoint_key(self._what)]
        run, epochs = self._writer.run, self._setup.recipe.epochs
        for each in fitting:
            try:
                tensors = safetensors.torch.load(read_checked(self._lake.files, each.state))
                check_facts(each, tensors, training)
                for piece in each.pieces:  # all of them, before any goes to the writer
                    read_checked(self._lake.files, piece)
            except (LosslakeError, SafetensorError) as error:
                damage.append(str(error))
                continue
            self._tell_damage(damage)
            self._go_on(each, tensors, training, recorder)
            before, now = each.facts["versions"], versions()
            changed = [f"{name} {before.get(name)}" for name in now if before.get(name) != now[name]]
            begun = f", begun with {', '.join(changed)}" if changed else ""
            self._say(f"resuming run {run} after epoch {each.epoch} of {epochs}{begun}")
            return
        self._tell_damage(damage)
        if fitting:
            self._say(f"run {run} begins anew: none of its checkpoints can be read")
        elif found:
            before = found[0].facts.get("what")
            other = difference(before, self._what) if isinstance(before, Mapping) else "other options"
            self._say(
                f"run {run} begins anew: its checkpoint after epoch {found[0].epoch} is of a run with {other}; "
                "to go on from it stop this and give the former options"
            )

    def after_epoch(self, training: Training, recorder: TraceRecorder | None) -> None:
        """Make a checkpoint where one is due. Raises AlreadyExists where another process has committed the run."""
        if self._off or not self._due(training.epoch):
            return
        run = self._writer.run
        if self._lake.has_run(self._writer.experiment, run):
            raise AlreadyExists(f"run {run!r} was committed by another process in the meantime")
        started = time.monotonic()
        if recorder is not None:
            recorder.wait()
        try:
            tensors, facts = state_of(training)
            for piece in new_pieces(self._writer, self._stored):
                self._out.add_piece(piece)
            facts |= {
                "what": self._what,
                "seconds": self.seconds_before + started - self._began,
                "resumed_after": self.resumed_after,
                "versions": versions(),
            }
            full = self._out.write(
                training.epoch, checkpoint_key(self._what), safetensors.torch.save(tensors), facts
            )
        except (LosslakeError, SafetensorError) as error:
            self._off = isinstance(error, (ForgottenMeanwhile, InvalidOption, SafetensorError))
            self._say(f"run {run} has no checkpoint after epoch {training.epoch}: {error}")
        else:
            if full and self._origin is not None:
                remove_idle(*self._place, {self._origin})
                self._origin = None
        self._last = time.monotonic()
        self._cost = self._last - started

    def _due(self, epoch: int) -> bool:
        if self._rules.every is not None:
            return self._rules.every > 0 and epoch % self._rules.every == 0
        return time.monotonic() - self._last >= max(_SECONDS, self._cost / _SHARE)

    def _go_on(
        self,
        checkpoint: Checkpoint,
        tensors: Mapping[str, torch.Tensor],
        training: Training,
        recorder: TraceRecorder | None,
    ) -> None:
        try:
            restore(training, tensors, checkpoint.facts)
        except InvalidInput as error:
            raise InvalidOption(
                f"run {checkpoint.run!r} cannot go on from its checkpoint: {error}; to begin anew give --restart"
            ) from error
        for piece in checkpoint.pieces:
            give_piece(self._writer, read_checked(self._lake.files, piece))
        if recorder is not None:
            recorder.epochs = max(
                (epoch for source, epoch in self._writer.staged_epochs() if source == "train"), default=0
            )
        self._origin = checkpoint.token
        self.seconds_before = checkpoint.facts["seconds"]
        self.resumed_after = [*checkpoint.facts["resumed_after"], checkpoint.epoch]

    def _tell_damage(self, damage: list[str]) -> None:
        for sentence in damage:
            self._say(f"a checkpoint of run {self._writer.run} cannot be used: {sentence}")


def what_decides(setup: RunSetup) -> dict[str, Any]:
    """As JSON values: recipe, seed, members, data, what is traced, and the kind of device. What is asked of the trained
    model is no part of it.
    """
    data = setup.data
    arrays = [(data.x, data.y), (data.mean, data.std)]
    if data.soft is not None:
        arrays.append((data.soft, np.array([data.temperature])))
    return {
        "losslake's checkpoints": _STATE,
        **to_json(setup.recipe),
        "seed": setup.plan.seed,
        "traces": setup.recording.traces,
        "grad_norms": setup.recording.grad_norms,
        "device": setup.held.device.type,
        "members": content_digest(setup.records, data.population),
        "data": [content_digest(*pair) for pair in arrays],
    }


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first thing that was another one, for a sentence: "lr 0.1, not 0.05" or "other members"."""
    names = (*now, *(name for name in before if name not in now))
    name = next((name for name in names if before.get(name) != now.get(name)), "options")
    if name in ("members", "data", "options"):
        return f"other {name}"
    return f"{name} {before.get(name)!r}, not {now.get(name)!r}"
