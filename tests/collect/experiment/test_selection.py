"""Choosing samples and the population: balance, nesting, determinism."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from losslake.collect.data.record import Dataset, row_keys
from losslake.collect.experiment.selection import equal_shares, proportional_shares, select_samples
from losslake.store.errors import InvalidInput, InvalidOption, NotEnoughData


def dataset(counts: list[int], test_rows: int = 4) -> Dataset:
    y = np.concatenate(
        [np.repeat(np.arange(len(counts)), counts), np.zeros(test_rows, dtype=np.int64)]
    ).astype(np.int64)
    order = np.random.default_rng(5).permutation(len(y))
    split = np.array(["train"] * sum(counts) + ["test"] * test_rows)[order]
    return Dataset(
        name="made",
        x=np.zeros((len(y), 2), dtype=np.float32),
        y=y[order],
        classes=tuple("abcdefghij"[: len(counts)]),
        split=split,
        key=row_keys(np.full(len(y), "all")),
    )


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.data())
@settings(max_examples=150, deadline=None)
def test_equal_shares_are_as_equal_as_can_be(available: list[int], data: st.DataObject) -> None:
    counts = np.array(available)
    total = data.draw(st.integers(0, int(counts.sum())))
    shares = equal_shares(counts, total)
    assert shares.sum() == total
    assert (shares <= counts).all()
    # A class gets less than the largest share - 1 only where it has no more to give.
    short = shares < shares.max() - 1
    assert (shares[short] == counts[short]).all()


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_proportional_shares(available: list[int], fraction: float) -> None:
    counts = np.array(available)
    shares = proportional_shares(counts, fraction)
    assert abs(shares.sum() - counts.sum() * fraction) <= 0.5 + 1e-6
    assert (np.abs(shares - counts * fraction) < 1 + 1e-6).all()
    assert ((shares >= 0) & (shares <= counts)).all()


def test_selection_is_balanced_and_from_train() -> None:
    data = dataset([50, 60, 70])
    chosen = select_samples(data, samples=31, population=0.2, seed=3)
    assert chosen.rows.dtype == np.int64
    assert (np.diff(chosen.rows) > 0).all()
    assert (data.split[chosen.rows] == "train").all()
    assert sorted(np.bincount(data.y[chosen.rows]).tolist()) == [10, 10, 11]
    assert (chosen.pool == "population").sum() == 6
    assert np.bincount(data.y[chosen.rows[chosen.pool == "population"]]).tolist() == [2, 2, 2]
    assert set(chosen.pool) == {"audit", "population"}


def test_small_classes_are_made_up_for() -> None:
    data = dataset([3, 60, 70])
    chosen = select_samples(data, samples=43, population=0, seed=0)
    assert np.bincount(data.y[chosen.rows]).tolist() == [3, 20, 20]
    assert set(chosen.pool) == {"audit"}


def test_deterministic_seeded_and_nested() -> None:
    data = dataset([50, 50])
    first, again, other, fewer = (
        select_samples(data, samples=count, population=0.25, seed=seed)
        for count, seed in ((40, 1), (40, 1), (40, 2), (20, 1))
    )
    np.testing.assert_array_equal(first.rows, again.rows)
    np.testing.assert_array_equal(first.pool, again.pool)
    assert set(first.rows) != set(other.rows)
    assert set(fewer.rows) < set(first.rows)


def test_everything() -> None:
    data = dataset([5, 6])
    chosen = select_samples(data, samples=None, population=0.5, seed=0)
    np.testing.assert_array_equal(chosen.rows, np.flatnonzero(data.split == "train"))
    assert 5 <= (chosen.pool == "population").sum() <= 6


def test_refusals() -> None:
    data = dataset([5, 6])
    with pytest.raises(NotEnoughData, match="12 samples asked for, but the train split of made has 11"):
        select_samples(data, samples=12, population=0, seed=0)
    with pytest.raises(InvalidOption, match=r"population is 1\.0"):
        select_samples(data, samples=5, population=1.0, seed=0)
    with pytest.raises(InvalidOption, match="none is left"):
        select_samples(data, samples=1, population=0.9, seed=0)
    with pytest.raises(InvalidOption, match="samples is 0"):
        select_samples(data, samples=0, population=0, seed=0)
    with pytest.raises(InvalidOption, match="seed is -1"):
        select_samples(data, samples=3, population=0, seed=-1)
    with pytest.raises(NotEnoughData, match="no train split"):
        select_samples(dataset([0, 0]), samples=1, population=0, seed=0)


def test_records_that_disagree_are_refused() -> None:
    good = dataset([2, 2])
    fields = dict(vars(good))
    for change, message in [
        ({"y": good.y[:-1]}, "y has shape"),
        ({"y": good.y.astype(np.int32)}, "y is int32"),
        ({"y": good.y + 1}, "labels run from 1 to 2, but there are 2 classes"),
        ({"x": good.x.astype(np.float64)}, "x is float64"),
        ({"split": np.array(["dev"] * 8)}, "split of row 0 is 'dev'"),
        ({"group": np.array(["a"])}, "group has shape"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            Dataset(**{**fields, **change})
