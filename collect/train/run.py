"""A run of the built-in trainer: what is laid down of it beforehand, and committing what its trained model says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from ...store.errors import InvalidInput, TrainingFailed
from ...store.format.records import Role, Run, RunInfo
from ...store.write.run_writer import RunWriter
from ..data.training import DeviceData, TrainingData, stored
from ..recipe import Recipe, to_json
from ..run_facts import device_name, versions
from ..signals.ask import Recording, append_answers, outputs
from ..signals.evaluation import eval_mode
from ..signals.queries import AS_IT_IS
from .step import eval_batch


@dataclass(frozen=True)
class RunPlan:
    """One run to train: its name, role, the seed of weights, order and augmentation, and what it derives from."""

    run: str
    role: Role
    seed: int
    parent: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class RunSetup:
    """A plan with what it takes: the recipe, the ``records``, bool (N,), to train on, and what is recorded.

    ``data`` are all samples, ``held`` the same on the device that trains.
    """

    plan: RunPlan
    recipe: Recipe
    data: TrainingData
    held: DeviceData
    records: np.ndarray
    recording: Recording

    @property
    def members(self) -> np.ndarray:
        """Whom the run counts as members, bool (N,): nobody where it learns soft labels in place of theirs."""
        return self.records if self.data.soft is None else np.zeros_like(self.records)


def answer_and_commit(
    writer: RunWriter,
    setup: RunSetup,
    model: nn.Module,
    *,
    epochs: int,
    seconds: float,
    told: Mapping[str, Any],
) -> Run:
    """Write what a trained model says of every sample, and commit its run; ``told`` goes into the run's ``extra``.

    Raises TrainingFailed where it says what is not finite, AlreadyExists where the run is committed.
    """
    plan, data, held, recording = setup.plan, setup.data, setup.held, setup.recording
    # In float32 whatever it was trained in: phi loses what bf16 rounds away.
    with eval_mode(model):
        ask = partial(outputs, model, held, batch=eval_batch(held.device))
        try:
            found = append_answers(
                writer, data.y, partial(ask, held.x, features=recording.features), recording
            )
        except InvalidInput as error:
            raise TrainingFailed(f"run {plan.run!r} diverged in its last steps: {error}") from error
        tested = None
        if data.test_x is not None:
            tested, _ = ask(stored(data.test_x), query=AS_IT_IS)
    test_accuracy, tested_on = test_accuracy_of(data, tested, found.correct, setup.records)
    return writer.commit(
        RunInfo(
            role=plan.role,
            seed=plan.seed,
            dataset=data.dataset,
            model=setup.recipe.model,
            recipe=to_json(setup.recipe),
            epochs=epochs,
            train_accuracy=share_right(found.correct, setup.members),
            test_accuracy=test_accuracy,
            seconds=round(seconds, 3),
            device=device_name(held.device),
            versions=versions(),
            parent=plan.parent,
            extra={**plan.extra, **told, "recording": recording.to_json(), "tested_on": tested_on},
        )
    )


def share_right(correct: np.ndarray, members: np.ndarray) -> float | None:
    """Share of right predictions among the members; None without any."""
    return float(correct[members].mean()) if members.any() else None


def test_accuracy_of(
    data: TrainingData, tested: np.ndarray | None, correct: np.ndarray, records: np.ndarray
) -> tuple[float | None, str | None]:
    """Share of right predictions on what the run never saw, and what that was."""
    if tested is not None and data.test_y is not None:
        return float((tested.argmax(axis=1) == data.test_y).mean()), "test split"
    outside = ~records & ~data.population & ~data.forgotten
    if not outside.any():
        return None, None
    return float(correct[outside].mean()), "audit samples that are no members"
