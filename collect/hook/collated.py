"""Whether a loader's own collate_fn leaves its records in their order, as one that sorts texts by length does not."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate

from ...store.errors import InvalidInput
from .as_before import as_before

_TRIED, _SECONDS = 64, 0.5
"""Records that are collated in their order, and the other way round: fewer where they take long to read."""


def check_order_is_kept(loader: DataLoader[Any]) -> None:
    """Raises InvalidInput where some records, collated the other way round, do not come the other way round.

    They are from all over the data set: texts in a row are often all as long as a model takes. The loop finds data set and collate_fn
    `as_before`. What cannot be collated so, or has other rows each time, as by mixup and masking, shows nothing.
    """
    if loader.collate_fn is default_collate or loader.batch_sampler is None:
        return
    with as_before(loader.dataset, loader.collate_fn):
        try:
            records = _some_records(loader.dataset)
            made, again, reversed_ = (
                list(_fields(loader.collate_fn(copy.deepcopy(each))))  # some take fields out of the records
                for each in (records, records, records[::-1])
            )
        except (
            Exception
        ):  # whatever somebody's data set or collate_fn raises; training will, too, if it matters
            return
    if not len(made) == len(again) == len(reversed_):
        return
    moved = False
    for one, same, other in zip(made, again, reversed_, strict=True):
        if len(one) != len(records) or one.shape != other.shape:
            continue
        if not _equal(one, same):
            moved |= _rows(one) == _rows(same)
            continue
        backwards = one.flip(0)
        if _equal(one, backwards):
            continue
        if _equal(other, backwards):
            return
        moved |= _rows(one) == _rows(other)
    if moved:
        raise InvalidInput(
            f"the loader's collate_fn ({getattr(loader.collate_fn, '__name__', type(loader.collate_fn).__name__)}) puts the records of a batch into "
            "another order, so that their losses would be those of others: name the field of a batch that holds its samples' ids or keys by "
            "watch_loader(loader, key=...), or leave the records in their order (pack_padded_sequence takes enforce_sorted=False)"
        )


def _some_records(data: Any) -> list[Any]:
    until = time.monotonic() + _SECONDS
    places = range(0, len(data), -(-len(data) // _TRIED))
    records: list[Any] = []
    # The first few are far apart already.
    for place in sorted(places, key=lambda place: places.index(place) % 8):
        if len(records) > 1 and time.monotonic() > until:
            break
        records.append(data[place])
    return records


def _fields(batch: Any) -> Iterator[torch.Tensor]:
    """The tensors of a batch, in whatever they are nested; lists of numbers too."""
    if isinstance(batch, torch.Tensor):
        if batch.ndim:
            yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _fields(value)
    elif isinstance(batch, (list, tuple)):
        if batch and all(isinstance(value, (int, float)) for value in batch):
            yield torch.tensor(batch)
        else:
            for value in batch:
                yield from _fields(value)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())


def _rows(field: torch.Tensor) -> list[bytes]:
    return sorted(row.contiguous().cpu().numpy().tobytes() for row in field)
