"""The step that runs share: a reset model is a fresh one, compiled or not, and no process imports a compiler for nothing."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from losslake.collect.data.training import DeviceData
from losslake.collect.recipe import Recipe
from losslake.collect.signals.ask import Recording
from losslake.collect.train import step as train_step
from losslake.collect.train.optimizers import make_optimizer, set_rate
from losslake.collect.train.run import RunPlan
from losslake.collect.train.step import TrainStep, compiles, copy_values
from losslake.collect.train.trainer import train_run
from losslake.store.errors import InvalidInput, InvalidOption
from losslake.store.lake import Lake
from torch import nn
from trainer_data import lake_with, pictures

N = 80
CPU = torch.device("cpu")
RECIPE = Recipe(
    model="cnn",
    model_options={"norm": "batch", "dropout": 0.2},
    epochs=2,
    batch_size=16,
    lr=0.05,
    flip=True,
    crop=1,
)
RECORDING = Recording(("original",), traces=True, logits="float32")


DATA = pictures(N, classes=4, step=40)
MEMBERS = np.arange(N) % 2 == 0


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return lake_with(DATA, tmp_path / "lake")


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A stand-in for the compiler that notes the sizes of the batches that it is called with."""
    sizes: list[int] = []

    def compiler(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        def compiled(x: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            return function(x)

        return compiled

    monkeypatch.setattr(train_step, "_compiler", compiler)
    return sizes


def held() -> DeviceData:
    return DeviceData(DATA, CPU, normalize=True)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda z: (z, z.mean()), "Answers gives a tuple for 6 records; it must give a tensor of logits"),
        (lambda z: {"logits": z}, "gives a dict for 6 records"),
        (lambda z: z[:, 0], r"gives \(6,\) for 6 records"),
        (lambda z: z.T, r"gives \(4, 6\) for 6 records"),
        (lambda z: z[:, :3], "gives 3 numbers a record, and there are 4 classes"),
        (lambda z: z, None),
        (lambda z: torch.cat([z, z], 1), None),  # more outputs than classes that occur
    ],
)
def test_what_is_no_logits_is_refused_by_name(
    answer: Callable[[torch.Tensor], Any], text: str | None
) -> None:
    class Answers(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return answer(x.flatten(1)[:, :4])

    data = held()
    if text is None:
        assert len(data.logits(Answers(), data.x[:6])) == 6
        return
    with pytest.raises(InvalidInput, match=text):
        data.logits(Answers(), data.x[:6])


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def values(lake: Lake, run: str) -> list[Any]:
    queries = (
        "select * exclude (run) from signals where run = $run order by sample_id, query",
        "select * exclude (run) from traces where run = $run order by source, sample_id",
    )
    return [lake.sql(query, {"run": run}).to_dict(as_series=False) for query in queries]


@pytest.mark.parametrize("model", ["cnn", "fast"])
def test_a_reset_model_is_a_fresh_one_bit_for_bit(traced: list[int], model: str) -> None:
    recipe = replace(RECIPE, model=model, model_options={})
    step = TrainStep(held(), recipe, compiled=True)
    kept = step.model
    for chosen in (torch.arange(40), torch.arange(40, 80)):
        torch.manual_seed(5)
        reset = step.start(chosen)
        torch.manual_seed(5)
        fresh = TrainStep(held(), recipe).start(chosen)
        assert reset is kept
        assert all(module.training for module in reset.modules())
        assert all(parameter.grad is None for parameter in reset.parameters())
        one, other = state(reset), state(fresh)
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name], other[name]), name
            assert one[name].stride() == other[name].stride(), name
        for _ in range(3):  # whatever a run leaves behind
            loss = step.loss(step.logits(step.held.x[:16]), torch.arange(16), step.held.y[:16], None)
            loss.backward()
            step.optimizer.step()
        assert not torch.equal(reset.head.weight, fresh.head.weight)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adam", "lr": 0.003},
        {"model": "fast", "model_options": {"widths": (8, 8)}, "bias_lr": 8.0},
    ],
)
def test_runs_that_share_a_model_are_those_that_do_not(
    lake: Lake, traced: list[int], changes: dict[str, Any]
) -> None:
    recipe = replace(RECIPE, **changes)
    shared = TrainStep(held(), recipe, compiled=True)
    traced.clear()
    for seed in (1, 2):
        for name, step in (("shared", shared), ("alone", None)):
            plan = RunPlan(f"{name}-{seed}", "shadow", seed)
            train_run(lake, "e", DATA, recipe, plan, MEMBERS, recording=RECORDING, step=step)
        assert values(lake, f"shared-{seed}") == values(lake, f"alone-{seed}")
    assert values(lake, "alone-1") != values(lake, "alone-2")
    # 40 members: two full batches an epoch, and a rest of 8 that is not compiled for.
    assert traced == [16, 16] * 2 * recipe.epochs


