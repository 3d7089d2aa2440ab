"""Early stopping: by the population's loss alone, with the weights of its minimum; what stores and shows epochs agrees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.cli import cli
from losslake.collect.data.training import DeviceData, TrainingData
from losslake.collect.recipe import Recipe
from losslake.collect.signals.ask import Recording
from losslake.collect.train.early_stopping import EarlyStopping, held_out
from losslake.collect.train.run import RunPlan
from losslake.collect.train.trainer import train_run
from losslake.store.errors import InvalidOption
from losslake.store.format.records import Run
from losslake.store.lake import Lake
from torch import nn
from trainer_data import lake_with

N = 80
RECIPE = Recipe(
    model="mlp", model_options={"widths": (64,)}, epochs=40, batch_size=8, lr=0.2, schedule="constant"
)


def noisy_labels() -> TrainingData:
    """Two classes that overlap: a model that goes on learning its members by heart gets worse on others."""
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    x = (rng.normal(size=(N, 10)) + y[:, None] * 0.4).astype(np.float32)
    population = np.arange(N) >= 50
    return TrainingData("made", 2, x, y, population, np.zeros(10, np.float32), np.ones(10, np.float32))


DATA = noisy_labels()
MEMBERS = np.arange(N) < 25


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return lake_with(DATA, tmp_path / "lake")


def train(lake: Lake, run: str, recipe: Recipe = RECIPE, data: TrainingData = DATA) -> Run:
    plan = RunPlan(run, "target", 3)
    recording = Recording(("original",), traces=True, logits="float32")
    return train_run(lake, "e", data, recipe, plan, MEMBERS, recording=recording)


def logits(lake: Lake, run: str) -> list[list[float]]:
    query = "select logits from signals where run = $run order by sample_id"
    return lake.sql(query, {"run": run})["logits"].to_list()


class Scripted(nn.Module):
    """A model of one weight whose loss on labels of 0 falls as the weight rises."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.weight * torch.ones(len(x), 1), torch.zeros(len(x), 1)], dim=1)


@pytest.mark.parametrize(
    ("values", "patience", "epochs", "best"),
    [
        ([1, 2, 3, 2, 1, 0], 2, 5, 3),
        ([1, 2, 3, 2, 1, 0], 1, 4, 3),
        ([3, 2, 4, 3, 5, 1], 2, 6, 5),  # one worse epoch is waited out
        ([1, 1, 1, 1], 3, 4, 1),  # no better is not better
        ([float("nan"), 1, float("nan"), 0], 5, 4, 2),
    ],
)
def test_the_rule(values: list[float], patience: int, epochs: int, best: int) -> None:
    data = replace(DATA, y=np.zeros(N, np.int64))
    held = DeviceData(data, torch.device("cpu"), normalize=True)
    model = Scripted()
    stopping = EarlyStopping(model, held, np.arange(60, 70), patience)
    trained = 0
    for value in values:
        model.weight.data.fill_(value)
        trained += 1
        if stopping.is_over(4):
            break
    assert trained == epochs
    stopping.restore()
    assert model.weight.item() == values[best - 1]
    told = stopping.report()
    assert (told["best_epoch"], told["records"]) == (best, 10)
    assert told["loss"] == pytest.approx(np.log1p(np.exp(-values[best - 1])), rel=1e-6)


def test_a_run_stops_with_the_weights_of_its_best_epoch(lake: Lake) -> None:
    stopped = train(lake, "stopped", replace(RECIPE, early_stop=3))
    told = stopped.info.extra["early_stop"]
    assert told["records"] == 30
    assert stopped.info.epochs == told["best_epoch"] + 3 < RECIPE.epochs
    assert stopped.info.recipe["epochs"] == RECIPE.epochs
    # The same run cut off at that epoch is the same model: looking did not change it.
    train(lake, "short", replace(RECIPE, epochs=told["best_epoch"]))
    assert logits(lake, "stopped") == logits(lake, "short")
    traces = lake.sql("select source, loss from traces where run = 'stopped'")
    assert {len(loss) for loss in traces["loss"]} == {stopped.info.epochs + 1}
    population = lake.sql("select avg(loss) as mean from signals where run = 'stopped' and sample_id >= 50")
    assert population["mean"][0] == pytest.approx(told["loss"], rel=1e-5)
    with open_source(lake, "e", "stopped") as source:
        for name in ("lt-iqr", "trace"):
            assert run_analysis(source, find(name)).scores.frame["score"].null_count() == 0


def test_audit_records_that_are_no_members_play_no_part(lake: Lake) -> None:
    first = train(lake, "first", replace(RECIPE, early_stop=3))
    others = ~MEMBERS & ~DATA.population
    changed = DATA.x.copy()
    changed[others] = np.random.default_rng(9).normal(size=(others.sum(), 10))
    second = train(lake, "second", replace(RECIPE, early_stop=3), replace(DATA, x=changed))
    assert first.info.extra["early_stop"] == second.info.extra["early_stop"]


def test_candidates_of_canaries_play_no_part(lake: Lake) -> None:
    """They are made up: whatever they are, the run stops where it would without them."""
    candidates = DATA.population & (np.arange(N) >= 70)
    told = []
    for number in range(2):
        x = DATA.x.copy()
        x[candidates] = 5 * np.random.default_rng(number).normal(size=(candidates.sum(), 10))
        made = replace(DATA, x=x, candidates=candidates)
        told.append(
            train(lake, f"run-{number}", replace(RECIPE, early_stop=3), made).info.extra["early_stop"]
        )
    assert told[0] == told[1]
    assert told[0]["records"] == 20


def test_who_is_held_out() -> None:
    taught = DATA.population & (np.arange(N) < 70)  # a distilled model learns from the population
    assert held_out(DATA.population, taught).tolist() == list(range(70, 80))
    for records in (DATA.population, np.ones(N, bool)):
        with pytest.raises(InvalidOption, match="--population"):
            held_out(DATA.population, records)


def invoke(command: str) -> Any:
    return CliRunner().invoke(cli, command.split())


def test_commands(tmp_path: Path) -> None:
    target = f"collect target --lake {tmp_path}/l --dataset digits --samples 80 --no-pictures --model mlp --widths 8"
    recipe = "--epochs 30 --batch-size 8 --lr 5 --early-stop 1 --device cpu"
    refused = invoke(f"{target} --experiment none {recipe}")
    assert isinstance(refused.exception, InvalidOption)
    assert "--population 0.1" in str(refused.exception)
    answer = invoke(f"{target} --experiment e --population 0.25 {recipe}")
    assert answer.exit_code == 0, answer.output
    lake = Lake.open(tmp_path / "l")
    info = lake.run("e", "target").info
    assert f"stopped after epoch {info.epochs} with the weights of epoch" in answer.stdout
    assert info.epochs is not None
    assert info.epochs < 30
    # Shadow models stop by the same rule, each where its own loss says.
    shadows = invoke(f"collect shadows --lake {tmp_path}/l --experiment e --count 2 --jobs 1 --device cpu")
    assert shadows.exit_code == 0, shadows.output
    for run in lake.runs("e", role="shadow"):
        assert run.info.extra["early_stop"]["records"] == 20
    again = invoke(f"{target} --experiment e --population 0.25 {recipe}")
    assert again.exit_code == 0, again.output
