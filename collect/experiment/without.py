"""Making an experiment without some records of its data set: to remove the most exposed ones and look again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from ...store.errors import InvalidInput, InvalidOption
from ..data.record import Dataset
from ..data.selection import Selection, read_column


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


def told(keys: Iterable[str]) -> str:
    """How many records are left out and a digest of which: what an experiment says of them."""
    listed = sorted(keys)
    digest = hashlib.sha256("\n".join(listed).encode()).hexdigest()
    return f"{len(listed)} keys, sha256 {digest}"


def leave_out(dataset: Dataset, chosen: Selection, keys: Iterable[str]) -> Selection:
    """The selection less the records of these keys; the others stay in the pool they were in.

    Raises InvalidInput for a key that names no record of the selection, InvalidOption where no audit record is left.
    """
    listed = sorted(keys)
    own = dataset.key[chosen.rows]
    unknown = sorted(set(listed) - set(own.tolist()))
    if unknown:
        raise InvalidInput(
            f"{len(unknown)} of {len(listed)} keys to leave out name no record chosen from {dataset.name}, first "
            f"{unknown[0]!r}; keys are such as {str(own[0])!r}"
        )
    kept = _part(chosen, ~np.isin(own, listed))
    if not (kept.pool == "audit").any():
        raise InvalidOption(f"of {len(own)} samples none is left to audit without these {len(listed)}")
    return kept


def keep_only(dataset: Dataset, chosen: Selection, keys: Iterable[str]) -> Selection:
    """The records of a selection with these keys: those that an experiment made without others still has."""
    return _part(chosen, np.isin(dataset.key[chosen.rows], list(keys)))


def _part(chosen: Selection, kept: np.ndarray) -> Selection:
    return Selection(rows=chosen.rows[kept], pool=chosen.pool[kept])
