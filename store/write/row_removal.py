"""Listed data files without the rows of some samples: what there is of them, and copies that lack it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..files.filesystem import Files
from ..format.manifest import DataFile
from ..read.data_rows import open_rows
from .table_file import TableFile


@dataclass(frozen=True)
class Held:
    """How many ``rows`` a file has of some samples, and which of them are ``members`` there."""

    rows: int
    members: frozenset[int]


class Holdings:
    """What data files hold of ``samples``. Each file is looked into once, however many runs share it: none ever changes."""

    def __init__(self, files: Files, samples: Collection[int]) -> None:
        self._files = files
        self._wanted = pa.array(sorted(samples), pa.int32())
        self._groups: dict[str, dict[int, Held]] = {}

    def of(self, file: DataFile) -> Held:
        """What a listed file has; of a shared one in its owner's part. Raises CorruptLake as `open_rows`."""
        if file.path not in self._groups:
            self._groups[file.path] = self._look(file)
        groups = self._groups[file.path]
        own = set(groups)
        if file.shared is not None:
            first = file.shared.first_group
            own &= set(range(first, first + file.shared.groups))
        return Held(
            sum(groups[group].rows for group in own),
            frozenset().union(*(groups[group].members for group in own)),
        )

    def _look(self, file: DataFile) -> dict[int, Held]:
        """What each row group of a file has, where it has something."""
        found = {}
        with open_rows(self._files, file) as (parquet, _):
            names = [name for name in ("sample_id", "member") if name in parquet.schema_arrow.names]
            for group in range(parquet.num_row_groups):
                if _may_hold(parquet, group, self._wanted):
                    part = parquet.read_row_group(group, columns=names)
                    part = part.filter(pc.is_in(part["sample_id"], self._wanted))
                    members = part.filter(part["member"])["sample_id"].to_pylist() if len(names) > 1 else []
                    if len(part):
                        found[group] = Held(len(part), frozenset(members))
        return found


def copy_without(files: Files, file: DataFile, samples: Collection[int], path: str) -> DataFile:
    """Write the rows of a file of one run's, or of an experiment's, to ``path`` without those of ``samples``."""
    with open_rows(files, file) as (parquet, groups):
        out = TableFile(files, file.table, path, parquet.schema_arrow)
        try:
            for group in groups:
                out.write(rows_without(parquet.read_row_group(group), samples))
            return out.close()
        except BaseException:
            out.abort()
            raise


def rows_without(rows: pa.Table, samples: Collection[int]) -> pa.Table:
    """A table less the rows of ``samples``."""
    wanted = pa.array(sorted(samples), pa.int32())
    return rows.filter(pc.invert(pc.is_in(rows["sample_id"], wanted)))


def sha_without(file: DataFile, samples: Collection[int]) -> str:
    """What stands for the rows of a shared file's part once ``samples`` are gone from it."""
    text = f"{file.sha256} without {','.join(map(str, sorted(samples)))}"
    return hashlib.sha256(text.encode()).hexdigest()


def _may_hold(parquet: pq.ParquetFile, group: int, wanted: pa.Array) -> bool:
    """False where the statistics of a row group say that none of the samples is in it."""
    described = parquet.metadata.row_group(group)
    column = described.column(parquet.schema_arrow.names.index("sample_id"))
    ids = column.statistics if column.path_in_schema == "sample_id" else None
    if ids is None or not ids.has_min_max:
        return True
    known = wanted.to_numpy()
    return bool(np.any((known >= ids.min) & (known <= ids.max)))
