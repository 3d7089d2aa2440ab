"""The epochs of a run before it commits: one Arrow file an epoch, cut into blocks of samples.

A trace arrives epoch by epoch and is kept sample by sample. Turning it over needs one value of every epoch at
hand; because batch b of every file holds the same `BLOCK` sample ids, it is done block by block, and neither
writing nor turning over ever holds more than a few blocks in memory, however many samples and epochs there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import CorruptLake
from ..files.filesystem import Files
from ..format.schema import TRACE_ROW_GROUP

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
