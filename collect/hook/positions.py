"""Which sample stands at each position of a data set that is trained on, and what shows that it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset

from ...store.errors import InvalidInput

_PASS_IDS = "pass ids=, the sample id of each record, or key=, the field of a batch that names its samples"


@dataclass(frozen=True, eq=False)
class Positions:
    """The samples of a data set, and how sure that is.

    ids    (records,) int64, the sample at each position
    shown  whether something shows it: given ids, or indices into the whole data set that are the members. Else labels may
    doubt  why it may be otherwise, where the data set's own indices say another order; None where nothing speaks against it
    """

    ids: np.ndarray
    shown: bool
    doubt: str | None = None


def read_positions(
    data: Any, ids: Any, order: np.ndarray, samples: int, labels: np.ndarray | None = None
) -> Positions:
    """The sample at each position of a data set of the loop's own; ``order`` are the members' ids as they were given.

    ``ids`` where given. Else what the data set says of itself: Subset (of Subset ...), ConcatDataset and StackDataset of
    these, and a selection of a Hugging Face Dataset have indices into a data set that may hold all samples, and hold good where they name
    members alone. Else the members in their order where there are as many, or all samples. ``labels`` are the samples
    table's, -1 where it has none. Raises InvalidInput where none of it fits, and where two orders are as likely and no labels will tell.
    """
    length = len(data)
    if ids is not None:
        array = np.asarray(ids)
        if array.shape != (length,) or not np.issubdtype(array.dtype, np.integer):
            raise InvalidInput(
                f"ids are {array.dtype} {array.shape}; they must be integers, one for each of the {length} records "
                "of the loader's data set"
            )
        refuse_unknown(array, samples)
        return Positions(array.astype(np.int64), shown=True)
    by_order = order if length == len(order) else np.arange(length) if length == samples else None
    some = len(order) < samples  # what names members alone is no chance
    member = np.zeros(samples, dtype=bool)
    member[order] = True
    whole: list[np.ndarray] = []  # by indices into a data set of all samples
    of_members: list[np.ndarray] = []  # by indices into one of the members
    guessed: list[np.ndarray] = []  # as the first, but within a data set of a kind that is not known
    for inner, at, known in list(_chain(data))[1:]:
        if len(inner) == samples:
            (whole if known else guessed).append(at)
        elif len(inner) == len(order) and known:
            of_members.append(order[at])
    shown = _distinct([at for at in whole if some and member[at].all()])
    if len(shown) > 1:
        shown = [at for at in shown if len(np.unique(at)) == len(order)]
    if len(shown) == 1:
        return Positions(shown[0], shown=True)
    left = _distinct([*whole, *of_members, *([] if by_order is None else [by_order])])
    if not left:
        raise InvalidInput(
            f"the loader's data set has {length} records, the run {len(order)} members and the experiment {samples} "
            f"samples; {_PASS_IDS}, to watch_loader"
        )
    chosen = left[0] if by_order is None else by_order
    inside = [at for at in guessed if some and member[at].all()]
    if len(left) == 1 and all(np.array_equal(at, chosen) for at in inside):
        # Of a data set of all samples the sampler takes the members: a batch with another one is refused.
        among_all = length == samples or bool(whole) or bool(inside)
        return Positions(chosen, shown=some and among_all)
    doubt = (
        f"record i of the loader's data set ({type(data).__name__}) may be member i of the run, or the sample that its indices name, which "
        f"is another one: {_PASS_IDS}"
    )
    if by_order is None or labels is None or not labels_tell(labels, chosen):
        raise InvalidInput(doubt)
    return Positions(chosen, shown=False, doubt=doubt)


def labels_tell(labels: np.ndarray, ids: np.ndarray) -> bool:
    """Whether labels that agree with those of the samples ``ids``, one after the other, show the order.

    Not those of one class, nor of classes one after the other, within which records may have changed places.
    """
    along = labels[ids]
    along = along[along >= 0]
    changes = int((along[1:] != along[:-1]).sum())
    return changes >= max(2, len(np.unique(along)))


def parts_in_another_order(data: Any, samples: int) -> bool:
    """Whether data of all ``samples`` is put together of parts of a data set as long, in another order than that one's."""
    if not hasattr(data, "__len__") or len(data) != samples:
        return False
    return any(
        len(inner) == samples and known and not np.array_equal(at, np.arange(samples))
        for inner, at, known in _chain(data)
    )


def members_named(part: Any, samples: int) -> np.ndarray | None:
    """The places that the records of a Subset have in the data set of all ``samples`` that it is of; None where that is not to be seen."""
    found = _distinct([at for inner, at, known in list(_chain(part))[1:] if known and len(inner) == samples])
    return found[0] if len(found) == 1 else None


