"""Which record is which sample: what data sets, samplers and batches say of it, against each record's own loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from losslake.collect.hook.positions import labels_tell
from losslake.collect.hook.recorded_run import RecordedRun
from losslake.collect.hook.start import start_run
from losslake.store.errors import InvalidInput
from losslake.store.lake import Lake
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    random_split,
)

N = 48
X = torch.randn(N, 5, generator=torch.Generator().manual_seed(0))
Y = X.sum(1) + torch.arange(N)  # no two records have one loss
NET = nn.Linear(5, 1)
FULL = TensorDataset(X, Y)
PERM = torch.randperm(N, generator=torch.Generator().manual_seed(1)).tolist()
TRAIN, REST = Subset(FULL, PERM[:24]), Subset(FULL, PERM[24:])
INNER = Subset(Subset(FULL, PERM), list(range(40, 16, -1)))
HALVES = random_split(TRAIN, [10, 14], generator=torch.Generator().manual_seed(2))


class Kept(Dataset[Any]):
    """A data set of one's own around another one."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, at: int) -> Any:
        return self.inner[at]


class Stream(IterableDataset[Any]):
    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    def __iter__(self) -> Iterator[Any]:
        return iter([{"x": X[i], "y": Y[i], "at": i, "name": f"r{i}"} for i in self.ids])


def shuffled(data: Any) -> DataLoader[Any]:
    return DataLoader(data, batch_size=7, shuffle=True)


LOADERS: dict[str, tuple[Callable[[], DataLoader[Any]], list[int]]] = {
    "subset": (lambda: shuffled(TRAIN), PERM[:24]),
    "sorted subset": (lambda: shuffled(Subset(FULL, sorted(PERM[:24]))), PERM[:24]),
    "indices as a tensor": (lambda: shuffled(Subset(FULL, torch.tensor(PERM[:24]))), PERM[:24]),
    "indices from the end": (lambda: shuffled(Subset(FULL, [i - N for i in PERM[:24]])), PERM[:24]),
    "subset of a subset": (lambda: shuffled(INNER), [PERM[i] for i in INNER.indices]),
    "part of the members": (lambda: shuffled(HALVES[0]), PERM[:24]),
    "parts put together": (lambda: shuffled(ConcatDataset([HALVES[1], HALVES[0]])), PERM[:24]),
    "subset of parts": (
        lambda: shuffled(Subset(ConcatDataset([Subset(FULL, range(20)), Subset(FULL, range(20, N))]), PERM[:24])),
        PERM[:24],
    ),
    "two data sets": (
        lambda: shuffled(
            ConcatDataset(
                [
                    Subset(TensorDataset(X[:30], Y[:30]), [7, 3, 20]),
                    Subset(TensorDataset(X[30:], Y[30:]), [9, 1]),
                ]
            )
        ),
        [3, 7, 20, 31, 39],
    ),
    "side by side": (lambda: shuffled(StackDataset(Subset(X, PERM[:24]), Subset(Y, PERM[:24]))), PERM[:24]),
    "subset of one's own data set": (lambda: shuffled(Subset(Kept(FULL), PERM[:24])), PERM[:24]),
    "sampler": (lambda: DataLoader(FULL, 7, sampler=SubsetRandomSampler(PERM[:24])), PERM[:24]),
    "sampler in order": (lambda: DataLoader(TRAIN, 7, sampler=SequentialSampler(TRAIN)), PERM[:24]),
    "batch sampler": (
        lambda: DataLoader(FULL, batch_sampler=BatchSampler(SubsetRandomSampler(PERM[:24]), 7, False)),
        PERM[:24],
    ),
    "sampler of a subset": (
        lambda: DataLoader(Subset(FULL, PERM), 7, sampler=SubsetRandomSampler(range(24))),
        PERM[:24],
    ),
}  # fmt: skip

MEMBERS: dict[str, Callable[[list[int]], Any]] = {
    "mask": lambda ids: np.isin(np.arange(N), ids),
    "sorted": sorted,
    "in another order": lambda ids: sorted(ids, key=lambda i: -i * 7 % 11),
    "keys": lambda ids: [f"r{i}" for i in sorted(ids)],
    "set": set,
}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def begin(lake: Lake, members: Any) -> RecordedRun:
    samples = {"key": [f"r{i}" for i in range(N)], "target": Y.numpy()}
    return start_run(lake, "e", samples=samples, members=members)


def train(run: RecordedRun, batches: Any, criterion: Any = None) -> None:
    watched = run.watch_criterion(criterion or nn.MSELoss())
    for batch in batches:
        x, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch[:2]
        watched(NET(x)[:, 0], y)


def faults(lake: Lake, ids: list[int] | None = None) -> int:
    """How many records of the train trace have another loss than their own; which there are must be ``ids``."""
    rows = lake.sql("select sample_id, loss[2] as l from traces where loss[2] is not null order by sample_id")
    at = rows["sample_id"].to_numpy()
    assert ids is None or at.tolist() == sorted(ids)
    own = (NET(X)[:, 0] - Y).square().detach().numpy()
    return int((~np.isclose(rows["l"].to_numpy(), own[at], rtol=1e-4)).sum())


