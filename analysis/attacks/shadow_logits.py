"""Logits of the target's records, and of shadow runs one after the other, for attacks that learn from the latter."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import numpy.typing as npt

from ...store.errors import InvalidInput, NotEnoughData
from ..source import Source
from .logits import NO_LABEL, Piece, logits_of, need_lists


def target_logits(source: Source, sample_id: npt.NDArray[np.integer]) -> Piece:
    """The target's logits of these samples as they are, in their order: NaN and label -1 where it kept none.

    Raises NotEnoughData where it kept none at all.
    """
    target = source.need_target_table("signals")
    need_lists(source, target)
    place = np.full(source.lake.experiment(source.experiment).samples, -1)
    place[sample_id] = np.arange(len(sample_id))
    found: Piece | None = None
    for piece in logits_of(source, target):
        if found is None:
            found = _blank(sample_id, piece.values.shape[1])
        rows = np.flatnonzero(place[piece.sample_id] >= 0)
        at = place[piece.sample_id[rows]]
        found.member[at], found.label[at], found.values[at] = (
            piece.member[rows],
            piece.label[rows],
            piece.values[rows],
        )
    return found if found is not None else _blank(sample_id, 1)


def shadow_logits(source: Source, classes: int) -> Iterator[tuple[str, Piece]]:
    """Every shadow run's name with a piece of its logits of the records as they are; the target is none of them.

    Shadow runs without logits are passed over: `left_out` counts them. Rows whose label is none of the classes come
    too. Raises InvalidInput where a run has other classes than the target.
    """
    for run in source.need_shadows():
        for piece in logits_of(source, run):
            if piece.values.shape[1] != classes:
                raise InvalidInput(
                    f"run {run.run!r} of experiment {source.experiment!r} has logits of {piece.values.shape[1]} classes, "
                    f"the target {source.target_name!r} of {classes}; attack it with shadow runs of its own kind"
                )
            yield run.run, piece


def left_out(source: Source, seen: Collection[str]) -> tuple[str, ...]:
    """A note with the number of shadow runs that are not among those ``seen``, none where all are.

    Raises NotEnoughData where none was.
    """
    shadows = source.need_shadows()
    if not seen:
        raise NotEnoughData(
            f"none of the {len(shadows)} shadow runs of experiment {source.experiment!r} has logits; collect them with "
            "--logits float16"
        )
    missing = len(shadows) - len(seen)
    return (f"{missing} of {len(shadows)} shadow runs have no logits and are left out",) if missing else ()


def _blank(sample_id: npt.NDArray[np.integer], classes: int) -> Piece:
    rows = len(sample_id)
    return Piece(
        sample_id=sample_id.astype(np.int64),
        query=np.zeros(rows, np.int16),
        member=np.zeros(rows, bool),
        label=np.full(rows, NO_LABEL, np.int32),
        values=np.full((rows, classes), np.nan, np.float32),
    )
