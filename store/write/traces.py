"""The traces of one run and source on disk: one row a sample, written in pieces that bound the memory.

Epochs that come one by one are staged, each in a file of its own, and laid out sample by sample when all are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import CorruptLake, in_one_line
from ..files.faults import removed_at_work
from ..files.filesystem import Files
from ..format.manifest import DataFile
from ..format.schema import RUN, TRACE_ROW_GROUP, TRACES
from ..format.tables import with_run
from .given_rows import Values
from .table_file import write_parts

Trace = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]
"""Values (samples, epochs), and which of them are there."""

Traces = Iterator[tuple[npt.NDArray[np.int64], dict[str, Trace]]]
"""(sample ids, their traces) in the order of ids, as many as fit in memory at a time."""

BLOCK = TRACE_ROW_GROUP
"""Sample ids a block: a block becomes about one row group."""

_LAID_OUT_BYTES = 64 << 20
"""Values of a trace that are held at once while it is laid out."""


def write_traces(
    files: Files, path: str, run: str, source: str, members: npt.NDArray[np.bool_], traces: Traces
) -> DataFile:
    """Write one row a sample of a run. ``members`` is boolean over all samples of the experiment."""
    rows = (with_run(_rows(source, ids, members, part), run) for ids, part in traces)
    return write_parts(files, "traces", path, pa.schema([RUN, *TRACES]), rows)


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
            columns[field.name] = _lists(*traces[field.name])
        elif field.name not in columns:
            columns[field.name] = pa.nulls(len(ids), field.type)
    return pa.table(columns, schema=TRACES)


def _lists(values: npt.NDArray[np.float32], there: npt.NDArray[np.bool_]) -> pa.Array:
    """A list a row; elements that are not there are NULL."""
    bits = None
    if not there.all():
        bits = pa.py_buffer(np.packbits(there.ravel(), bitorder="little"))
    flat = pa.Array.from_buffers(pa.float32(), values.size, [bits, pa.py_buffer(values)])
    return pa.ListArray.from_arrays(np.arange(0, values.size + 1, values.shape[1], dtype=np.int32), flat)


def given_traces(
    traces: Mapping[str, Values], sample_id: npt.NDArray[np.int64], held: npt.NDArray[np.bool_]
) -> Traces:
    """Whole traces (rows, epochs) of distinct samples ``sample_id`` (rows,), in any order; of those in ``held`` (N,) only."""
    order = None if (sample_id[1:] > sample_id[:-1]).all() else np.argsort(sample_id)
    sorted_ids = sample_id if order is None else sample_id[order]
    for ids, _, _ in _blocks(held, sum(values.shape[1] for values in traces.values())):
        start = int(np.searchsorted(sorted_ids, ids[0]))
        rows: slice | npt.NDArray[np.intp] = slice(start, start + len(ids))
        if not np.array_equal(sorted_ids[rows], ids):  # some of the samples given are not held
            rows = np.searchsorted(sorted_ids, ids)
        wanted = rows if order is None else order[rows]
        with np.errstate(over="ignore"):  # beyond float32 is infinite, as for an epoch
            # A copy: rows wait until they fill a row group, and the caller may use the array again.
            part = {name: np.array(v[wanted], dtype=np.float32, order="C") for name, v in traces.items()}
        yield ids, {name: (values, np.ones(values.shape, dtype=bool)) for name, values in part.items()}


class StagedTrace:
    """The trace of one source of a run, as far as its epochs have come; each lies in a file of its own below ``folder``."""

    def __init__(self, files: Files, folder: str, source: str, samples: int) -> None:
        self._files, self._start = files, f"{folder}/{source}"
        self._held = np.zeros(samples, dtype=bool)
        self.paths: dict[int, str] = {}
        self.names: set[str] = set()

    def add(
        self, epoch: int, ids: npt.NDArray[np.int64], values: Mapping[str, npt.NDArray[np.float32]]
    ) -> None:
        """Store one epoch. ``ids`` are distinct, in any order."""
        path = f"{self._start}-{epoch:06d}.arrow"
        _write_epoch(self._files, path, len(self._held), ids, values)
        held = self._held.copy()  # others may be in the middle of reading
        held[ids] = True
        self._held = held
        self.paths[epoch] = path
        self.names.update(values)

    def read(self, epoch: int) -> pa.Table:
        """One epoch as it was added, in the order of sample ids."""
        return _read_epoch(self._files, self.paths[epoch], 0, -(-len(self._held) // BLOCK))

    def traces(self, names: set[str]) -> Traces:
        """The traces in ``names``, of epochs 0 to the last, of all samples that an epoch had. What one lacks is not there."""
        paths, length = dict(self.paths), max(self.paths) + 1
        for ids, first, last in _blocks(self._held, length * len(names)):
            values = {name: np.zeros((len(ids), length), dtype=np.float32) for name in names}
            there = {name: np.zeros((len(ids), length), dtype=bool) for name in names}
            for epoch, path in paths.items():
                table = _read_epoch(self._files, path, first, last)
                # Nearly always every sample is in every epoch: then each is where it belongs.
                whole = len(table) == len(ids)
                where = slice(None) if whole else np.searchsorted(ids, table["sample_id"].to_numpy())
                for name in names.intersection(table.column_names):
                    values[name][where, epoch] = table[name].to_numpy()
                    there[name][where, epoch] = True
            yield ids, {name: (values[name], there[name]) for name in names}


def _blocks(held: npt.NDArray[np.bool_], width: int) -> Iterator[tuple[npt.NDArray[np.int64], int, int]]:
    """(ids of samples in ``held`` (N,), the blocks first to last, not counted in, that they are of), with ``width`` values
    of each sample as many as fit in memory at a time."""
    blocks = -(-len(held) // BLOCK)
    step = max(1, _LAID_OUT_BYTES // (BLOCK * width * 4))
    for first in range(0, blocks, step):
        start = first * BLOCK
        ids = start + np.flatnonzero(held[start : start + step * BLOCK])
        if len(ids):
            yield ids, first, min(first + step, blocks)


def _write_epoch(
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


def _read_epoch(files: Files, path: str, first: int, last: int) -> pa.Table:
    """The rows of blocks ``first`` to ``last`` (not counted in) of one stored epoch, in the order of sample ids."""
    try:
        with files.open_input(path) as source:
            reader = pa.ipc.open_file(source)
            return pa.Table.from_batches(
                [reader.get_batch(block) for block in range(first, last)], reader.schema
            )
    except CorruptLake as error:
        raise removed_at_work(files.root, path) from error
    except (pa.ArrowException, OSError) as error:
        raise CorruptLake(
            f"{path} in {files.root} cannot be read: {in_one_line(error)}; collect the run again"
        ) from error