@pytest.mark.parametrize("members", MEMBERS)
@pytest.mark.parametrize("loader", LOADERS)
def test_indices_say_which_sample_a_record_is(lake: Lake, loader: str, members: str) -> None:
    make, ids = LOADERS[loader]
    trained = [PERM[:24][i] for i in HALVES[0].indices] if loader == "part of the members" else ids
    if loader == "sampler of a subset":
        # Two orders are as likely: of all samples the subset names each, whoever the sampler takes.
        with pytest.raises(InvalidInput, match="pass ids="), begin(lake, MEMBERS[members](ids)) as run:
            run.watch_loader(make())
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "nothing shows")
        warnings.filterwarnings("ignore", ".* were in no batch")
        with begin(lake, MEMBERS[members](ids)) as run:
            train(run, run.watch_loader(make()))
    assert faults(lake, trained) == 0


def test_members_given_as_a_subset_are_those_of_its_indices(lake: Lake) -> None:
    with begin(lake, TRAIN) as run:
        train(run, run.watch_loader(shuffled(TRAIN)))
    assert np.flatnonzero(run.members).tolist() == sorted(PERM[:24])
    assert faults(lake, PERM[:24]) == 0
    with pytest.raises(InvalidInput, match="of no data set as long"):
        begin(lake, Subset(TensorDataset(X[:9]), [1, 2]))


def test_where_nothing_shows_the_order_the_run_says_so_once(lake: Lake) -> None:
    ids = sorted(PERM[:24])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with begin(lake, ids) as run:
            loader = run.watch_loader(shuffled(TensorDataset(X[ids], Y[ids])))
            for _ in range(3):
                train(run, loader)
    assert len([each for each in told if "nothing shows which record" in str(each.message)]) == 1
    assert faults(lake, ids) == 0


def test_of_the_runs_of_one_loop_it_is_said_once(lake: Lake) -> None:
    """By Python's own rule, which prints the same words from the same place once."""
    ids = sorted(PERM[:24])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(3):
            with begin(lake, ids) as run:
                train(run, run.watch_loader(shuffled(TensorDataset(X[ids], Y[ids]))))
    assert len([each for each in told if "nothing shows which record" in str(each.message)]) == 1


@pytest.mark.parametrize("way", ["ids", "keys", "field of ids", "field of keys", "place", "stream"])
def test_ids_and_fields_of_a_batch_show_it(lake: Lake, way: str) -> None:
    ids = PERM[:24]
    of_records = TensorDataset(X[ids], Y[ids], torch.tensor(ids))
    rows = [{"x": X[i], "y": Y[i], "at": i, "name": f"r{i}"} for i in ids]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with begin(lake, MEMBERS["mask"](ids)) as run:
            loader: Any = {
                "ids": lambda: run.watch_loader(shuffled(of_records), ids=ids),
                "keys": lambda: run.watch_loader(shuffled(of_records), ids=[f"r{i}" for i in ids]),
                "field of ids": lambda: run.watch_loader(shuffled(rows), key="at"),
                "field of keys": lambda: run.watch_loader(shuffled(rows), key="name"),
                "place": lambda: run.watch_loader(shuffled(of_records), key=2),
                "stream": lambda: run.watch_loader(DataLoader(Stream(ids), 7, num_workers=0), key="name"),
            }[way]()
            train(run, loader)
    assert faults(lake, ids) == 0


def test_numbers_in_a_batch_are_keys_where_keys_are_numbers(lake: Lake) -> None:
    ids = PERM[:24]
    samples = {"key": [str(1000 + N - i) for i in range(N)], "target": Y.numpy()}
    with start_run(lake, "e", samples=samples, members=sorted(ids)) as run:
        data = TensorDataset(X[ids], Y[ids], 1000 + N - torch.tensor(ids))
        train(run, run.watch_loader(shuffled(data), key=2))
    assert faults(lake, ids) == 0


@pytest.mark.parametrize("key", ["nothing", 5])
def test_a_field_that_is_not_there_is_named(lake: Lake, key: Any) -> None:
    with pytest.raises(InvalidInput, match="without a field"), begin(lake, [0, 1]) as run:
        next(iter(run.watch_loader(shuffled(Subset(FULL, [0, 1])), key=key)))


def test_what_speaks_for_another_order_is_refused(lake: Lake) -> None:
    ids = sorted(PERM[:24])
    for data in (Kept(TRAIN), REST, ConcatDataset([TRAIN, REST])):
        with pytest.raises(InvalidInput, match="pass ids="), begin(lake, ids) as run:
            train(run, run.watch_loader(shuffled(data)))
    assert lake.experiments() == []
    with begin(lake, ids) as run:
        train(run, run.watch_loader(shuffled(Kept(TRAIN)), ids=TRAIN.indices))
    assert faults(lake, ids) == 0


