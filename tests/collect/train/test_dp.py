"""DP-SGD: its steps are those of a slow loop over single records, its epsilon that of formulas, its runs repeat."""

from __future__ import annotations

import copy
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from losslake.cli import cli
from losslake.collect.models.build import build_model
from losslake.collect.recipe import Recipe
from losslake.collect.signals.ask import Recording
from losslake.collect.train.dp import PrivateSteps, budget_of, check_private
from losslake.collect.train.run import RunPlan
from losslake.collect.train.trainer import train_run
from losslake.store.errors import InvalidOption, MissingExtra
from losslake.store.format.records import Run
from losslake.store.lake import Lake
from torch import nn
from torch.nn import functional
from trainer_data import lake_with, pictures

N, CLASSES = 60, 3
RECIPE = Recipe(
    model="mlp", model_options={"widths": (16,)}, epochs=2, batch_size=10, lr=0.1, dp_noise=0.5, dp_clip=0.8
)
TRACED = Recording(("original",), traces=True)


DATA = pictures(N, classes=CLASSES, channels=1)
MEMBERS = np.arange(N) % 2 == 0


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return lake_with(DATA, tmp_path / "lake")


def train(lake: Lake, run: str, recipe: Recipe = RECIPE, *, seed: int = 5, **options: Any) -> Run:
    plan = RunPlan(run, "target", seed)
    return train_run(lake, "e", DATA, recipe, plan, MEMBERS, **{"recording": TRACED, **options})


def column(lake: Lake, run: str, name: str, source: str | None = None) -> list[Any]:
    view, which = ("signals", "query = 0") if source is None else ("traces", f"source = '{source}'")
    query = f"select {name} from {view} where run = $run and {which} order by sample_id"  # noqa: S608
    return lake.sql(query, {"run": run})[name].to_list()


