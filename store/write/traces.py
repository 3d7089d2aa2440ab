"""The traces of one run and source on disk: one row a sample, written in pieces that bound the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import CorruptLake
from ..files.filesystem import Files
from ..format.manifest import DataFile
from ..format.schema import TRACE_ROW_GROUP, TRACES
from .given_rows import Values, lists_with_gaps
from .table_file import TableFile

Trace = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_] | None]
"""Values (samples, epochs), and which of them are there; None: all are."""

Piece = Callable[[npt.NDArray[np.int64], int, int], dict[str, Trace]]
"""``piece(ids, first, last)``: the traces of the samples ``ids``, those held in the blocks ``first`` to ``last`` (not
counted in) of the experiment's sample ids."""

_LAID_OUT_BYTES = 64 << 20
"""Values of a trace that are held at once while it is laid out."""


def write_traces(
    files: Files,
    path: str,
    source: str,
    members: npt.NDArray[np.bool_],
    held: npt.NDArray[np.bool_],
    names: Sequence[str],
    length: int,
    piece: Piece,
) -> DataFile:
    """Write one row for every sample in ``held`` (N,), in the order of sample ids.

    ``piece`` gives the traces in ``names``, of ``length`` epochs each.
    """
    out = TableFile(files, "traces", path, TRACES)
    try:
        for ids, traces in pieces(held, names, length, piece):
            out.write(_rows(source, ids, members, traces))
        return out.close()
    except BaseException:
        out.abort()
        raise


def pieces(
    held: npt.NDArray[np.bool_], names: Sequence[str], length: int, piece: Piece
) -> Iterator[tuple[npt.NDArray[np.int64], dict[str, Trace]]]:
    """(sample ids, their traces) of all samples in ``held`` (N,), in the order of ids, as many as fit in memory at a time."""
    blocks = -(-len(held) // BLOCK)
    step = max(1, _LAID_OUT_BYTES // (BLOCK * length * 4 * len(names)))
    for first in range(0, blocks, step):
        start = first * BLOCK
        ids = start + np.flatnonzero(held[start : start + step * BLOCK])
        if len(ids):
            yield ids, piece(ids, first, min(first + step, blocks))


def staged_piece(files: Files, epochs: Mapping[int, str], names: Sequence[str], length: int) -> Piece:
    """Pieces of a trace whose epochs were staged one by one: epoch to path. What an epoch lacks is not there."""

    def piece(ids: npt.NDArray[np.int64], first: int, last: int) -> dict[str, Trace]:
        values = {name: np.zeros((len(ids), length), dtype=np.float32) for name in names}
        there = {name: np.zeros((len(ids), length), dtype=bool) for name in names}
        for epoch, path in epochs.items():
            table = read_epoch(files, path, first, last)
            # Nearly always every sample is in every epoch: then each is where it belongs.
            whole = len(table) == len(ids)
            where = slice(None) if whole else np.searchsorted(ids, table["sample_id"].to_numpy())
            for name in set(names) & set(table.column_names):
                values[name][where, epoch] = table[name].to_numpy()
                there[name][where, epoch] = True
        return {name: (values[name], there[name]) for name in names}

    return piece


def given_piece(traces: Mapping[str, Values], sample_id: npt.NDArray[np.int64]) -> Piece:
    """Pieces of traces (rows, epochs) of distinct samples ``sample_id`` (rows,), in any order."""
    order = None if (sample_id[1:] > sample_id[:-1]).all() else np.argsort(sample_id)
    sorted_ids = sample_id if order is None else sample_id[order]

    def piece(ids: npt.NDArray[np.int64], first: int, last: int) -> dict[str, Trace]:
        start = int(np.searchsorted(sorted_ids, ids[0]))
        rows: slice | npt.NDArray[np.intp] = slice(start, start + len(ids))
        if not np.array_equal(sorted_ids[rows], ids):  # some of the samples given are not held
            rows = np.searchsorted(sorted_ids, ids)
        wanted = rows if order is None else order[rows]
        with np.errstate(over="ignore"):  # beyond float32 is infinite, as for an epoch
            # A copy: rows wait until they fill a row group, and the caller may use the array again.
            return {
                name: (np.array(values[wanted], dtype=np.float32, order="C"), None)
                for name, values in traces.items()
            }

    return piece


def _rows(
    source: str, ids: npt.NDArray[np.int64], members: npt.NDArray[np.bool_], traces: Mapping[str, Trace]
) -> pa.Table:
    columns: dict[str, pa.Array] = {
        "sample_id": pa.array(ids.astype(np.int32)),
        "source": pa.array([source] * len(ids), pa.string()),
        "member": pa.array(members[ids]),
    }
    for field in TRACES:
        if field.name in traces:
            columns[field.name] = lists_with_gaps(*traces[field.name])
        elif field.name not in columns:
            columns[field.name] = pa.nulls(len(ids), field.type)
    return pa.table(columns, schema=TRACES)


BLOCK = TRACE_ROW_GROUP
"""Sample ids a block: a block becomes about one row group."""


def write_epoch(
    files: Files,
    path: str,
    samples: int,
    ids: npt.NDArray[np.int64],
    values: Mapping[str, npt.NDArray[np.float32]],
) -> None:
    """Store one epoch of an experiment with ``samples`` samples. ``ids`` are distinct, in any order."""
    if len(ids) and np.any(ids[1:] < ids[:-1]):
        place = np.full(samples, -1, dtype=np.int64)
        place[ids] = np.arange(len(ids))
        order = place[place >= 0]  # sorts distinct small integers in one pass
        ids = ids[order]
        values = {name: value[order] for name, value in values.items()}
    schema = pa.schema([("sample_id", pa.int32()), *((name, pa.float32()) for name in values)])
    bounds = np.searchsorted(ids, np.arange(0, samples + BLOCK, BLOCK))
    # Not made durable: after a power failure the run is not visible and nobody asks for its epochs.
    with files.create(path, durable=False) as file, pa.ipc.new_file(file, schema) as writer:
        for first, last in pairwise(bounds):
            columns = [ids[first:last].astype(np.int32), *(value[first:last] for value in values.values())]
            writer.write_batch(pa.record_batch([pa.array(column) for column in columns], schema=schema))


def read_epoch(files: Files, path: str, first: int, last: int) -> pa.Table:
    """The rows of blocks ``first`` to ``last`` (not counted in) of one stored epoch, in the order of sample ids."""
    try:
        with files.open_input(path) as source:
            reader = pa.ipc.open_file(source)
            return pa.Table.from_batches(
                [reader.get_batch(block) for block in range(first, last)], reader.schema
            )
    except (pa.ArrowException, OSError) as error:
        raise CorruptLake(f"{path} in {files.root} cannot be read: {error}; collect the run again") from error
