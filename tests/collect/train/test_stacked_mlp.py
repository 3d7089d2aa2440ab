"""Models trained as a stack are those trained alone: same weights, batches and rates, to float tolerance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from losslake.collect.data.training import DeviceData
from losslake.collect.experiment.prepare import Prepared, prepare_experiment
from losslake.collect.fleet.target_and_shadows import collect_shadows
from losslake.collect.recipe import Recipe
from losslake.collect.signals.ask import Recording
from losslake.collect.train.run import RunPlan
from losslake.collect.train.stacked_mlp import stackable, train_stack
from losslake.collect.train.step import TrainStep
from losslake.collect.train.trainer import train_run
from losslake.store.errors import InvalidOption, TrainingFailed
from losslake.store.lake import Lake

CPU = torch.device("cpu")
RECIPE = Recipe(
    model="mlp",
    model_options={"widths": (16, 8)},
    epochs=3,
    batch_size=16,
    lr=0.05,
    warmup_epochs=1,
    label_smoothing=0.1,
)
# Two, three and (a rest of one joins the batch before) two batches an epoch; sets that differ.
SIZES = (32, 40, 33)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    lake = Lake.open(tmp_path / "lake", create=True)
    return prepare_experiment(lake, "e", dataset="digits", samples=100, pictures=False)


def members(size: int, number: int) -> np.ndarray:
    chosen = np.zeros(100, dtype=bool)
    chosen[np.random.default_rng(number).permutation(100)[:size]] = True
    return chosen


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"nesterov": True, "schedule": "constant", "weight_decay": 0.01},
        {"momentum": 0.0, "model_options": {"widths": ()}, "schedule": "one-cycle"},
        {"batch_size": 64, "normalize": False},
    ],
)
def test_a_stack_is_its_models_alone(prepared: Prepared, changes: dict[str, Any]) -> None:
    recipe = replace(RECIPE, **changes)
    held = DeviceData(prepared.data, CPU, normalize=recipe.normalize)
    plans = [RunPlan(f"r{number}", "shadow", number) for number in range(3)]
    rows = [members(size, number) for number, size in enumerate(SIZES)]
    seen: list[tuple[int, int]] = []
    step = TrainStep(held, recipe)
    trained = train_stack(held, recipe, plans, rows, on_epoch=lambda *at: seen.append(at))
    assert sorted(seen) == [(k, epoch) for k in range(3) for epoch in (1, 2, 3)]
    for plan, row, each in zip(plans, rows, trained, strict=True):
        recording = Recording(("original",), logits="float32")
        train_run(prepared.lake, "e", prepared.data, recipe, plan, row, recording=recording, step=step)
        query = "select logits from signals where run = $run order by sample_id"
        alone = np.array(prepared.lake.sql(query, {"run": plan.run})["logits"].to_list())
        assert each.model is not None
        with torch.no_grad():
            stacked = each.model(held.inputs(held.x)).numpy()
        np.testing.assert_allclose(stacked, alone, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_fleet_as_stacks_is_the_fleet_one_by_one(prepared: Prepared, tmp_path: Path, jobs: int) -> None:
    other = prepare_experiment(
        Lake.open(tmp_path / "other", create=True), "e", dataset="digits", samples=100, pictures=False
    )
    for where, stack in ((prepared, 2), (other, 1)):
        runs = collect_shadows(
            where.lake,
            "e",
            count=5,
            recipe=RECIPE,
            prepared=where,
            device="cpu",
            jobs=jobs if stack > 1 else 1,
            stack=stack,
        )
        assert [run.info.extra.get("stacked") for run in runs] == (
            [2, 2, 2, 2, 1] if stack == 2 else [None] * 5
        )
    query = "select run, sample_id, query, member, correct, phi from signals order by all"
    one, two = prepared.lake.sql(query), other.lake.sql(query)
    for name in ("run", "sample_id", "query", "member"):
        assert one[name].to_list() == two[name].to_list()
    np.testing.assert_allclose(one["phi"].to_numpy(), two["phi"].to_numpy(), rtol=1e-3, atol=1e-4)
    # Asking again, whichever way, trains nothing.
    again = collect_shadows(
        prepared.lake, "e", count=5, recipe=RECIPE, prepared=prepared, device="cpu", jobs=1
    )
    assert len(again) == 5


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_model_fails_alone(prepared: Prepared, jobs: int) -> None:
    held = DeviceData(prepared.data, CPU, normalize=True)
    held.x = held.x.float()
    poisoned = int(np.flatnonzero(members(32, 0) & ~members(40, 1))[0])
    held.x[poisoned] = torch.nan
    plans = [RunPlan(f"r{number}", "shadow", number) for number in range(3)]
    rows = [members(32, 0), members(40, 1), np.zeros(100, dtype=bool)]
    bad, good, empty = train_stack(held, RECIPE, plans, rows)
    assert bad.model is None
    assert "'r0' diverged in epoch 1 of 3" in bad.failure
    assert empty.model is None
    assert "'r2' has no record" in empty.failure
    assert good.model is not None
    assert all(torch.isfinite(value).all() for value in good.model.parameters())
    with pytest.raises(TrainingFailed, match=r"4 of 4 runs failed: run 'shadow-0000' diverged in epoch 1"):
        collect_shadows(
            prepared.lake,
            "e",
            count=4,
            recipe=replace(RECIPE, lr=1e30),
            prepared=prepared,
            device="cpu",
            jobs=jobs,
            stack=2,
        )
    assert prepared.lake.runs("e") == []


def test_what_can_be_stacked(prepared: Prepared) -> None:
    plain: dict[str, Any] = {"augmented": False, "soft": False}
    assert stackable(RECIPE, Recording(), **plain)
    for changes in (
        {"model": "cnn", "model_options": {}},
        {"model_options": {"dropout": 0.1}},
        {"optimizer": "adam"},
        {"precision": "bf16"},
        {"bias_lr": 2.0},
        {"clip_norm": 1.0},
        {"early_stop": 1},
        {"dp_noise": 1.0},
    ):
        assert not stackable(replace(RECIPE, **changes), Recording(), **plain), changes
    assert not stackable(RECIPE, Recording(traces=True), **plain)
    assert not stackable(RECIPE, Recording(), **plain | {"augmented": True})
    assert not stackable(RECIPE, Recording(), **plain | {"soft": True})
    for options, message in (
        ({"stack": 0}, "stack is 0"),
        ({"stack": 2, "traces": True}, "only plain mlps can be trained as a stack"),
    ):
        with pytest.raises(InvalidOption, match=message):
            collect_shadows(
                prepared.lake, "e", count=1, recipe=RECIPE, prepared=prepared, device="cpu", **options
            )
