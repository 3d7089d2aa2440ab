"""Loaders around loaders, passes that only look, cells that run twice; data and outputs that are not what they are taken for."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loop_data import KEYS, MEMBERS, C, M, N, X, Y, check_trace, loader_of_members
from losslake.collect.hook.start import start_run
from losslake.store.errors import InvalidInput
from losslake.store.lake import Lake
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, C))


# --- passes and loaders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("keyed", [False, True])
def test_a_look_at_the_training_data_in_an_epoch_ends_it_not(lake: Lake, keyed: bool) -> None:
    model = network()
    data = TensorDataset(X[MEMBERS], Y[MEMBERS], MEMBERS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    want = [np.full(N, np.nan) for _ in range(2)]
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        loader: Any = DataLoader(data, batch_size=4, shuffle=True)
        loader = run.watch_loader(loader, key=2) if keyed else run.watch_loader(loader)
        criterion = run.watch_criterion(nn.CrossEntropyLoss())
        for epoch in range(2):
            for at, (x, y, ids) in enumerate(loader):
                optimizer.zero_grad()
                logits = model(x)
                each = functional.cross_entropy(logits.detach(), y, reduction="none")
                want[epoch][ids.numpy()] = each.numpy()
                criterion(logits, y).backward()
                optimizer.step()
                if at == 1:
                    with torch.no_grad():
                        assert sum(len(other) for _, other, _ in loader) == M
    assert lake.runs("e")[0].info.epochs == 2
    check_trace(lake, want)


class Wrapped(DataLoader[Any]):
    """As accelerate's loaders: it gives the batches of the one that it was made of."""

    def __init__(self, inner: DataLoader[Any], name: str) -> None:
        super().__init__(inner.dataset, batch_sampler=inner.batch_sampler)
        self.__dict__[name] = inner
        self.__dict__["name"] = name

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return iter(self.__dict__[self.name])


class Fabrics:
    """As the loaders of Lightning's Fabric: no DataLoader itself."""

    def __init__(self, inner: DataLoader[Any]) -> None:
        self.__dict__.update(inner.__dict__)
        self._dataloader = inner

    def __iter__(self) -> Iterator[Any]:
        yield from self._dataloader


@pytest.mark.parametrize("wrap", [lambda inner: Wrapped(inner, "base_dataloader"), Fabrics])
def test_a_loader_around_another_one(lake: Lake, wrap: Any) -> None:
    model = network()
    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        loader = run.watch_loader(wrap(loader_of_members()))
        criterion = run.watch_criterion(nn.CrossEntropyLoss())
        for x, y in loader:
            criterion(model(x), y).backward()
    each = functional.cross_entropy(model(X), Y, reduction="none").detach().numpy()
    check_trace(lake, [each])


def test_a_loader_whose_sampler_is_not_asked_is_refused(lake: Lake) -> None:
    with (
        pytest.raises(InvalidInput, match="hands out batches that its sampler was not asked for"),
        start_run(lake, "e", samples=Y, members=MEMBERS) as run,
    ):
        next(iter(run.watch_loader(Wrapped(loader_of_members(), "another"))))


def test_a_cell_that_runs_twice(lake: Lake) -> None:
    """What is watched by this run already, or by one that has ended, is watched anew; each loss is recorded once."""
    model = network()
    loader: Any = loader_of_members()
    criterion: Any = nn.CrossEntropyLoss()
    for _ in range(2):
        with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
            for _ in range(2):
                loader, criterion = run.watch_loader(loader), run.watch_criterion(criterion)
            assert type(criterion.criterion) is nn.CrossEntropyLoss
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                for x, y in loader:
                    criterion(model(x), y).backward()
    assert [run.info.epochs for run in lake.runs("e")] == [1, 1]


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.seen = 1.0, 0
        self.bias = nn.Parameter(torch.zeros(C))

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return self.scale * functional.cross_entropy(z + self.bias, y)


def test_a_watched_criterion_has_the_attributes_of_the_plain_one(lake: Lake, tmp_path: Path) -> None:
    plain = Scaled()
    run = start_run(lake, "e", samples=Y, members=MEMBERS)
    watched: Any = run.watch_criterion(plain)
    logits = network()(X[MEMBERS])
    before = watched(logits, Y[MEMBERS]).item()
    watched.scale = 3.0  # as a loop that anneals it
    assert (watched.scale, plain.scale, watched.seen) == (3.0, 3.0, 1)
    assert watched(logits, Y[MEMBERS]).item() == pytest.approx(3 * before)
    assert not watched.eval().training
    assert not plain.training
    assert list(watched.state_dict()) == ["bias"]
    torch.save(nn.ModuleDict({"criterion": watched}).state_dict(), tmp_path / "saved.pt")
    saved = torch.load(tmp_path / "saved.pt")
    assert list(saved) == ["criterion.bias"]
    saved["criterion.bias"] += 1
    nn.ModuleDict({"criterion": watched}).load_state_dict(saved)
    assert plain.bias.tolist() == [1.0] * C
    watched.load_state_dict({"bias": torch.full((C,), 2.0)})
    assert plain.bias.tolist() == [2.0] * C
    assert copy.copy(watched) is plain  # as what pickle makes of it
    assert not hasattr(watched, "nothing")
    run.discard()


