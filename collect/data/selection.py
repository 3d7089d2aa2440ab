"""Which records of a data set an experiment uses, and which of them are the population."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...store.errors import InvalidOption, NotEnoughData
from .balance import check_seed, equal_shares, proportional_shares, take_by_class
from .record import Dataset

_SAMPLES_STREAM, _POPULATION_STREAM = 201, 202


@dataclass(frozen=True, eq=False)
class Selection:
    """rows: int64 (n,), row numbers in the data set, ascending; pool: str (n,), "audit" or "population"."""

    rows: np.ndarray
    pool: np.ndarray


def select_samples(dataset: Dataset, *, samples: int | None, population: float, seed: int) -> Selection:
    """Choose `samples` records of the train split (all of them for None), balanced over the classes.

    Every class gives the same number, as far as it has that many; others fill up for a class that has not.
    `population` is the fraction of the chosen rows, taken from each class in proportion, that is set aside:
    no run ever trains on them. With one seed, fewer samples are a part of more. Deterministic in seed.

    Raises NotEnoughData where the train split is smaller than `samples`, InvalidOption for values that make
    no sense.
    """
    if samples is not None and samples < 1:
        raise InvalidOption(f"samples is {samples}; it must be 1 or more")
    if not 0 <= population < 1:
        raise InvalidOption(f"population is {population}; it is a fraction: at least 0 and below 1")
    check_seed(seed)
    train = np.flatnonzero(dataset.split == "train")
    if len(train) == 0:
        raise NotEnoughData(f"{dataset.name} has no train split; only records of it can be audited")
    if samples is not None and samples > len(train):
        raise NotEnoughData(
            f"{samples} samples asked for, but the train split of {dataset.name} has {len(train)}"
        )
    rows = train
    if samples is not None and samples < len(train):
        labels = dataset.y[train]
        shares = equal_shares(np.bincount(labels, minlength=len(dataset.classes)), samples)
        rows = train[take_by_class(labels, shares, [_SAMPLES_STREAM, seed])]
    labels = dataset.y[rows]
    shares = proportional_shares(np.bincount(labels, minlength=len(dataset.classes)), population)
    pool = np.full(len(rows), "audit", dtype="<U10")
    pool[take_by_class(labels, shares, [_POPULATION_STREAM, seed])] = "population"
    if not (pool == "audit").any():
        raise InvalidOption(f"population is {population}: of {len(rows)} samples none is left to audit")
    return Selection(rows=rows.astype(np.int64), pool=pool)
