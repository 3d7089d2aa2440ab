"""On a GPU: no step waits for the device, and what is stored is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from losslake.collect.answers import Recording
from losslake.collect.hook import start_run
from losslake.collect.recipe import Recipe
from losslake.collect.train import RunPlan, train_run
from losslake.collect.training_data import TrainingData, channel_statistics
from losslake.store.lake import Lake
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


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


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_trainer_learns(lake: Lake, precision: str) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(600) % 3
    x = (
        rng.integers(0, 100, (600, 3, 16, 16)).astype(np.uint8)
        + (y * 60).astype(np.uint8)[:, None, None, None]
    )
    population = np.arange(600) >= 560
    mean, std = channel_statistics(x, np.flatnonzero(~population))
    data = TrainingData("made", 3, x, y, population, mean, std, test_x=x[:50], test_y=y[:50])
    lake.create_experiment(
        "e", pa.table({"label": y, "pool": np.where(population, "population", "audit").tolist()})
    )
    recipe = Recipe(
        model="cnn",
        model_options={"norm": "batch"},
        epochs=5,
        batch_size=32,
        lr=0.02,
        flip=True,
        crop=2,
        clip_norm=1.0,
    )
    recording = Recording(("original", "flip"), traces=True, features=True)
    run = train_run(
        lake,
        "e",
        data,
        replace(recipe, precision=precision),
        RunPlan("target", "target", 1),
        (np.arange(600) < 300),
        recording=recording,
        device=torch.device("cuda"),
    )
    assert run.info.train_accuracy is not None
    assert run.info.train_accuracy > 0.9
    last = lake.sql("select loss[-1] as loss from traces where source = 'eval' order by sample_id")[
        "loss"
    ].to_numpy()
    final = lake.sql("select loss from signals where query = 0 order by sample_id")["loss"].to_numpy()
    np.testing.assert_allclose(last, final[~population], rtol=0.1, atol=0.05)
