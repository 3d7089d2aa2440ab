"""Which records of an audit are the same: on two sides, which nobody can be on, and copies on one, which count once."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl

from ...store.errors import InvalidInput
from .records import Records
from .rows import plain, rows_of, size_of

Overlap = Literal["refuse", "leave out"]
"""What becomes of records that are given on two sides."""


@dataclass(frozen=True, eq=False)
class Distinct:
    """The records of each side, each once.

    parts    of each side the distinct records, in the order of sample ids
    whole    the same sides with all copies, as models are trained on them
    samples  the sample id of each record of ``whole``, side by side
    notes    sentences a reader must know
    """

    parts: tuple[Records, ...]
    whole: tuple[Records, ...]
    samples: np.ndarray
    notes: list[str]


def distinct(parts: Sequence[Records], overlap: Overlap) -> Distinct:
    """Each record once, by its features and its label: two of the same are one observation, and would narrow the intervals.

    Raises InvalidInput for records on two sides, unless they are to be left out of the later one, and for names on two sides.
    """
    seen: dict[bytes, int] = {}
    width = narrowest(parts)
    kept, whole, samples, notes = [], [], [], []
    for part in parts:
        before = len(seen)
        found = np.array(
            [seen.setdefault(digest, len(seen)) for digest in digests(part, width)], dtype=np.int64
        )
        twice = found < before
        if twice.any():
            told = (
                f"{int(twice.sum()):,} of {len(part):,} {part.what} are also on another side, record {int(np.argmax(twice))} of {part.what} "
                "first"
            )
            if overlap == "refuse":
                raise InvalidInput(
                    f"{told}: nobody can be both. Give each record once; where these are other people's records with the same values, "
                    "overlap='leave out' leaves them out of the later side"
                )
            if twice.all():
                raise InvalidInput(f"{told}: none are left")
            notes.append(f"{told}, and left out there")
            part, found = some_of(part, np.flatnonzero(~twice)), found[~twice]
        once = np.sort(np.unique(found, return_index=True)[1])
        if len(once) < len(found):
            notes.append(
                f"{len(found) - len(once):,} of {len(found):,} {part.what} are copies of others: each record counts once, and its copies are in "
                "the training of a shadow model together"
            )
        whole.append(part)
        kept.append(part if len(once) == len(found) else some_of(part, once))
        samples.append(found)
    _check_names(kept)
    return Distinct(tuple(kept), tuple(whole), np.concatenate(samples), notes)


def some_of(part: Records, ids: np.ndarray) -> Records:
    """The records at ``ids`` of a side."""

    def of(values: list[Any] | None) -> list[Any] | None:
        return None if values is None else [values[i] for i in ids.tolist()]

    return replace(
        part,
        given=rows_of(part.given, ids),
        inputs=rows_of(part.inputs, ids),
        labels=None if part.labels is None else part.labels[ids],
        keys=of(part.keys),
        group=of(part.group),
        table=None if part.table is None else part.table.take(ids),
        places=part.places[ids],
        about=None if part.about is None else part.about[ids],
    )


def _check_names(parts: Sequence[Records]) -> None:
    """Raises InvalidInput for a name that two records have, where somebody gave names."""
    seen: dict[str, str] = {}
    for part in parts:
        for key in part.keys if part.keys is not None and part.named else ():
            if key in seen:
                raise InvalidInput(
                    f"{seen[key]} and {part.what} both have the record {key!r}; give each record once, by a name of its own"
                )
            seen[key] = part.what


_WIDTHS = ("float64", "float32", "float16", "bfloat16")
"""Floating-point numbers, the more precise first."""


def narrowest(parts: Sequence[Records]) -> str:
    """The least precise floating-point numbers that a side has: the same record looks as they do on another one once it is rounded so."""
    return max((width for part in parts for width in _widths(part)), key=_WIDTHS.index, default=_WIDTHS[0])


def _widths(part: Records) -> Iterator[str]:
    inputs = part.inputs
    if part.labels is None:
        yield from _within(inputs[0] if size_of(inputs) else None)
    elif hasattr(inputs, "columns"):
        kinds = inputs.dtypes if isinstance(inputs, pl.DataFrame) else [inputs[name].dtype for name in inputs]
        yield from filter(None, map(_width, kinds))
    else:
        yield from _within(inputs)


def _within(value: Any) -> Iterator[str]:
    """Those of whatever has some in a record."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _within(each)
    elif hasattr(value, "dtype"):
        width = _width(value.dtype)
        if width:
            yield width