def test_the_real_compiler_gives_the_same_run(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    # Everything of torch.compile but the making of kernels.
    monkeypatch.setattr(
        train_step, "_compiler", lambda function: torch.compile(function, backend="aot_eager", dynamic=False)
    )
    recipe = replace(RECIPE, epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        shared = TrainStep(held(), recipe, compiled=True)
    assert shared._compiled is not None
    for name, step in (("shared", shared), ("alone", None)):
        plan = RunPlan(name, "shadow", 3)
        train_run(lake, "e", DATA, recipe, plan, MEMBERS, recording=RECORDING, step=step)
    one, other = (np.array(values(lake, name)[0]["loss"]) for name in ("shared", "alone"))
    np.testing.assert_allclose(one, other, rtol=1e-4)


def test_a_model_that_cannot_be_compiled_is_trained_as_it_is(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(function: object) -> object:
        raise RuntimeError("no compiler here\nand more")

    monkeypatch.setattr(train_step, "_compiler", broken)
    before = torch.get_rng_state()
    with pytest.warns(
        UserWarning, match="cnn is trained without torch.compile.*RuntimeError: no compiler here"
    ):
        step = TrainStep(held(), RECIPE, compiled=True)
    assert torch.equal(torch.get_rng_state(), before)
    train_run(lake, "e", DATA, RECIPE, RunPlan("a", "shadow", 1), MEMBERS, recording=RECORDING, step=step)
    train_run(lake, "e", DATA, RECIPE, RunPlan("b", "shadow", 1), MEMBERS, recording=RECORDING)
    assert values(lake, "a") == values(lake, "b")


def test_what_is_compiled() -> None:
    gpu = torch.device("cuda")
    plain: dict[str, Any] = {"grad_norms": "none", "device": gpu, "runs": 4}
    assert compiles(None, RECIPE, **plain)
    assert not compiles(None, RECIPE, **plain | {"device": CPU})
    assert not compiles(None, RECIPE, **plain | {"runs": 1})
    assert not compiles(None, RECIPE, **plain | {"grad_norms": "eval"})
    assert not compiles(None, replace(RECIPE, dp_noise=1.0), **plain)
    assert not compiles(None, replace(RECIPE, model="my.module:function"), **plain)
    assert not compiles(False, RECIPE, **plain)
    assert compiles(True, RECIPE, **plain | {"device": CPU, "runs": 1})
    for recipe, changes in ((replace(RECIPE, dp_noise=1.0), {}), (RECIPE, {"grad_norms": "train"})):
        with pytest.raises(InvalidOption, match="hooks that DP-SGD and gradient norms need"):
            compiles(True, recipe, **plain | changes)


def test_copying_reaches_buffers_that_no_state_dict_has() -> None:
    def made(value: float) -> nn.Module:
        model = nn.Linear(2, 2)
        model.register_buffer("kept", torch.full((2,), value), persistent=False)
        return model

    source, target = made(1.0), made(2.0)
    places = {name: value.data_ptr() for name, value in target.named_parameters()}
    copy_values(source, target)
    assert torch.equal(target.kept, torch.ones(2))  # type: ignore[arg-type]
    assert torch.equal(source.weight, target.weight)  # type: ignore[arg-type]
    assert places == {name: value.data_ptr() for name, value in target.named_parameters()}


# --- optimizers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reference"),
    [
        (
            {"nesterov": True},
            lambda model: torch.optim.SGD(
                model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4
            ),
        ),
        (
            {"optimizer": "adam"},
            lambda model: torch.optim.Adam(model.parameters(), lr=0.05, weight_decay=5e-4),
        ),
        (
            {"optimizer": "adamw"},
            lambda model: torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=5e-4),
        ),
    ],
)
def test_steps_are_those_of_torch(
    changes: dict[str, Any], reference: Callable[[nn.Module], torch.optim.Optimizer]
) -> None:
    made = []
    for make in (lambda model: make_optimizer(model, replace(RECIPE, **changes), CPU), reference):
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        optimizer = make(model)
        for _ in range(4):
            optimizer.zero_grad(set_to_none=True)
            model(torch.randn(5, 4)).square().sum().backward()
            optimizer.step()
        made.append(model)
    assert torch.equal(made[0].weight, made[1].weight)
    assert torch.equal(made[0].bias, made[1].bias)


def test_biases_have_a_rate_of_their_own_and_the_decay_of_the_others() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    recipe = replace(RECIPE, momentum=0.0, bias_lr=10.0, weight_decay=0.1)
    optimizer = make_optimizer(model, recipe, CPU)
    set_rate(optimizer, 0.5)
    before = state(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, value in model.named_parameters():
        rate = 5.0 if name.endswith("bias") else 0.5
        torch.testing.assert_close(value.detach(), before[name] * (1 - 0.5 * 0.1) - rate)
    frozen = nn.Linear(2, 2)
    frozen.weight.requires_grad_(False)
    assert len(make_optimizer(frozen, recipe, CPU).param_groups) == 1


def test_training_does_not_import_the_compiler(tmp_path: Path) -> None:
    """torch._dynamo takes two seconds to import, in every worker process."""
    code = """
import sys
import torch
from losslake.collect.train.optimizers import make_optimizer, set_rate
from losslake.collect.recipe import Recipe
for optimizer in ("sgd", "adam", "adamw"):
    model = torch.nn.Linear(2, 2)
    made = make_optimizer(model, Recipe(optimizer=optimizer), torch.device("cpu"))
    set_rate(made, 0.1)
    made.zero_grad(set_to_none=True)
    model(torch.ones(1, 2)).sum().backward()
    made.step()
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-P", "-c", code], check=True, cwd=tmp_path)


# --- workers ----------------------------------------------------------------------------------------------------


def test_workers_are_told_their_device(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process for each of ``jobs`` on whatever device there is; one on a GPU unless it is asked for more."""
    from losslake.collect.experiment.prepare import Prepared
    from losslake.collect.fleet import many_runs, pool
    from losslake.collect.fleet.design import Shard
    from losslake.collect.progress import Silent
    from losslake.store.errors import TrainingFailed

    told: list[tuple[dict[str, Any], int, int]] = []
    alone: list[torch.device] = []

    def run_in_workers(setup: dict[str, Any], tasks: list[Any], *, jobs: int, on_event: Any) -> None:
        told.append((setup, len(tasks), jobs))
        for task in tasks:
            for number in task["numbers"]:
                on_event({"event": "failed", "number": number, "message": "not tried"})

    def one_by_one(lake: Lake, setup: dict[str, Any], *given: Any) -> None:
        alone.append(torch.device(setup["device"]))
        raise TrainingFailed("not tried")

    monkeypatch.setattr(pool, "run_in_workers", run_in_workers)
    monkeypatch.setattr(many_runs, "Runs", one_by_one)
    prepared = Prepared(lake, lake.experiment("e"), DATA, {}, np.zeros(N, dtype=bool))
    plans = [RunPlan(f"r{number}", "shadow", number) for number in range(3)]

    def train(device: str, jobs: int | None, compiled: bool | None = None) -> None:
        fleet = many_runs.Fleet(
            prepared,
            RECIPE,
            RECORDING,
            seed=0,
            device=torch.device(device),
            jobs=jobs,
            compiled=compiled,
            stack=None,
            engine=None,
            shard=Shard(1, 1),
            progress=Silent(),
        )
        with pytest.raises(TrainingFailed, match="not tried"):
            many_runs.train_fleet(fleet, plans, lambda number: MEMBERS)

    train("cuda:1", 2)
    train("cuda:1", None)
    train("cpu", 8, True)
    assert [(setup["device"], setup["compiled"], tasks, jobs) for setup, tasks, jobs in told] == [
        ("cuda:1", True, 3, 2),
        ("cpu", True, 3, 3),
    ]
    assert alone == [torch.device("cuda:1")]
