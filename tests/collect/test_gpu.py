"""On a GPU: no step waits for the device, and what is stored is right."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from losslake.collect.data.training import DeviceData
from losslake.collect.experiment.prepare import prepare_experiment
from losslake.collect.fleet.target_and_shadows import collect_shadows
from losslake.collect.hook.start import start_run
from losslake.collect.recipe import Recipe
from losslake.collect.signals.ask import Recording
from losslake.collect.train import loop as training
from losslake.collect.train.run import RunPlan
from losslake.collect.train.stacked_mlp import train_stack
from losslake.collect.train.step import TrainStep
from losslake.collect.train.trainer import train_run
from losslake.store.lake import Lake
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from trainer_data import lake_with, pictures

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

ALL = pictures(600, side=16, audit=560)
DATA = replace(ALL, test_x=ALL.x[:50], test_y=ALL.y[:50])


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def test_no_step_of_the_hook_synchronises(lake: Lake) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(400, 20), torch.arange(400) % 5
    model = nn.Linear(20, 5).cuda()
    want: dict[int, float] = {}
    with start_run(lake, "e", samples=y, members=np.arange(300)) as run:
        data = TensorDataset(x[:300], y[:300], torch.arange(300))
        loader = run.watch_loader(DataLoader(data, batch_size=32, shuffle=True, pin_memory=True))
        criterion = run.watch_criterion(nn.CrossEntropyLoss())
        for epoch in (1, 2, 3):
            kept = []
            for step, (a, b, at) in enumerate(loader):
                a, b = a.cuda(non_blocking=True), b.cuda(non_blocking=True)
                # The first step moves the labels to the device, once a run.
                torch.cuda.set_sync_debug_mode("error" if (epoch, step) > (1, 0) else "default")
                out = model(a)
                criterion(out, b).backward()
                kept.append((at, nn.functional.cross_entropy(out.detach(), b, reduction="none")))
                torch.cuda.set_sync_debug_mode("default")
            want = {int(i): float(v) for at, losses in kept for i, v in zip(at, losses.cpu(), strict=True)}
        run.evaluate(model, (x, y))
    rows = lake.sql("select sample_id, loss from traces order by sample_id")
    for sample, loss in rows.iter_rows():
        assert loss[3] == pytest.approx(want[sample], rel=1e-3, abs=1e-5)


@pytest.fixture
def with_pictures(tmp_path: Path) -> Lake:
    return lake_with(DATA, tmp_path / "lake")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_trainer_learns(with_pictures: Lake, precision: str) -> None:
    recipe = Recipe(
        model="cnn",
        model_options={"norm": "batch"},
        epochs=5,
        batch_size=32,
        lr=0.02,
        flip=True,
        crop=2,
        clip_norm=1.0,
        precision=precision,
    )
    recording = Recording(("original", "flip"), traces=True, features=True)
    run = train_run(
        with_pictures,
        "e",
        DATA,
        recipe,
        RunPlan("target", "target", 1),
        (np.arange(600) < 300),
        recording=recording,
        step=TrainStep(DeviceData(DATA, torch.device("cuda"), normalize=True), recipe),
    )
    assert run.info.train_accuracy is not None
    assert run.info.train_accuracy > 0.9
    last = with_pictures.sql("select loss[-1] as loss from traces where source = 'eval' order by sample_id")[
        "loss"
    ].to_numpy()
    final = with_pictures.sql("select loss from signals where query = 0 order by sample_id")[
        "loss"
    ].to_numpy()
    np.testing.assert_allclose(last, final[~DATA.population], rtol=0.1, atol=0.05)


FAST = Recipe(
    model="fast",
    model_options={"widths": (16, 32)},
    epochs=4,
    batch_size=64,
    lr=0.1,
    nesterov=True,
    bias_lr=8.0,
    schedule="one-cycle",
    warmup_epochs=1,
    label_smoothing=0.1,
    flip=True,
    flip_order="alternate",
    crop=2,
    crop_border="reflect",
    precision="bf16",
)
TRACED = Recording(("original", "flip"), traces=True)


@pytest.mark.parametrize("compiled", [False, True])
def test_no_step_of_the_trainer_synchronises(
    with_pictures: Lake, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    held = DeviceData(DATA, torch.device("cuda"), normalize=True)
    rate, end_of_epoch = training.learning_rate, torch.Tensor.item
    steps = []

    def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
        steps.append(step)
        # From the second epoch on every batch size has been seen; the epoch's mean is where the host may wait.
        if step >= steps_per_epoch:
            torch.cuda.set_sync_debug_mode("error")
        return rate(recipe, step, steps_per_epoch)

    def item(tensor: torch.Tensor) -> float:
        torch.cuda.set_sync_debug_mode("default")
        return end_of_epoch(tensor)

    monkeypatch.setattr(training, "learning_rate", learning_rate)
    monkeypatch.setattr(torch.Tensor, "item", item)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # that it could not be compiled
        step = TrainStep(held, FAST, compiled=compiled)
    try:
        members = np.arange(600) < 300
        plan = RunPlan("r", "shadow", 1)
        train_run(with_pictures, "e", DATA, FAST, plan, members, recording=TRACED, step=step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(steps) == 4 * 5


def test_runs_that_share_a_compiled_model_begin_as_those_that_do_not(with_pictures: Lake) -> None:
    held = DeviceData(DATA, torch.device("cuda"), normalize=True)
    shared = TrainStep(held, FAST, compiled=True)
    members = np.arange(600) % 2 == 0
    members &= ~DATA.population
    for seed in (1, 2):
        for name, step in (("shared", shared), ("alone", TrainStep(held, FAST))):
            torch.manual_seed(seed)
            model = step.start(torch.from_numpy(np.flatnonzero(members)))
            if name == "shared":
                begun = {key: value.clone() for key, value in model.state_dict().items()}
        for key, value in model.state_dict().items():
            torch.testing.assert_close(value, begun[key], rtol=0, atol=0)
        run = train_run(
            with_pictures,
            "e",
            DATA,
            FAST,
            RunPlan(f"shared-{seed}", "shadow", seed),
            members,
            recording=TRACED,
            step=shared,
        )
        assert run.info.train_accuracy is not None
        assert run.info.train_accuracy > 0.8


def test_processes_share_a_gpu(lake: Lake) -> None:
    prepared = prepare_experiment(lake, "digits", dataset="digits", samples=200, pictures=False)
    recipe = Recipe(model="mlp", model_options={"widths": (32,)}, epochs=2, batch_size=32, lr=0.05)
    runs = collect_shadows(
        lake, "digits", count=4, recipe=recipe, prepared=prepared, device="cuda", jobs=2, compiled=False
    )
    assert [run.info.device for run in runs] == [torch.cuda.get_device_name(0)] * 4


def test_a_stack_is_its_models_alone(lake: Lake) -> None:
    prepared = prepare_experiment(lake, "digits", dataset="digits", samples=200, pictures=False)
    recipe = Recipe(model="mlp", model_options={"widths": (32, 16)}, epochs=3, batch_size=32, lr=0.05)
    held = DeviceData(prepared.data, torch.device("cuda"), normalize=True)
    plans = [RunPlan(f"r{number}", "shadow", number) for number in range(2)]
    rows = [np.arange(200) < 100, np.arange(200) < 130]
    trained = train_stack(held, recipe, plans, rows)
    for plan, row, each in zip(plans, rows, trained, strict=True):
        recording, step = Recording(logits="float32"), TrainStep(held, recipe)
        train_run(lake, "digits", prepared.data, recipe, plan, row, recording=recording, step=step)
        query = "select logits from signals where run = $run order by sample_id"
        alone = np.array(lake.sql(query, {"run": plan.run})["logits"].to_list())
        assert each.model is not None
        with torch.no_grad():
            stacked = each.model(held.inputs(held.x)).cpu().numpy()
        np.testing.assert_allclose(stacked, alone, rtol=1e-3, atol=1e-3)