def _width(dtype: Any) -> str | None:
    """float32 for NumPy's, torch's, Polars' and the nullable one of pandas; None for what is no floating-point number."""
    name = str(dtype).rpartition(".")[2].casefold()
    return name if name in _WIDTHS else None


def _rounded(values: np.ndarray, width: str) -> np.ndarray:
    """Numbers as float64, as near as those of that width are."""
    if width == "float64" or values.dtype.kind != "f":
        return values.astype(np.float64)
    if width == "bfloat16":
        import torch

        return torch.from_numpy(values.astype(np.float32)).bfloat16().double().numpy()
    with np.errstate(over="ignore"):
        return values.astype(width).astype(np.float64)


def digests(part: Records, width: str = _WIDTHS[0]) -> list[bytes]:
    """A digest of each record, its features and its label: equal for records that are the same, whatever the type of their numbers.

    Floating-point numbers are compared as those of ``width`` see them.
    """
    inputs = part.inputs
    if part.labels is None:
        first = size_of(inputs) and _digest(inputs[0], width)
        if first and first != _digest(inputs[0], width):
            raise InvalidInput(
                f"record 0 of {part.what}, read twice, is another one: the data draws at random, as augmentation does; give it without"
            )
        return [_digest(inputs[i], width) for i in range(len(part))]
    labels = part.labels.tolist()
    if hasattr(inputs, "tocsr"):
        ends = zip(inputs.indptr[:-1].tolist(), inputs.indptr[1:].tolist(), labels, strict=True)
        return [
            _digest(((inputs.indices[first:last], inputs.data[first:last]), label), width)
            for first, last, label in ends
        ]
    if hasattr(inputs, "columns"):
        columns = [_values(inputs[name], width) for name in inputs.columns]
        return [_digest(row) for row in zip(*columns, labels, strict=True)]
    values = (
        _values(inputs, width) if hasattr(inputs, "to_list") else plain(inputs)
    )  # of one column of a frame
    return [_digest((row, label), width) for row, label in zip(values, labels, strict=True)]


def _values(column: Any, width: str) -> list[Any]:
    """The values of a frame's column, rounded where they are floating-point numbers."""
    if _width(column.dtype) is None:
        return list(column.to_list())
    missing = column.is_null() if isinstance(column, pl.Series) else column.isna()
    rounded = _rounded(np.asarray(column.to_numpy(), dtype=np.float64), width).tolist()
    return [None if lacks else value for value, lacks in zip(rounded, missing.to_list(), strict=True)]


def _digest(value: Any, width: str = _WIDTHS[0]) -> bytes:
    sink = hashlib.blake2b(digest_size=16)
    _feed(sink, value, width)
    return sink.digest()


def _feed(sink: Any, value: Any, width: str) -> None:
    if isinstance(value, Mapping):
        value = [part for name in sorted(map(str, value)) for part in (name, value[name])]
    if isinstance(value, (list, tuple)):
        sink.update(f"[{len(value)}".encode())
        for each in value:
            _feed(sink, each, width)
        return
    value = plain(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        sink.update(f"({value.shape}".encode())
        sink.update((np.ascontiguousarray(_rounded(value, width)) + 0.0).tobytes())
        return
    if isinstance(value, (float, np.floating)) and width != _WIDTHS[0]:
        value = float(_rounded(np.array(value, dtype=np.float64), width))
    if isinstance(value, (bool, int, float, np.number)):
        with contextlib.suppress(OverflowError, ValueError):
            value = float(value) + 0.0  # -0.0 is 0.0
    text = value.tobytes() if hasattr(value, "tobytes") else repr(value).encode("utf-8", "surrogatepass")
    sink.update(f"<{len(text)}".encode() + text)
