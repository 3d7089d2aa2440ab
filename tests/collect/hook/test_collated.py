"""A loader's own collate_fn: one that puts records into another order is refused, and looking at it changes nothing in the loop."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from losslake.store.errors import InvalidInput
from losslake.store.lake import Lake
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset, default_collate

from .test_order import FULL, TRAIN, Kept, N, X, Y, begin, faults, train


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def by_size(rows: list[Any]) -> Any:
    return default_collate(sorted(rows, key=lambda row: -float(row[0].sum())))


def by_chance(rows: list[Any]) -> Any:
    return default_collate([rows[at] for at in torch.randperm(len(rows))])


def in_order(rows: list[Any]) -> Any:
    x, y = default_collate(rows)
    return {"places": torch.arange(len(rows)), "offsets": torch.arange(len(rows)) * 2, "x": x, "y": y}


def masked(rows: list[Any]) -> Any:
    x, y = default_collate(rows)
    return x * (torch.rand(x.shape) > 0.2), y


def doubled(rows: list[Any]) -> Any:
    x, y = default_collate(rows)
    return torch.cat([x, x]), torch.cat([y, y])


def raising(rows: list[Any]) -> Any:
    raise ValueError("not for these")


@pytest.mark.parametrize("collate", [by_size, by_chance])
def test_a_collate_that_moves_records_is_refused(lake: Lake, collate: Any) -> None:
    state = torch.get_rng_state()
    with pytest.raises(InvalidInput, match=r"another order.*key="), begin(lake, TRAIN) as run:
        run.watch_loader(DataLoader(TRAIN, 6, collate_fn=collate), ids=TRAIN.indices)
    assert torch.equal(state, torch.get_rng_state())


def test_its_own_ids_tell(lake: Lake) -> None:
    """A field of the batch is in the order that the records are in."""
    data = TensorDataset(X, Y, torch.arange(N))
    with begin(lake, TRAIN) as run:
        part = Subset(data, TRAIN.indices)
        loader = run.watch_loader(DataLoader(part, 6, shuffle=True, collate_fn=by_size), key=2)
        train(run, ((x, y) for x, y, _ in loader))
    assert faults(lake, sorted(TRAIN.indices)) == 0


@pytest.mark.parametrize("collate", [in_order, masked, doubled, raising])
def test_other_collates_are_let_be(lake: Lake, collate: Any) -> None:
    run = begin(lake, TRAIN)
    run.watch_loader(DataLoader(TRAIN, 6, collate_fn=collate), ids=TRAIN.indices)
    run.discard()


def test_the_data_set_is_left_as_it_was(lake: Lake) -> None:
    """One that opens its file with the first record does so in each worker, not in this process."""

    class Opens(Kept):
        def __getitem__(self, at: int) -> Any:
            self.file = "open"
            return super().__getitem__(at)

    data = Opens(TRAIN)
    run = begin(lake, TRAIN)
    run.watch_loader(DataLoader(data, 6, collate_fn=in_order), ids=TRAIN.indices)
    assert not hasattr(data, "file")
    run.discard()


GLOBAL = np.random.default_rng(0)


def noise_of_a_global(rows: list[Any]) -> Any:
    x, y = default_collate(rows)
    return x + torch.from_numpy(GLOBAL.normal(size=x.shape)).float(), y


def noise_of_a_closure() -> Callable[[list[Any]], Any]:
    stream = torch.Generator().manual_seed(0)

    def collate(rows: list[Any]) -> Any:
        x, y = default_collate(rows)
        return x + torch.randn(x.shape, generator=stream), y

    return collate


class Noise:
    """A collate_fn with a stream, made at the first call, and a counter of its own."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale, self.calls, self.stream = scale, 0, None

    def __call__(self, rows: list[Any]) -> Any:
        x, y = default_collate(rows)
        self.stream = self.stream or random.Random(self.calls)
        self.calls += 1
        return x + self.stream.random() * self.scale, y

    def collate(self, rows: list[Any]) -> Any:
        return self(rows)


class Jittered(Kept):
    def __init__(self, base: Any) -> None:
        super().__init__(base)
        self.transforms = [np.random.RandomState(1), np.random.default_rng(2), np.random.default_rng(2)]

    def __getitem__(self, at: int) -> Any:
        x, y = super().__getitem__(at)
        return x + float(self.transforms[0].rand() + sum(one.random() for one in self.transforms[1:])), y


def popping(rows: list[Any]) -> Any:
    """As many collators do: what the data set keeps is taken out of it."""
    ys = torch.stack([row.pop("y") for row in rows])
    return torch.stack([row["x"].mul_(2) for row in rows]), ys


def dicts() -> list[Any]:
    return [{"x": X[i].clone(), "y": Y[i]} for i in range(N)]


DISTURBED: dict[str, Callable[[], tuple[Any, Any]]] = {
    "a global stream": lambda: (FULL, noise_of_a_global),
    "a stream that a function closes over": lambda: (FULL, noise_of_a_closure()),
    "an object": lambda: (FULL, Noise()),
    "a method": lambda: (FULL, Noise().collate),
    "a partial": lambda: (FULL, functools.partial(lambda noise, rows: noise(rows), Noise())),
    "a data set": lambda: (Jittered(FULL), lambda rows: default_collate(rows)),
    "a data set within others": lambda: (
        Subset(ConcatDataset([Jittered(FULL)]), range(N)),
        lambda rows: default_collate(rows),
    ),
    "records that are changed": lambda: (dicts(), popping),
}


@pytest.mark.parametrize("kind", DISTURBED)
def test_looking_at_a_collate_changes_nothing_in_the_loop(lake: Lake, kind: str) -> None:
    """It draws what it would draw of streams of its own, and its batches are those of a loop that nobody watches."""

    def batches(*, watched: bool) -> torch.Tensor:
        GLOBAL.bit_generator.state = np.random.default_rng(0).bit_generator.state
        torch.manual_seed(0)
        data, collate = DISTURBED[kind]()
        loader: Any = DataLoader(data, 6, shuffle=True, collate_fn=collate)
        if not watched:
            return torch.cat([x for x, _ in loader])
        run = begin(lake, range(N))
        found = torch.cat([x for x, _ in run.watch_loader(loader, ids=range(N))])
        run.discard()
        return found

    assert torch.equal(batches(watched=False), batches(watched=True))


def test_a_collate_that_sorts_texts_most_of_which_are_as_long_as_they_may_be(lake: Lake) -> None:
    """As truncated ones are: the first few show nothing."""
    lengths = [12] * 15 + list(range(3, 12)) + [12] * (N - 24)
    texts = [(torch.full((length,), at + 1), float(at)) for at, length in enumerate(lengths)]

    def by_length(rows: list[Any]) -> Any:
        rows = sorted(rows, key=lambda row: -len(row[0]))
        padded = nn.utils.rnn.pad_sequence([text for text, _ in rows], batch_first=True)
        return padded, torch.tensor([target for _, target in rows])

    with pytest.raises(InvalidInput, match=r"another order.*key="), begin(lake, range(N)) as run:
        run.watch_loader(DataLoader(texts, 6, collate_fn=by_length), ids=range(N))