# --- the steps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "options"),
    [("mlp", {"widths": (8,)}), ("cnn", {"norm": "group"}), ("lenet5", {})],
)
@pytest.mark.parametrize("records", [12, 3])  # of three, single batches are often empty
def test_steps_are_those_of_a_loop_over_single_records(
    model: str, options: dict[str, Any], records: int
) -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.rand(records, 3, 8, 8, generator=rng), torch.arange(records) % CLASSES
    torch.manual_seed(1)
    ours = build_model(model, input_shape=(3, 8, 8), classes=CLASSES, options=options)
    slow = copy.deepcopy(ours)
    # As the trainer has them: Opacus by itself takes pictures with channels last for others.
    ours = ours.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    recipe = replace(RECIPE, model=model, batch_size=4 if records == 12 else 1, weight_decay=0.01)
    sgd = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    sampling, noise = (torch.Generator().manual_seed(seed) for seed in (7, 8))
    private = PrivateSteps(
        ours, torch.optim.SGD(ours.parameters(), **sgd), recipe, records, sampling=sampling, noise=noise
    )
    sizes = []
    for _ in range(3):
        for ids in private.batches(torch.arange(records)):
            sizes.append(len(ids))
            if len(ids) == 0:
                private.step_on_nothing()
                continue
            private.optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(ours(x[ids]), y[ids]).backward()
            private.optimizer.step()

    sampling, noise = (torch.Generator().manual_seed(seed) for seed in (7, 8))
    plain = torch.optim.SGD(slow.parameters(), **sgd)
    steps = 3
    assert len(sizes) == 3 * steps
    assert records == 12 or 0 in sizes
    for _ in range(3 * steps):
        summed = [torch.zeros_like(p) for p in slow.parameters()]
        for i in (torch.rand(records, generator=sampling) < 1 / steps).nonzero().flatten():
            loss = functional.cross_entropy(slow(x[i : i + 1]), y[i : i + 1])
            gradient = torch.autograd.grad(loss, list(slow.parameters()))
            norm = torch.sqrt(sum((g**2).sum() for g in gradient))
            for total, g in zip(summed, gradient, strict=True):
                total += g * min(1.0, 0.8 / (norm.item() + 1e-6))
        for p, total in zip(slow.parameters(), summed, strict=True):
            drawn = torch.normal(0.0, 0.5 * 0.8, p.shape, generator=noise)
            p.grad = (total + drawn) / (records / steps)
        plain.step()
    for found, expected in zip(ours.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


# --- the budget -----------------------------------------------------------------------------------------------


def epsilon_by_hand(noise: float, rate: float, steps: int, delta: float) -> float:
    """Over whole orders: Mironov, Talwar & Zhang 2019 (sampled Gaussian), turned into (eps, delta) by Balle et al. 2020."""
    best = math.inf
    for a in range(2, 64):
        terms = [
            math.lgamma(a + 1) - math.lgamma(k + 1) - math.lgamma(a - k + 1)
            + (a - k) * (math.log1p(-rate) if rate < 1 else (0.0 if k == a else -math.inf))
            + k * math.log(rate) + (k * k - k) / (2 * noise**2)
            for k in range(a + 1)
            if rate < 1 or k == a
        ]  # fmt: skip
        renyi = steps * np.logaddexp.reduce(terms) / (a - 1)
        best = min(best, renyi + math.log((a - 1) / a) - (math.log(delta) + math.log(a)) / (a - 1))
    return best


@pytest.mark.parametrize(("noise", "members", "epochs"), [(1.0, 30, 5), (4.0, 1000, 30), (2.0, 8, 3)])
def test_epsilon_is_that_of_the_formula(noise: float, members: int, epochs: int) -> None:
    budget = budget_of(replace(RECIPE, dp_noise=noise, dp_delta=1e-4, epochs=epochs), members)
    an_epoch = math.ceil(members / 10)
    assert (budget.sample_rate, budget.steps) == (1 / an_epoch, an_epoch * epochs)
    by_hand = epsilon_by_hand(noise, 1 / an_epoch, an_epoch * epochs, 1e-4)
    assert budget.epsilon is not None
    # Opacus looks at broken orders too, so it may find a little less.
    assert 0.95 * by_hand < budget.epsilon <= by_hand * (1 + 1e-9)


def test_noise_is_found_for_an_epsilon() -> None:
    recipe = replace(RECIPE, dp_noise=None, dp_epsilon=2.0)
    budget = budget_of(recipe, 500)
    assert budget.epsilon is not None
    assert 1.97 < budget.epsilon <= 2.0
    assert budget == budget_of(replace(recipe, dp_epsilon=None, dp_noise=budget.noise), 500)
    with pytest.raises(InvalidOption, match=r"no noise gives dp_epsilon 0\.001"):
        budget_of(replace(recipe, dp_epsilon=0.001), 500)
    assert budget_of(replace(RECIPE, dp_noise=1e-200), 500).epsilon is None


@pytest.mark.parametrize(
    ("members", "delta"), [(1, 1e-5), (900, 1e-5), (100_000, 1e-5), (100_001, 1e-6), (3_000_000, 1e-7)]
)
def test_default_delta(members: int, delta: float) -> None:
    assert budget_of(RECIPE, members).delta == pytest.approx(delta, rel=1e-12)


# --- runs -----------------------------------------------------------------------------------------------------


def test_a_run_repeats_exactly_and_tells_its_budget(lake: Lake) -> None:
    recipe = replace(RECIPE, model="cnn", model_options={"dropout": 0.3}, flip=True, crop=1)
    run = train(lake, "first", recipe)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    train(lake, "second", recipe)
    assert torch.equal(torch.get_rng_state(), before), "the caller's random stream moved"
    train(lake, "other", recipe, seed=6)
    assert column(lake, "first", "loss") == column(lake, "second", "loss")
    assert column(lake, "first", "loss", "train") == column(lake, "second", "loss", "train")
    assert column(lake, "first", "loss") != column(lake, "other", "loss")
    told = run.info.extra["dp"]
    assert told["epsilon"] == pytest.approx(epsilon_by_hand(0.5, 1 / 3, 6, 1e-5), rel=0.02)
    assert (told["noise"], told["clip"], told["delta"], told["steps"]) == (0.5, 0.8, 1e-5, 6)
    assert told["accountant"] == "rdp"
    assert told["library"].startswith("opacus ")


@pytest.mark.parametrize("norms", ["train", "eval"])
def test_traces_and_signals_as_in_plain_training(lake: Lake, norms: Any) -> None:
    run = train(lake, "target", recording=replace(TRACED, grad_norms=norms))
    assert run.trace_sources() == {"eval", "train"}
    evals, trains = (np.array(column(lake, "target", "loss", source), float) for source in ("eval", "train"))
    np.testing.assert_allclose(evals[:, -1], column(lake, "target", "loss"), rtol=1e-4, atol=1e-6)
    assert evals.shape == (N, 3)
    # By Poisson sampling some members are in no batch of an epoch, and a few in none at all.
    assert trains.shape[1] == 3
    assert MEMBERS.sum() / 2 < len(trains) <= MEMBERS.sum()
    gaps = np.isnan(trains[:, 1:])
    assert 0 < gaps.sum() < gaps.size
    found = np.array(column(lake, "target", "grad_norm", norms), float)
    assert np.array_equal(np.isnan(found), np.isnan(evals if norms == "eval" else trains))
    assert np.nanmin(found) > 0


def test_gradient_norms_are_those_before_clipping(lake: Lake) -> None:
    recipe = replace(RECIPE, epochs=1, batch_size=64, dp_clip=1e-3)  # one step, of all members
    for norms in ("train", "eval"):
        train(lake, norms, recipe, recording=Recording(traces=True, grad_norms=norms))  # type: ignore[arg-type]
    stepped = np.array(column(lake, "train", "grad_norm", "train"), float)[:, 1]
    before = np.array(column(lake, "eval", "grad_norm", "eval"), float)[MEMBERS, 0]
    np.testing.assert_allclose(stepped, before, rtol=1e-4)


def test_little_noise_learns_and_much_does_not(lake: Lake) -> None:
    recipe = replace(RECIPE, epochs=15, dp_clip=1.0)
    runs = [
        train(lake, f"noise-{i}", replace(recipe, dp_noise=noise)) for i, noise in enumerate((0.01, 1000.0))
    ]
    assert (runs[0].info.train_accuracy or 0) > 0.9
    assert (runs[1].info.train_accuracy or 1) < 0.8


def test_bf16(lake: Lake) -> None:
    run = train(lake, "target", replace(RECIPE, model="cnn", model_options={}, precision="bf16"))
    assert np.isfinite(column(lake, "target", "loss")).all()
    assert run.info.extra["dp"]["epsilon"] > 0


# --- what cannot be ---------------------------------------------------------------------------------------------


def test_batchnorm_is_refused_with_a_remedy(lake: Lake) -> None:
    recipe = replace(RECIPE, model="cnn", model_options={"norm": "batch"})
    with pytest.raises(InvalidOption, match=r"BatchNorm.*--norm group"):
        train(lake, "target", recipe)
    assert lake.runs("e") == []
    with pytest.raises(InvalidOption, match="DP-SGD cannot train this model"):
        check_private(nn.LSTM(3, 3))


def test_without_the_library_the_extra_is_named(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(MissingExtra, match=r"losslake\[dp\]"):
        train(lake, "target")
    train(lake, "plain", replace(RECIPE, dp_noise=None, dp_clip=None))


def test_command(tmp_path: Path) -> None:
    given = (
        f"collect target --lake {tmp_path}/l --experiment digits --dataset digits --samples 60 --no-pictures"
    )
    recipe = "--model cnn --norm group --epochs 1 --batch-size 30 --dp-noise 2 --dp-clip 0.5 --dp-delta 1e-4 --device cpu"
    answer = CliRunner().invoke(cli, f"{given} {recipe}".split())
    assert answer.exit_code == 0, answer.output
    assert "epsilon 1.88" in answer.stdout
    assert "at delta 0.0001" in answer.stdout
    run = Lake.open(tmp_path / "l").run("digits", "target")
    assert run.info.recipe["model_options"] == {"norm": "group"}
    assert (run.info.recipe["dp_noise"], run.info.recipe["dp_clip"], run.info.recipe["dp_delta"]) == (
        2.0,
        0.5,
        1e-4,
    )
    refused = CliRunner().invoke(cli, f"{given} {recipe} --run second --norm batch".split())
    assert isinstance(refused.exception, InvalidOption)
    assert "--norm group" in str(refused.exception)
