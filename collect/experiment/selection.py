"""Which records of a data set an experiment uses, which of them are the population, and lists of records in files.

An experiment may be made without some records: to remove the most exposed ones and look again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from ...store.errors import InvalidInput, InvalidOption, NotEnoughData, NotFound
from ..data.bounds import read_parquet
from ..data.record import Dataset
from ..data.room import check_room

_AS_TEXT = 40
"""Bytes in memory for each of a list that is read as text: a line may be a number of one digit."""

_SAMPLES_STREAM, _POPULATION_STREAM = 201, 202


@dataclass(frozen=True, eq=False)
class Selection:
    """rows: int64 (n,), row numbers in the data set, ascending; pool: str (n,), "audit" or "population"."""

    rows: np.ndarray
    pool: np.ndarray

    def part(self, kept: np.ndarray) -> Selection:
        """Those of the selection where ``kept`` (n,) is true."""
        return Selection(self.rows[kept], self.pool[kept])


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
    return Selection(rows, pool)


def leave_out(dataset: Dataset, chosen: Selection, keys: Sequence[str]) -> Selection:
    """The selection less the records of these keys, each given once; the others stay in the pool they were in.

    Raises InvalidInput for a key that names no record of the selection, InvalidOption where no audit record is left.
    """
    own = dataset.key[chosen.rows]
    unknown = sorted(set(keys) - set(own.tolist()))
    if unknown:
        raise InvalidInput(
            f"{len(unknown)} of {len(keys)} keys to leave out name no record chosen from {dataset.name}, first "
            f"{unknown[0]!r}; keys are such as {str(own[0])!r}"
        )
    kept = chosen.part(~np.isin(own, list(keys)))
    if not (kept.pool == "audit").any():
        raise InvalidOption(f"of {len(own)} samples none is left to audit without these {len(keys)}")
    return kept


def keep_only(dataset: Dataset, chosen: Selection, keys: Iterable[str]) -> Selection:
    """The records of a selection with these keys: those that an experiment made without others still has."""
    return chosen.part(np.isin(dataset.key[chosen.rows], list(keys)))


def told(keys: Iterable[str]) -> str:
    """How many records are left out and a digest of which: what an experiment says of them."""
    listed = sorted(keys)
    digest = hashlib.sha256("\n".join(listed).encode()).hexdigest()
    return f"{len(listed)} keys, sha256 {digest}"


def read_keys(path: Path) -> tuple[str, ...]:
    """The distinct keys in the column key of a .csv or .parquet file, sorted; a .txt file has one a line.

    A key names a record of the data set, as the column key of samples does. Raises NotFound, InvalidOption for another
    kind of file, InvalidInput for one without such a column, or without any key.
    """
    column = read_column(path, "key")
    if column.dtype != pl.String or column.null_count():
        raise InvalidInput(
            f"{path}: column key is {column.dtype} with {column.null_count()} empty rows; it must hold the text of a key "
            "in each"
        )
    if column.is_empty():
        raise InvalidInput(f"{path} names no record to leave out")
    return tuple(sorted(set(column.to_list())))


def read_sample_ids(path: Path) -> list[int]:
    """The column sample_id of a .csv or .parquet file, as ``analyze --out`` writes it, in its order.

    A .txt file has one id a line, under the heading sample_id or none. Raises NotFound, InvalidOption for another kind
    of file, InvalidInput for one without such a column or with something else than whole numbers in it.
    """
    column = read_column(path, "sample_id")
    try:
        whole = column.str.strip_chars().cast(pl.Int64) if column.dtype == pl.String else column
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput(f"{path}: no whole numbers in column sample_id: {reason}") from error
    if not whole.dtype.is_integer() or whole.null_count():
        raise InvalidInput(
            f"{path}: column sample_id is {column.dtype} with {whole.null_count()} empty rows; it must hold a whole number "
            "in each"
        )
    return whole.to_list()


def read_column(path: Path, column: str) -> pl.Series:
    """A column of a .csv or .parquet file in its order; a .txt file has a value a line, with or without the heading.

    Parquet says what its values are; those of the others are text, so that 007 stays 007. Raises NotFound, InvalidOption
    for another kind of file, InvalidInput for one without the column.
    """
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    try:
        if path.suffix == ".parquet":
            return pl.Series(column, read_parquet(path, [column]).column(0))
        if path.suffix == ".csv":
            check_room(_AS_TEXT * path.stat().st_size, path)
            return pl.read_csv(path, columns=[column], schema_overrides={column: pl.String})[column]
        if path.suffix == ".txt":
            check_room(_AS_TEXT * path.stat().st_size, path)
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            return pl.Series(column, lines[1:] if lines[:1] == [column] else lines, dtype=pl.String)
    except (pl.exceptions.PolarsError, pa.ArrowException, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInput(f"{path}: there is no column {column} to be read: {reason}") from error
    raise InvalidOption(f"{path}: a list is read from .csv, .parquet and .txt files")


def equal_shares(available: np.ndarray, total: int) -> np.ndarray:
    """How many to take of each class, int64 (C,), so that the shares are as equal as `available` (C,) allows.

    A class with fewer than an equal share gives all it has and the others make up for it; of the classes
    with room, the first ones take the remainder. `total` is at most available.sum().
    """
    shares = np.zeros(len(available), dtype=np.int64)
    left = total
    while left > 0:
        roomy = np.flatnonzero(available > shares)
        # At least one each, to the first `left` classes, once an equal step is less than one.
        step = max(left // len(roomy), 1)
        roomy = roomy[:left]
        given = np.minimum(step, available[roomy] - shares[roomy])
        shares[roomy] += given
        left -= int(given.sum())
    return shares


def proportional_shares(available: np.ndarray, fraction: float) -> np.ndarray:
    """round(fraction * available.sum()) shared out in proportion to `available` (C,), int64 (C,).

    Each share is fraction * available rounded down or up (largest remainders first; of equal ones the first).
    """
    exact = available * fraction
    shares = np.floor(exact + 1e-9).astype(np.int64)
    left = int(np.floor(float(available.sum()) * fraction + 0.5 + 1e-9)) - int(shares.sum())
    order = np.argsort(-(exact - shares), kind="stable")
    shares[order[:left]] += 1
    return np.minimum(shares, available)


def take_by_class(labels: np.ndarray, shares: np.ndarray, seed: list[int]) -> np.ndarray:
    """A random choice of `shares[c]` rows of each class c of `labels` (N,): row numbers, int64, ascending.

    Each class draws from a stream of its own, so that with one seed a smaller choice is part of a larger one.
    """
    ends = np.cumsum(np.bincount(labels, minlength=len(shares)))
    by_class = np.split(np.argsort(labels, kind="stable"), ends)
    chosen = [np.zeros(0, dtype=np.int64)]
    for label in np.flatnonzero(shares):
        rows = by_class[label]
        order = np.random.default_rng([*seed, int(label)]).permutation(len(rows))
        chosen.append(rows[order[: shares[label]]])
    return np.sort(np.concatenate(chosen))


def check_seed(seed: int) -> None:
    """Raises InvalidOption for a seed that NumPy's generators do not take."""
    if seed < 0:
        raise InvalidOption(f"seed is {seed}; it must be 0 or more")