class Rows(Dataset[Any]):
    """Some rows of another data set, under names of one's own."""

    def __init__(self, base: Any, rows: Any, **more: Any) -> None:
        self.base, self.rows = base, rows
        self.__dict__.update(more)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> Any:
        return self.base[int(self.rows[at])]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, tuple])
def test_rows_of_another_data_set_under_any_name_speak_for_another_order(lake: Lake, kind: Any) -> None:
    mask = np.zeros(N, dtype=bool)
    mask[PERM[:24]] = True
    with pytest.raises(InvalidInput, match="pass ids="), begin(lake, mask) as run:
        run.watch_loader(shuffled(Rows(FULL, kind(PERM[:24]))))


def test_numbers_that_are_no_rows_do_not(lake: Lake) -> None:
    """Classes, or ages: some are the same, or there is no such row."""
    mask = np.zeros(N, dtype=bool)
    mask[PERM[:24]] = True
    rows = sorted(PERM[:24])
    with begin(lake, mask) as run, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = Rows(FULL, rows, classes=[0, 1] * 12, ages=list(range(100, 124)))
        train(run, run.watch_loader(shuffled(data)))
    assert faults(lake) == 0


def test_labels_that_are_compared_show_it(lake: Lake) -> None:
    """Samples in the order of two parts: indices into the whole speak against it, labels for it."""
    labels = torch.arange(N) % 3
    whole = TensorDataset(X, labels)
    parts = [Subset(whole, PERM[:24]), Subset(whole, PERM[24:])]
    model = nn.Linear(5, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with start_run(lake, "e", samples=labels[PERM], members=range(24)) as run:
            watched = run.watch_criterion(nn.CrossEntropyLoss())
            for x, y in run.watch_loader(shuffled(parts[0])):
                watched(model(x), y)
            run.evaluate(model, ConcatDataset(parts))
    own = nn.functional.cross_entropy(model(X[PERM]), labels[PERM], reduction="none").detach().numpy()
    got = lake.sql("select loss[2] as l from traces order by sample_id")["l"].to_numpy()
    assert np.allclose(got, own[:24], atol=1e-5)
    # The same without a comparison: a loss that is not of labels.
    numbers = DataLoader(Subset(FULL, PERM[:24]), 7)
    with pytest.raises(InvalidInput, match="pass ids="), start_run(lake, "e", members=range(24)) as run:
        train(run, run.watch_loader(numbers))


@pytest.mark.parametrize(
    ("labels", "tell"),
    [([0] * 6, False), ([0, 0, 0, 1, 1, 1], False), ([0, 1, 0, 1, 1, 0], True), ([-1] * 6, False)],
)
def test_labels_in_blocks_do_not_tell_the_order_within(labels: list[int], tell: bool) -> None:
    assert labels_tell(np.array(labels), np.arange(6)) is tell


def test_batches_of_others_than_the_members_are_refused(lake: Lake) -> None:
    with (
        pytest.raises(InvalidInput, match="24 samples in its batches are no members"),
        begin(lake, PERM[:24]) as run,
    ):
        train(run, run.watch_loader(shuffled(FULL)))
    with (
        pytest.raises(InvalidInput, match="1 samples in its batches are no members"),
        begin(lake, [0, 1]) as run,
    ):
        train(run, run.watch_loader(DataLoader([(*FULL[i], i) for i in range(3)], 3), key=2))


def test_members_in_no_batch_are_told(lake: Lake) -> None:
    with pytest.warns(UserWarning, match="14 of 24 members"), begin(lake, PERM[:24]) as run:
        train(run, run.watch_loader(shuffled(HALVES[0])))


@pytest.mark.parametrize("ask", ["trace_eval", "evaluate"])
def test_data_of_parts_in_another_order_is_refused_without_labels(lake: Lake, ask: str) -> None:
    class Flat(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = NET(x)[:, 0]
            return out

    for data in (ConcatDataset([TRAIN, REST]), Subset(FULL, PERM)):
        with pytest.raises(InvalidInput, match="in another order"), begin(lake, PERM[:24]) as run:
            getattr(run, ask)(Flat(), data, criterion=nn.MSELoss())
    with begin(lake, PERM[:24]) as run:
        run.evaluate(Flat(), FULL, criterion=nn.MSELoss())
    got = lake.sql("select loss from signals order by sample_id")["loss"].to_numpy()
    assert np.allclose(got, (NET(X)[:, 0] - Y).square().detach().numpy(), rtol=1e-4)


def test_targets_of_probabilities_do_not_show_the_order(lake: Lake) -> None:
    labels = torch.arange(N) % 3
    hot = nn.functional.one_hot(labels, 3).float()
    model, ids = nn.Linear(5, 3), sorted(PERM[:24])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with start_run(lake, "e", samples=labels, members=ids) as run:
            watched = run.watch_criterion(nn.CrossEntropyLoss())
            for x, y in run.watch_loader(shuffled(TensorDataset(X[ids], hot[ids]))):
                watched(model(x), y)
    assert [str(each.message).partition(" which")[0] for each in told] == ["nothing shows"]
