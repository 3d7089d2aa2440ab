"""The watched criterion inside a compiled step: one graph, the same training, the same trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from losslake.collect.hook.start import start_run
from losslake.store.errors import InvalidInput
from losslake.store.lake import Lake
from torch import nn
from torch.nn import functional

N, C = 24, 3
X = torch.randn(N, 5, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, C, (N,), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    torch.compiler.reset()
    return Lake.open(tmp_path / "lake", create=True)


def train(criterion: Any, before: Any, backend: str, steps: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    """The weights after two epochs of a compiled step, and the clean losses that its batches had."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, C))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    kept: list[torch.Tensor] = []

    def step(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(x)
        return criterion(logits, y), logits

    compiled = torch.compile(step, backend=backend, fullgraph=True)
    for epoch in range(2):
        for number, (x, y) in enumerate(steps):
            before(epoch, number)
            loss, logits = compiled(x, y)
            kept.append(functional.cross_entropy(logits.detach(), y, reduction="none"))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.state_dict(), torch.stack(kept)


STEPS = [(X[at : at + 8], Y[at : at + 8]) for at in (0, 8, 16)]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_step_is_one_graph_and_bitwise_the_same(lake: Lake, backend: str) -> None:
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    plain, _ = train(criterion, lambda epoch, number: None, backend, STEPS)
    with start_run(lake, "e", samples=Y, members=np.ones(N, dtype=bool)) as run:

        def before(epoch: int, number: int) -> None:
            if number == 0:
                run.end_epoch()
            run.batch(np.arange(number * 8, number * 8 + 8))

        watched, losses = train(run.watch_criterion(criterion), before, backend, STEPS)
        run.end_epoch()
    for name, value in plain.items():
        assert torch.equal(value, watched[name])
    rows = lake.sql("select loss, margin from traces order by sample_id")
    assert rows["margin"].list.len().to_list() == [3] * N
    for epoch in (0, 1):
        want = losses[epoch * 3 : epoch * 3 + 3].flatten().numpy()
        np.testing.assert_allclose([row[epoch + 1] for row in rows["loss"]], want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{"ignore_index": 1}, {"label_smoothing": 0.3}])
def test_functions_with_options_of_the_call(lake: Lake, options: dict[str, Any]) -> None:
    with start_run(lake, "e", samples=Y, members=np.ones(N, dtype=bool)) as run:
        criterion = run.watch_criterion(functional.cross_entropy)
        logits = torch.randn(N, C, requires_grad=True)
        step = torch.compile(lambda z, y: criterion(z * 2, y, **options), backend="aot_eager", fullgraph=True)
        run.batch(np.arange(N))
        step(logits, Y).backward()
        run.end_epoch()
    want = functional.cross_entropy(logits.detach() * 2, Y, reduction="none")
    found = lake.sql("select loss from traces order by sample_id")["loss"]
    np.testing.assert_allclose([row[1] for row in found], want.numpy(), rtol=1e-4)


def test_regression_in_one_graph(lake: Lake) -> None:
    target = torch.randn(N, 2)
    with start_run(lake, "e", samples=Y, members=np.ones(N, dtype=bool)) as run:
        criterion = run.watch_criterion(nn.MSELoss())
        output = torch.randn(N, 2, requires_grad=True)
        step = torch.compile(lambda z, t: criterion(z * 2, t), backend="aot_eager", fullgraph=True)
        run.batch(np.arange(N))
        step(output, target).backward()
        run.end_epoch()
    want = (output.detach() * 2 - target).square().mean(1)
    found = lake.sql("select loss from traces order by sample_id")["loss"]
    np.testing.assert_allclose([row[1] for row in found], want.numpy(), rtol=1e-4)


def test_an_error_in_the_graph_comes_up(lake: Lake) -> None:
    run = start_run(lake, "e", samples=Y, members=np.ones(N, dtype=bool))
    criterion = run.watch_criterion(nn.CrossEntropyLoss())
    step = torch.compile(lambda z, y: criterion(z, y), backend="aot_eager", fullgraph=True)
    run.batch([0, 1, 2])
    with pytest.raises(InvalidInput, match="24 rows, but the batch holds 3"):
        step(torch.randn(N, C, requires_grad=True), Y)
    run.discard()


def test_gradient_norms_break_the_graph_and_are_there(lake: Lake) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, C)
    with start_run(lake, "e", samples=Y, members=np.ones(N, dtype=bool)) as run:
        run.watch_model(model)
        criterion = run.watch_criterion(nn.CrossEntropyLoss())
        step = torch.compile(lambda x, y: criterion(model(x), y), backend="eager")
        run.batch(np.arange(N))
        step(X, Y).backward()
        run.end_epoch()
    norms = lake.sql("select grad_norm from traces")["grad_norm"]
    assert all(row[1] > 0 for row in norms)
