"""What a data set or loader must not be read as: fewer or other records than its user means, or entries that some of them lack."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from losslake.collect.data.load import load_dataset
from losslake.collect.data.nested import Nested
from losslake.collect.data.record import Dataset
from losslake.store.errors import InvalidInput, InvalidOption
from torch.utils.data import (
    DataLoader,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

N = 60
X, Y = torch.randn(N, 3, generator=torch.Generator().manual_seed(0)), torch.arange(N) % 2
DATA = TensorDataset(X, Y)
PARTS = ([*range(20)], [*range(20, N)])


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Dataset]:
    def loaded(made: Any, **entries: str) -> Dataset:
        module = ModuleType("rows_mine")
        module.__dict__["made"] = lambda: made
        monkeypatch.setitem(sys.modules, "rows_mine", module)
        return load_dataset("rows_mine:made", **entries)

    return loaded


def rows(record: Callable[[int], Any]) -> list[Any]:
    return [record(row) for row in range(N)]


def doubled(records: Iterable[Any]) -> Any:
    x, y = zip(*records, strict=True)
    return 2 * torch.stack(x), torch.stack(y)


def as_they_are(records: Iterable[Any]) -> Any:
    x, y = zip(*records, strict=True)
    return torch.stack(x), torch.stack(y)


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(DATA, batch_size=7),
        DataLoader(DATA, batch_size=7, shuffle=True, drop_last=True),
        DataLoader(DATA, sampler=RandomSampler(DATA)),
        DataLoader(DATA, batch_size=N + 1),
    ],
    ids=["plain", "shuffled", "random", "one batch"],
)
def test_a_loader_of_all_records_gives_them_in_their_order(
    load: Callable[..., Dataset], loader: DataLoader[Any]
) -> None:
    found = load(loader)
    assert isinstance(found.x, Nested)
    assert np.array_equal(found.x.arrays[0], X.numpy())
    assert np.array_equal(found.y, Y.numpy())


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (
            {
                name: DataLoader(DATA, sampler=SubsetRandomSampler(part))
                for name, part in zip(("train", "test"), PARTS, strict=True)
            },
            "SubsetRandomSampler for its sampler.*all 60 records.*Subset",
        ),
        (DataLoader(DATA, sampler=WeightedRandomSampler(torch.ones(N), N)), "WeightedRandomSampler"),
        (DataLoader(DATA, sampler=RandomSampler(DATA, replacement=True)), "RandomSampler"),
        (DataLoader(DATA, sampler=RandomSampler(DATA, num_samples=9)), "RandomSampler"),
        (DataLoader(DATA, sampler=[3, 1, 2]), "list for its sampler"),
        (DataLoader(DATA, batch_sampler=[[0, 1], [2, 3]]), "list for its batch_sampler"),
        (DataLoader(DATA, batch_size=None), "batch_size=None"),
        (
            {"train": DataLoader(DATA, collate_fn=doubled), "test": DataLoader(DATA, collate_fn=as_they_are)},
            "several collate_fn",
        ),
        ({"train": DataLoader(DATA), "test": DataLoader(DATA, collate_fn=doubled)}, "several collate_fn"),
        (rows(lambda i: (X[i], int(Y[i]), i)), "another one in each record, as an index"),
        (rows(lambda i: {"a": X[i], **({"mask": Y[i]} if i == 50 else {}), "label": int(Y[i])}), "record 50 has other"),
        (rows(lambda i: ({"a": X[i], **({"b": X[i]} if i else {})}, int(Y[i]))), "record 1 has other entries"),
        (rows(lambda i: (1e300 if i == 9 else 0.5, X[i], int(Y[i]))), "0 of record 9 is larger than a float32"),
        (rows(lambda i: {1: X[i], "1": -X[i], "label": int(Y[i])}), "the same name as text: 1, '1', 'label'"),
    ],
)  # fmt: skip
def test_records_that_would_be_others_are_refused(load: Callable[..., Dataset], made: Any, told: str) -> None:
    with pytest.raises(InvalidInput, match=f"(?s){told}"):
        load(made)


@pytest.mark.parametrize("entries", [{"label": "a", "key": "a"}, {"key": "who", "group": "who"}])
def test_an_entry_is_one_thing(load: Callable[..., Dataset], entries: Mapping[str, str]) -> None:
    made = rows(lambda i: {"a": int(Y[i]), "who": f"p{i}", "label": int(Y[i])})
    with pytest.raises(InvalidOption, match="name the same entry"):
        load(made, **entries)


def test_parts_are_apart_and_a_collate_is_all_parts(load: Callable[..., Dataset]) -> None:
    train, test = (Subset(DATA, part) for part in PARTS)
    for made in (
        {"train": DataLoader(train, collate_fn=doubled), "test": DataLoader(test, collate_fn=doubled)},
        {"train": train, "test": DataLoader(test, collate_fn=doubled)},
        {"test": DataLoader(test, collate_fn=doubled), "train": train},
    ):
        found = load(made)
        assert isinstance(found.x, Nested)
        for name, part in zip(("train", "test"), PARTS, strict=True):
            assert np.array_equal(found.x.arrays[0][found.split == name], 2 * X[part].numpy())


def test_the_order_of_entries_means_nothing(load: Callable[..., Dataset]) -> None:
    def record(row: int) -> dict[str, Any]:
        made = {"a": X[row], "b": -X[row], "label": int(Y[row])}
        return made if row % 3 else dict(reversed(made.items()))

    found = load(rows(record))
    assert isinstance(found.x, Nested)
    batch = found.x.batch()
    assert np.array_equal(batch["a"], X.numpy())
    assert np.array_equal(batch["b"], -X.numpy())
    assert np.array_equal(batch["label"], Y.numpy())


@pytest.mark.parametrize("kind", [int, np.int64, np.int8, bool])
def test_a_number_stays_whatever_the_first_record_has(
    load: Callable[..., Dataset], kind: Callable[[int], Any]
) -> None:
    found = load(rows(lambda i: (kind(1) if i == 0 else i + 0.5, X[i], int(Y[i]))))
    assert isinstance(found.x, Nested)
    assert np.array_equal(found.x.arrays[0], [1, *(np.arange(1, N) + 0.5)])