def refuse_unknown(ids: np.ndarray, samples: int) -> None:
    """Raises InvalidInput for an id that no sample has."""
    wrong = (ids < 0) | (ids >= samples)
    if wrong.any():
        raise InvalidInput(f"id {ids[wrong][0]} is no sample of the experiment (0 to {samples - 1})")


# --- data sets made of others -------------------------------------------------------------------------------


def _chain(data: Any) -> Iterator[tuple[Any, np.ndarray, bool]]:
    """(data set, the position in it of each record of ``data``, whether that is sure) of the data set and those inside it, in turn."""
    at, known = np.arange(len(data)), True
    for _ in range(32):
        yield data, at, known
        inside = _inside(data)
        if inside is None:
            return
        data, positions, sure = inside
        at, known = positions[at], known and sure


def _inside(data: Any) -> tuple[Any, np.ndarray, bool] | None:
    """The data set that the records of ``data`` are of, where in it each one stands, and whether that is sure."""
    if isinstance(data, Subset):
        return _indexed(data.dataset, data.indices, sure=True)
    if isinstance(data, ConcatDataset):
        return _within_one(list(data.datasets))
    if isinstance(data, StackDataset):
        parts = list(data.datasets.values()) if isinstance(data.datasets, dict) else list(data.datasets)
        found = [_inside(part) for part in parts]
        first = found[0] if found else None
        same = first is not None and all(
            each is not None and len(each[0]) == len(first[0]) and np.array_equal(each[1], first[1])
            for each in found
        )
        return first if same else None
    if type(data).__module__.partition(".")[0] == "datasets":
        chosen, table = getattr(data, "_indices", None), getattr(data, "_data", None)
        if chosen is None or table is None:
            return None
        return _indexed(range(len(table)), chosen.column(0).to_numpy(), sure=True)
    return _guessed(data)


def _guessed(data: Any) -> tuple[Any, np.ndarray, bool] | None:
    """What a data set of a kind of its own holds: another one as long, record by record, or indices and what they are of."""
    held = getattr(data, "__dict__", {})
    inner = [
        value
        for value in held.values()
        if hasattr(value, "__getitem__")
        and hasattr(value, "__len__")
        and (isinstance(value, Dataset) or type(value).__module__.startswith("torch.utils.data"))
    ]
    if "dataset" in held and "indices" in held and hasattr(held["dataset"], "__len__"):
        found = _indexed(held["dataset"], held["indices"], sure=False)
        if found is not None and len(found[1]) == len(data):
            return found
    if len(inner) == 1 and len(inner[0]) == len(data):
        return inner[0], np.arange(len(data)), False
    if len(inner) == 1:
        # Indices under a name of its own, each another one: no labels.
        rows = [_indexed(inner[0], value, sure=False) for value in held.values() if _as_long(value, data)]
        apart = [each for each in rows if each is not None and len(np.unique(each[1])) == len(data)]
        return apart[0] if len(apart) == 1 else None
    return None


def _as_long(value: Any, data: Any) -> bool:
    return isinstance(value, (list, tuple, range, np.ndarray, torch.Tensor)) and len(value) == len(data)


def _indexed(base: Any, indices: Any, *, sure: bool) -> tuple[Any, np.ndarray, bool] | None:
    try:
        at = np.asarray(indices.detach().cpu() if hasattr(indices, "detach") else indices)
        total = len(base)
    except (TypeError, ValueError):
        return None
    if at.ndim != 1 or not np.issubdtype(at.dtype, np.integer):
        return None
    at = np.where(at < 0, at + total, at)
    return (base, at, sure) if not len(at) or (at.min() >= 0 and at.max() < total) else None


def _within_one(parts: list[Any]) -> tuple[Any, np.ndarray, bool] | None:
    """What parts one after the other are of: the first data set that holds them all, or those that they are of, in a row."""
    chains = [list(_chain(part)) for part in parts]
    for base, _, _ in chains[0][1:] if chains else ():
        places = [next(((at, sure) for held, at, sure in chain if held is base), None) for chain in chains]
        if all(place is not None for place in places):
            found = [place for place in places if place is not None]
            return base, np.concatenate([at for at, _ in found]), all(sure for _, sure in found)
    ends = [chain[-1] for chain in chains]
    if all(len(chain) == 1 for chain in chains):
        return None
    starts: dict[int, int] = {}
    row: list[Any] = []
    at = []
    for base, positions, _ in ends:
        if id(base) not in starts:
            starts[id(base)] = sum(map(len, row))
            row.append(base)
        at.append(positions + starts[id(base)])
    return range(sum(map(len, row))), np.concatenate(at), all(sure for _, _, sure in ends)


def _distinct(arrays: list[np.ndarray]) -> list[np.ndarray]:
    kept: list[np.ndarray] = []
    for array in arrays:
        if not any(np.array_equal(array, other) for other in kept):
            kept.append(array)
    return kept
