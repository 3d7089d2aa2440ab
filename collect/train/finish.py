"""What a trained model says of every sample, committed as its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ...store.errors import InvalidInput, TrainingFailed
from ...store.format.records import Run, RunInfo
from ...store.lake import Lake
from ...store.write.run_writer import RunWriter
from ..data.training import TrainingData
from ..recipe import to_json
from ..run_facts import device_name, versions
from ..signals.ask import append_answers, outputs
from ..signals.evaluation import eval_mode
from ..signals.queries import AS_IT_IS
from .plan import RunSetup
from .step import eval_batch


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model that was trained as its setup says, in ``seconds`` for ``epochs``. ``told`` goes into the run's ``extra``."""

    setup: RunSetup
    model: nn.Module
    epochs: int
    seconds: float
    told: Mapping[str, Any]


def commit_trained(lake: Lake, experiment: str, trained: TrainedModel) -> Run:
    """Ask the model about every sample, and commit it as a run without traces. Raises as `answer_and_commit` does."""
    setup = trained.setup
    with lake.write_run(experiment, setup.plan.run, members=setup.members) as writer:
        return answer_and_commit(writer, trained)


def answer_and_commit(writer: RunWriter, trained: TrainedModel) -> Run:
    """Write what the model says of every sample, and commit the run.

    Raises TrainingFailed where it says what is not finite, AlreadyExists where the run is committed.
    """
    setup = trained.setup
    plan, data, held, recording = setup.plan, setup.data, setup.held, setup.recording
    # In float32 whatever it was trained in: phi loses what bf16 rounds away.
    with eval_mode(trained.model):
        ask = partial(outputs, trained.model, held, batch=eval_batch(held.device))
        try:
            found = append_answers(
                writer, data.y, partial(ask, held.x, features=recording.features), recording
            )
        except InvalidInput as error:
            raise TrainingFailed(f"run {plan.run!r} diverged in its last steps: {error}") from error
        tested = None
        if data.test_x is not None:
            tested, _ = ask(torch.from_numpy(data.test_x), query=AS_IT_IS)
    correct, members = found.correct, setup.members
    test_accuracy, tested_on = _test_accuracy(data, tested, correct, setup.records)
    return writer.commit(
        RunInfo(
            role=plan.role,
            seed=plan.seed,
            dataset=data.dataset,
            model=setup.recipe.model,
            recipe=to_json(setup.recipe),
            epochs=trained.epochs,
            train_accuracy=float(correct[members].mean()) if members.any() else None,
            test_accuracy=test_accuracy,
            seconds=round(trained.seconds, 3),
            device=device_name(held.device),
            versions=versions(),
            parent=plan.parent,
            extra={**plan.extra, **trained.told, "recording": recording.to_json(), "tested_on": tested_on},
        )
    )


def _test_accuracy(
    data: TrainingData, tested: np.ndarray | None, correct: np.ndarray, records: np.ndarray
) -> tuple[float | None, str | None]:
    """Share of right predictions on what the run never saw, and what that was."""
    if tested is not None and data.test_y is not None:
        return float((tested.argmax(axis=1) == data.test_y).mean()), "test split"
    outside = ~records & ~data.population & ~data.forgotten
    return (
        (float(correct[outside].mean()), "audit samples that are no members")
        if outside.any()
        else (None, None)
    )
