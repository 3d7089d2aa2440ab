"""Logits and features of runs, read in pieces: the lists of all runs together do not fit into memory."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ...store.errors import CorruptLake, InvalidInput, NotEnoughData
from ...store.format.manifest import DataFile
from ...store.format.records import Run
from ...store.format.schema import ORIGINAL
from ...store.query.kept import place_of
from ...store.read.data_rows import open_rows
from ..remedies import of_audit, of_own_loop
from ..source import Source

Lists = Literal["logits", "features"]
PIECE = 16_384
"""Rows of a piece at most."""

NUMBERS = 2_097_152
"""Numbers in a piece at most, unless 256 rows have more: what is computed from them takes a few times 16 MB."""

NO_LABEL = -1
_COLLECT = {"logits": "--logits float16", "features": "--features"}


@dataclass(frozen=True, eq=False)
class Piece:
    """Some rows of a run's signals: arrays of shape (R,), and ``values`` float32 (R, width).

    ``label`` is -1 where a record has none. Logits are as the model gave them: they may be infinite, never NaN.
    """

    sample_id: npt.NDArray[np.int64]
    query: npt.NDArray[np.int16]
    member: npt.NDArray[np.bool_]
    label: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.sample_id)

    def rows(self, which: npt.NDArray[np.intp] | slice) -> Piece:
        """Some of the rows, in the order given."""
        return Piece(*(getattr(self, field.name)[which] for field in fields(self)))

    def usable(self) -> npt.NDArray[np.bool_]:
        """Which rows have finite values, and a label that is one of the classes."""
        known = (self.label >= 0) & (self.label < self.values.shape[1])
        return np.isfinite(self.values).all(axis=1) & known

    def pieces(self) -> Iterator[Piece]:
        """The rows in pieces of the usual size."""
        size = _rows_a_piece(self.values.shape[1])
        for start in range(0, len(self), size):
            yield self.rows(slice(start, start + size))

    @classmethod
    def joined(cls, pieces: Sequence[Piece]) -> Piece:
        """The rows of one piece or more, of the same width."""
        return cls(
            *(np.concatenate([getattr(piece, field.name) for piece in pieces]) for field in fields(cls))
        )


def logits_of(source: Source, run: Run, *, query: int | None = ORIGINAL) -> Iterator[Piece]:
    """The logits (R, classes) of a run piece by piece, in the order in which they are stored.

    ``query`` chooses one view of the records, None all. Rows without logits are left out: a run that kept none yields
    nothing (`need_lists` says so). Raises CorruptLake for a file that cannot be read.
    """
    return lists_of(source, run, "logits", query=query)


def lists_of(source: Source, run: Run, column: Lists, *, query: int | None = ORIGINAL) -> Iterator[Piece]:
    """The same for either column of lists."""
    columns = ["sample_id", "query", "member", "label", column]
    key = (column, query, place_of(source.now([run])[0], "signals"))
    kept: list[Piece] | None = source.kept.find(key)
    if kept is not None:
        yield from map(_as_read, kept)
        return
    read: list[Piece] | None = []
    with ExitStack() as stack:
        # All at once: a file that is open can be read to its end, even when its run is compacted meanwhile.
        for file, parquet, groups in source.again(lambda: _opened(source, run, stack)):
            rows = _rows_a_piece(_width(parquet.metadata, groups, file.rows, column))
            for batch in parquet.iter_batches(rows, row_groups=groups, columns=columns):
                piece = _piece(batch, column, query, file)
                if not len(piece):
                    continue
                if read is not None and source.kept.allows((column, query), _size(source, piece)):
                    read.append(_alike(source, piece, (column, query, len(read))))
                else:
                    read = None
                yield _as_read(piece)
    if read:
        source.kept.keep(key, read)


def need_lists(source: Source, run: Run, column: Lists = "logits") -> None:
    """Raises NotEnoughData where the run kept no logits (or features), with what to collect."""
    if next(lists_of(source, run, column, query=None), None) is None:
        has_none = f"run {run.run!r} of experiment {source.experiment!r} has no {column}"
        if of_audit(source.lake.experiment(source.experiment)):
            raise NotEnoughData(f"{has_none}; losslake.audit keeps logits and nothing else of a model")
        if not of_own_loop(source.lake.experiment(source.experiment)):
            raise NotEnoughData(f"{has_none}; collect it with {_COLLECT[column]}")
        raise NotEnoughData(
            f"{has_none}; of a training loop of one's own "
            + (
                "run.evaluate keeps them, where the loss is the cross-entropy of a logit a class"
                if column == "logits"
                else "they are not recorded"
            )
        )


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
        found.member[at], found.label[at] = piece.member[rows], piece.label[rows]
        found.values[at] = piece.values[rows]
    return found if found is not None else _blank(sample_id, 1)


def shadow_logits(source: Source, classes: int) -> Iterator[tuple[str, Piece]]:
    """Every shadow run's name with a piece of its logits of the records as they are; the target is none of them.

    Shadow runs without logits are passed over: `left_out` counts them. Rows whose label is none of the classes come
    too, those of canaries' candidates do not. Raises InvalidInput where a run has other classes than the target.
    """
    shadows = source.need_shadows()
    every = np.arange(source.lake.experiment(source.experiment).samples)
    rows, over = source.passed_over(shadows, every)
    candidates = np.flatnonzero(source.candidates())
    for row, run in enumerate(shadows):
        skipped = np.union1d(over[rows == row], candidates)
        for piece in logits_of(source, run):
            if len(skipped):
                piece = piece.rows(np.flatnonzero(~np.isin(piece.sample_id, skipped)))
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


def _opened(source: Source, run: Run, stack: ExitStack) -> list[tuple[DataFile, pq.ParquetFile, list[int]]]:
    """The run's files of signals, open until the stack ends, and which of their row groups are the run's."""
    listed = [file for file in source.now([run])[0].files if file.table == "signals"]
    return [(file, *stack.enter_context(open_rows(source.lake.files, file))) for file in listed]


def _width(metadata: pq.FileMetaData, groups: list[int], rows: int, column: Lists) -> int:
    """How many numbers each of the ``rows`` of some row groups has in a column of lists, on average."""
    found = [metadata.row_group(i) for i in groups]
    chunks = [group.column(i) for group in found for i in range(group.num_columns)]
    numbers = sum(chunk.num_values for chunk in chunks if chunk.path_in_schema.startswith(f"{column}."))
    return int(numbers // max(rows, 1))


def _size(source: Source, piece: Piece) -> int:
    """Bytes that all runs' rows of this kind take, but for what they have alike."""
    rows = sum(file.rows for run in source.runs for file in run.files if file.table == "signals")
    return int((piece.values.nbytes + piece.member.nbytes) / len(piece) * rows)


