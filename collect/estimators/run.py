"""A run of a fleet whose model is an estimator: fitted on its members, asked about all records, committed as a network's is."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from itertools import chain
from typing import IO, Any

import numpy as np

from ...store.errors import InvalidInput, TrainingFailed
from ...store.format.records import Run, RunInfo
from ...store.lake import Lake
from ...store.write.run_writer import RunWriter
from ..data.nested import Nested
from ..data.training import TrainingData
from ..recipe import Recipe, to_json
from ..run_facts import versions
from ..signals.ask import Recording, append_answers
from ..signals.from_logits import signals_from_logits
from ..train.run import RunPlan, share_right, test_accuracy_of
from .asking import ROWS_AT_ONCE, called
from .fitting import parameters, trained, trainer_of
from .logits import as_logits, in_order, least_of
from .named import make_estimator
from .passes import passes_of
from .stages import kind_of_stages, number_of_stages, stages_of

LEAST = "least_probability"
"""Under which ``extra`` says what a probability of exactly 0 is read as in a run."""


def fit_run(
    lake: Lake,
    experiment: str,
    data: TrainingData,
    recipe: Recipe,
    plan: RunPlan,
    records: np.ndarray,
    recording: Recording,
    *,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> Run:
    """Fit the recipe's estimator on ``records``, bool (N,), its members, and commit what it says of all samples as a run.

    It is given rows of features as they are, float32, and pictures as rows of numbers from 0 to 1; scaling is its own. Every random_state of
    it and its parts is drawn from ``plan.seed``. Logits are the logarithms of its probabilities; one of exactly 0, and a
    class that no member has, is read as ``extra`` of the plan says under least_probability, or else as half of the least other
    one that it gives (see `least_of`). A trace, where recorded, has what it said after each pass over its members, where the recipe
    has epochs (see `passes_of`), else after each of its own stages (see `stages_of`); in the place of before training, the shares
    of the classes among its members; ``extra`` says what the epochs are under epochs_are. ``on_epoch`` is told of each pass but the last.

    Raises TrainingFailed where it cannot be fitted or asked, AlreadyExists where the run is committed.
    """
    with lake.write_run(experiment, plan.run, members=records) as writer, tempfile.TemporaryFile() as earlier:
        started = time.perf_counter()
        try:
            return _fitted(writer, data, recipe, plan, records, recording, started, on_epoch, earlier)
        except InvalidInput as error:
            raise TrainingFailed(f"run {plan.run!r}: {error}") from error


def rows_of_features(x: np.ndarray | Nested) -> np.ndarray:
    """The records as an estimator takes them: float32 (N, F); pictures are flattened, in 0..1."""
    assert isinstance(x, np.ndarray)
    flat = x.reshape(len(x), -1)
    return (flat / np.float32(255)) if x.dtype == np.uint8 else flat.astype(np.float32, copy=False)


def _fitted(
    writer: RunWriter,
    data: TrainingData,
    recipe: Recipe,
    plan: RunPlan,
    records: np.ndarray,
    recording: Recording,
    started: float,
    on_epoch: Callable[[int], None],
    earlier: IO[bytes],
) -> Run:
    made = make_estimator(recipe)
    x = rows_of_features(data.x)
    # A class that no member has is none of the model's: some libraries want 0, 1, 2, ... without a gap.
    classes, targets = np.unique(data.y[records], return_inverse=True)
    if len(classes) < 2:
        raise InvalidInput(
            f"its {int(records.sum())} members are all of one class: whatever such a model is asked it says the same; take more records, "
            "or fewer classes"
        )
    name = type(made).__name__
    ids = np.flatnonzero(~data.population & ~data.forgotten)
    if recipe.passes is None:
        model = trained(trainer_of(made, None), (x[records], targets), plan.seed, name)
    else:
        for epoch, model in enumerate(
            passes_of(made, x[records], targets, plan.seed, recipe.passes), start=1
        ):
            if epoch < recipe.passes:
                on_epoch(epoch)
                if recording.traces:
                    # As they were said: what a probability of 0 is read as is known at the end. A thousand passes do not fit into memory.
                    np.save(earlier, _asked(model, x[ids], name), allow_pickle=False)
    seconds = time.perf_counter() - started
    known, wanted = classes.tolist(), list(range(data.classes))

    def of_all(outputs: np.ndarray) -> np.ndarray:
        return in_order(outputs, name, "probabilities", known, wanted)

    outputs = _asked(model, x, name)
    if outputs.ndim != 2 or outputs.shape[1] != len(classes):
        raise InvalidInput(f"{name} gives outputs of shape {outputs.shape}, and knows {len(classes)} classes")
    least = plan.extra.get(LEAST) or least_of(outputs[~data.forgotten])

    def logits_of(probabilities: np.ndarray, of: np.ndarray) -> np.ndarray:
        return as_logits(of_all(probabilities), "probabilities", least, lambda row: f"sample {of[row]}")

    logits = logits_of(outputs, np.arange(len(x)))
    found = append_answers(writer, data.y, lambda *, query: (logits, None), recording)
    if recording.traces:
        shares = np.bincount(targets, minlength=len(classes)) / len(targets)
        _append_stage(writer, 0, logits_of(np.tile(shares, (len(ids), 1)), ids), ids, data.y)
        last = outputs[ids]
        earlier.seek(0)
        stages = (
            stages_of(model, x[ids], last)
            if recipe.passes is None
            else chain((np.load(earlier, allow_pickle=False) for _ in range(1, recipe.passes)), [last])
        )
        for number, stage in enumerate(stages, start=1):
            _append_stage(writer, number, logits_of(stage, ids), ids, data.y)
    tested = None
    if data.test_x is not None:
        tested = of_all(_asked(model, rows_of_features(data.test_x), name))
    test_accuracy, tested_on = test_accuracy_of(data, tested, found.correct, records)
    told: dict[str, Any] = {LEAST: least, "parameters": parameters(made)}
    epochs_are = kind_of_stages(model) if recipe.passes is None else "passes of partial_fit"
    if epochs_are is not None:
        told["epochs_are"] = epochs_are
    return writer.commit(
        RunInfo(
            role=plan.role,
            seed=plan.seed,
            dataset=data.dataset,
            model=recipe.model,
            recipe=to_json(recipe),
            epochs=recipe.passes or number_of_stages(model),
            train_accuracy=share_right(found.correct, records),
            test_accuracy=test_accuracy,
            seconds=round(seconds, 3),
            device="cpu",
            versions={**versions(trained=False), **_libraries(recipe)},
            parent=plan.parent,
            extra={**plan.extra, **told, "recording": recording.to_json(), "tested_on": tested_on},
        )
    )


def _asked(model: Any, x: np.ndarray, name: str) -> np.ndarray:
    """What it says of the rows, (n, C), some at a time."""
    parts = [
        called(model.predict_proba, x[start : start + ROWS_AT_ONCE], name, "records")
        for start in range(0, len(x), ROWS_AT_ONCE)
    ]
    return np.concatenate(parts)


def _append_stage(
    writer: RunWriter, stage: int, logits: np.ndarray, ids: np.ndarray, labels: np.ndarray
) -> None:
    signals = signals_from_logits(logits, labels[ids], where=f"stage {stage}")
    writer.append_epoch("eval", stage, ids, loss=signals.loss, margin=signals.margin)


def _libraries(recipe: Recipe) -> dict[str, str]:
    """The libraries of the recipe by name, as a run lists versions."""
    told = (each.rpartition(" ") for each in (recipe.estimator or "").split(", "))
    return {name: version for name, _, version in told if name}