def test_a_watched_function_has_its_attributes(lake: Lake) -> None:
    run = start_run(lake, "e", samples=Y, members=MEMBERS)
    watched: Any = run.watch_criterion(functional.cross_entropy)
    assert watched.state_dict() == {}
    assert copy.copy(watched) is functional.cross_entropy
    run.discard()


def test_two_runs_at_once_have_loaders_of_their_own(lake: Lake) -> None:
    first, second = (start_run(lake, "e", samples=Y, members=MEMBERS, run=name) for name in "ab")
    loader = first.watch_loader(loader_of_members())
    with pytest.raises(InvalidInput, match="watched by another run"):
        second.watch_loader(loader)
    second.discard()
    first.discard()


# --- outputs that are no scores of classes -------------------------------------------------------------------


def test_log_probabilities_that_are_none_are_refused(lake: Lake) -> None:
    model = network()
    run = start_run(lake, "e", samples=Y, members=MEMBERS)
    run.batch(MEMBERS)
    with pytest.raises(InvalidInput, match=r"do not add up to 1.*log_softmax"):
        run.watch_criterion(nn.NLLLoss())(model(X[MEMBERS]), Y[MEMBERS])
    run.discard()


class Noisy(TensorDataset):
    """As with augmentation: each time a record is read it is another one."""

    def __getitem__(self, at: Any) -> Any:
        x, y = super().__getitem__(at)
        return x + 0.1 * torch.randn(x.shape), y


@pytest.mark.parametrize("traced", [False, True])
def test_records_drawn_at_random_are_not_asked_about(lake: Lake, traced: bool) -> None:
    run = start_run(lake, "e", samples=Y, members=MEMBERS)
    ask: Any = run.trace_eval if traced else run.evaluate
    model = nn.Linear(5, C)
    with pytest.raises(InvalidInput, match="draws at random"):
        ask(model, Noisy(X, Y))
    run.discard()


@pytest.mark.parametrize("rows", [8, 6])
def test_ctc_is_refused_whatever_its_length(lake: Lake, rows: int) -> None:
    """Its first dimension is time, which may be as long as the batch."""
    scores = torch.randn(8, rows, 4).log_softmax(2).requires_grad_()
    given = torch.ones(rows, 2, dtype=torch.long), torch.full((rows,), 8), torch.full((rows,), 2)
    run = start_run(lake, "e", samples=KEYS, members=MEMBERS)
    run.batch(MEMBERS[:rows])
    with pytest.raises(InvalidInput, match=r"run\.record"):
        run.watch_criterion(nn.CTCLoss())(scores, *given)
    run.discard()


def test_ctc_with_the_batch_first(lake: Lake) -> None:
    def ctc(
        z: torch.Tensor, y: torch.Tensor, n: torch.Tensor, m: torch.Tensor, reduction: str = "mean"
    ) -> torch.Tensor:
        each = functional.ctc_loss(z.transpose(0, 1), y, n, m, reduction="none") / m
        return each if reduction == "none" else each.mean()

    scores = torch.randn(M, 8, 4).log_softmax(2).requires_grad_()
    given = torch.randint(1, 4, (M, 3)), torch.randint(6, 9, (M,)), torch.randint(1, 4, (M,))
    with start_run(lake, "e", samples=KEYS, members=MEMBERS) as run:
        run.batch(MEMBERS)
        run.watch_criterion(ctc)(scores, *given).backward()
    want = np.full(N, np.nan)
    for row, own in enumerate(MEMBERS.tolist()):
        want[own] = ctc(scores[row : row + 1], *(each[row : row + 1] for each in given)).item()
    check_trace(lake, [want])


def test_a_model_that_returns_a_dict_is_told_of_forward(lake: Lake) -> None:
    class InADict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = network()

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.heads(x)}

    with start_run(lake, "e", samples=Y, members=MEMBERS) as run:
        run.batch(MEMBERS)
        criterion = run.watch_criterion(nn.CrossEntropyLoss())
        criterion(InADict()(X[MEMBERS])["logits"], Y[MEMBERS]).backward()
        with pytest.raises(InvalidInput, match=r"returns a dict.*forward="):
            run.evaluate(InADict(), TensorDataset(X, Y))