def _alike(source: Source, piece: Piece, key: Hashable) -> Piece:
    """A piece whose samples, queries and labels are those of the first run's, where they are the same: as a rule they are."""
    first: Piece | None = source.kept.find(key)
    if first is None:
        source.kept.keep(key, piece)
        return piece
    shared = ("sample_id", "query", "label")
    if not all(np.array_equal(getattr(piece, name), getattr(first, name)) for name in shared):
        return piece
    return replace(piece, **{name: getattr(first, name) for name in shared})


def _as_read(piece: Piece) -> Piece:
    """A piece with values in single precision, which may lie in half."""
    return replace(piece, values=piece.values.astype(np.float32, copy=False))


def _rows_a_piece(width: int) -> int:
    return min(PIECE, max(256, NUMBERS // max(width, 1)))


def _piece(batch: pa.RecordBatch, column: Lists, query: int | None, file: DataFile) -> Piece:
    import pyarrow.compute as pc

    kept = pc.is_valid(batch[column])
    if query is not None:
        kept = pc.and_(kept, pc.equal(batch["query"], query))
    if not pc.all(kept, min_count=0).as_py():
        batch = batch.filter(kept)
    lists = batch[column]
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    width = len(flat) // max(len(batch), 1)
    if len(batch) and not pc.all(pc.equal(pc.list_value_length(lists), width)).as_py():
        raise CorruptLake(
            f"{file.path} has {column} of several widths; a run's are all as wide as its model's output"
        )
    return Piece(
        sample_id=batch["sample_id"].to_numpy().astype(np.int64),
        query=batch["query"].to_numpy(),
        member=batch["member"].to_numpy(zero_copy_only=False),
        label=batch["label"].fill_null(NO_LABEL).to_numpy(),
        values=flat.reshape(len(batch), width),
    )


def _blank(sample_id: npt.NDArray[np.integer], classes: int) -> Piece:
    rows = len(sample_id)
    return Piece(
        sample_id=sample_id.astype(np.int64),
        query=np.zeros(rows, np.int16),
        member=np.zeros(rows, bool),
        label=np.full(rows, NO_LABEL, np.int32),
        values=np.full((rows, classes), np.nan, np.float32),
    )
