"""Compaction: the small files of many committed runs become few that they share.

A query over thousands of runs spends its time on opening files. Nothing that a query sees changes: a run's rows and
their order stay, and its manifest, replaced in one atomic step, lists the shared file in place of its own. The old files
stay for readers that are in the middle of them, until garbage collection.

It may be killed at any instant, and runs beside readers and writers; a claim keeps a second compaction out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import CorruptLake, LosslakeError
from ..format import manifest, paths
from ..format.manifest import DataFile, HashingFile, Shared, files_to_json, sha256_of
from ..format.paths import trace_source
from ..format.schema import RUN, parquet_writer
from ..format.tables import with_run
from ..read.catalogue import Catalogue
from ..read.data_rows import open_rows
from ..write import leases
from ..write.index import write_index
from ..write.leases import Claim, claim
from ..write.table_file import check_there, read_group, rows_without, sha_without

SMALL = 16 << 20
"""Bytes of a file from which on it stays as it is: opening one costs little of the time of reading it."""

LEAST = 16
"""Small files of one kind from which on compaction is worth it."""

MOST_RUNS = 256
"""Runs that share a file. Who wants one run's rows reads the file's footer, which grows with their number."""

MOST_BYTES = 128 << 20
"""Bytes of a shared file, about."""


@dataclass(frozen=True)
class Part:
    """A file that a run lists."""

    run: str
    file: DataFile


@dataclass(frozen=True)
class Compacted:
    """What was done in an experiment: ``runs`` that share files now, and files and bytes before and after.

    ``left_out`` are sentences about files that are damaged, which stay as they are.
    """

    experiment: str
    runs: int
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    left_out: tuple[str, ...]


def compact(
    lake: Catalogue,
    experiment: str,
    *,
    small: int = SMALL,
    least: int = LEAST,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Compacted:
    """Let runs share files where at least ``least`` files below ``small`` bytes hold the same kind of rows.

    Rows are copied a row group at a time. ``told(done, total)`` says after each new file how many small ones are done.
    Doing it again does nothing. Raises OlderFormat for a lake that has to be migrated first, LosslakeError where another
    process compacts the experiment, CorruptLake where the new file is lost before all runs list it: then none does.
    """
    lake.experiment(experiment)
    runs: set[str] = set()
    before: dict[str, int] = {}
    after: dict[str, int] = {}
    left_out: dict[str, str] = {}
    with claim(lake.files, f"experiment={experiment}") as held:
        batches = list(_plan(lake, experiment, small, least, left_out))
        total = sum(map(_count_files, batches))
        done = 0
        for parts in batches:
            whole = _whole(lake, parts, left_out)
            if _count_files(whole) > 1:
                packed = pack(lake, experiment, whole)
                held.renew()
                moved = _replace(lake, experiment, packed, held)
                runs |= moved
                if moved:
                    before |= {part.file.path: (part.file.shared or part.file).bytes for part in whole}
                    after |= {new.path: new.shared.bytes for _, new in packed if new.shared}
                else:  # others replaced all of them in the meantime
                    lake.files.delete(packed[0][1].path)
            done += _count_files(parts)
            told(done, total)
        held.check()  # else others have replaced what is missing here
    lake.changed(experiment, rewritten=True)
    if runs:
        with contextlib.suppress(LosslakeError):  # it costs time where there is none, and no more
            write_index(lake.files, experiment, wait=True)
    return Compacted(
        experiment,
        len(runs),
        len(before),
        len(after),
        sum(before.values()),
        sum(after.values()),
        tuple(left_out.values()),
    )


# --- what to pack --------------------------------------------------------------------------------------------


def _plan(
    lake: Catalogue, experiment: str, small: int, least: int, left_out: dict[str, str]
) -> Iterator[list[Part]]:
    """What becomes one file each: parts with rows of one kind and the same columns. Damaged files go to ``left_out``."""
    parts = [Part(run.run, file) for run in lake.runs(experiment) for file in run.files]
    sharing: dict[str, list[Part]] = {}
    for part in parts:
        sharing.setdefault(part.file.path, []).append(part)
    kinds: dict[str, list[Part]] = {}
    for part in parts:
        runs, size = len(sharing[part.file.path]), sum(other.file.bytes for other in sharing[part.file.path])
        # Shared files with many runs are left, else their rows would be copied again and again.
        if size < small and runs <= MOST_RUNS // 2:
            kinds.setdefault(_kind_of(part.file), []).append(part)
    for _, of_kind in sorted(kinds.items()):
        if _count_files(of_kind) < least:
            continue
        alike: dict[pa.Schema, list[Part]] = {}  # runs keep their logits in half or in single precision
        for part in of_kind:
            try:
                alike.setdefault(_schema_of(lake, part.file), []).append(part)
            except CorruptLake as error:
                left_out[part.file.path] = str(error)
        for same in alike.values():
            if _count_files(same) >= least:
                yield from _batches(same)


def _kind_of(file: DataFile) -> str:
    """signals, eval or train."""
    return trace_source(file.path) if file.table == "traces" else file.table


def small_of_a_kind(
    parts: Iterable[Part], columns: Callable[[Part], pa.Schema]
) -> tuple[list[list[Part]], list[Part]]:
    """Parts of files that are no run's but their own: those that become one file each, as by `compact`, and the others."""
    kinds: dict[tuple[str, pa.Schema], list[Part]] = {}
    others = []
    for part in parts:
        if part.file.bytes < SMALL:
            kinds.setdefault((_kind_of(part.file), columns(part)), []).append(part)
        else:
            others.append(part)
    batches: list[list[Part]] = []
    for alike in kinds.values():
        if len(alike) >= LEAST:
            batches += _batches(alike)
        else:
            others += alike
    return batches, others


def _count_files(parts: Sequence[Part]) -> int:
    return len({part.file.path for part in parts})


def _batches(parts: Sequence[Part]) -> Iterator[list[Part]]:
    batch: list[Part] = []
    size = 0
    for part in parts:
        if batch and (len(batch) == MOST_RUNS or size + part.file.bytes > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(part)
        size += part.file.bytes
    yield batch


def _schema_of(lake: Catalogue, file: DataFile) -> pa.Schema:
    """The columns of a run's rows."""
    with open_rows(lake.files, file) as (parquet, _):
        return pa.schema([field for field in parquet.schema_arrow if field.name != RUN.name])


# --- packing -------------------------------------------------------------------------------------------------


def _whole(lake: Catalogue, parts: Sequence[Part], left_out: dict[str, str]) -> list[Part]:
    """The parts whose files are as they were written: a copy of a damaged file would have a checksum that is right."""
    for path, part in {part.file.path: part for part in parts}.items():
        expected = (part.file.shared or part.file).sha256
        try:
            if sha256_of(lake.files, path) != expected:
                left_out[path] = f"{path} was changed after it was written (SHA-256 differs)"
        except LosslakeError as error:
            left_out[path] = str(error)
    return [part for part in parts if part.file.path not in left_out]


def pack(
    lake: Catalogue, experiment: str, parts: Sequence[Part], *, without: Collection[int] = ()
) -> list[tuple[Part, DataFile]]:
    """Write one file with the rows of all parts, each in row groups of its own; what a manifest lists for each part.

    The rows are of one kind and have the same columns. Those of the samples ``without`` are left out.
    """
    kind, schema = _kind_of(parts[0].file), _schema_of(lake, parts[0].file)
    token = leases.token(lake.files)
    path = (
        paths.packed_signals(experiment, token)
        if kind == "signals"
        else paths.packed_traces(experiment, token, kind)
    )
    counts: list[list[int]] = []
    with lake.files.create(path) as raw:
        file = HashingFile(raw)
        with parquet_writer(file, pa.schema([RUN, *schema])) as writer:
            for part in parts:
                counts.append([])
                there = 0
                for rows in _row_groups(lake, part.file, schema):
                    there += len(rows)
                    kept = rows_without(rows, without) if without else rows
                    if len(kept):
                        named = with_run(kept, part.run)
                        writer.write_table(named, row_group_size=len(named))
                        counts[-1].append(len(named))
                if there != part.file.rows:
                    raise CorruptLake(
                        f"{part.file.path} has {there} rows, its manifest says {part.file.rows}"
                    )
    with lake.files.open_input(path) as written:
        sizes = _group_sizes(pq.read_metadata(written))
    rows, group = 0, 0
    packed = []
    for part, count in zip(parts, counts, strict=True):
        shared = Shared(sum(map(sum, counts)), file.bytes, file.sha256(), rows, group, len(count))
        size = sum(sizes[group : group + len(count)])
        # What stands for the rows stays as long as the rows do.
        stands = part.file.sha256 if sum(count) == part.file.rows else sha_without(part.file, without)
        listed = replace(part.file, path=path, rows=sum(count), bytes=size, sha256=stands, shared=shared)
        packed.append((part, listed))
        rows, group = rows + sum(count), group + len(count)
    return packed


def _row_groups(lake: Catalogue, file: DataFile, schema: pa.Schema) -> Iterator[pa.Table]:
    # What fails while they are written says nothing of this file, and is raised outside of `open_rows`.
    with open_rows(lake.files, file) as (parquet, groups):
        for group in groups:
            yield read_group(parquet, group, schema.names)


def _group_sizes(footer: pq.FileMetaData) -> list[int]:
    """Bytes of each row group on disk."""
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    return [sum(group.column(i).total_compressed_size for i in range(group.num_columns)) for group in groups]


def _replace(
    lake: Catalogue, experiment: str, packed: Sequence[tuple[Part, DataFile]], held: Claim
) -> set[str]:
    """Let the runs' manifests list the new file in place of the old ones; the runs whose did list those still.

    Raises CorruptLake where the new file is lost; then they list the old ones, which stay until garbage is collected.
    """
    unmoved = f"experiment {experiment!r} is as it was"
    check_there(lake.files, [packed[0][1]], unmoved)
    moved = _exchange(lake, experiment, [(part.run, part.file, new) for part, new in packed], held)
    try:
        check_there(lake.files, [packed[0][1]], unmoved)
    except CorruptLake:
        _exchange(lake, experiment, [(part.run, new, part.file) for part, new in packed], held)
        raise
    return moved


def _exchange(
    lake: Catalogue, experiment: str, files: Sequence[tuple[str, DataFile, DataFile]], held: Claim
) -> set[str]:
    """Let the manifest of each run list the second file for the first; the runs whose manifests did list that."""
    contents: dict[str, dict[str, Any]] = {}
    moved = set()
    for run, old, new in files:
        path = paths.run_manifest(experiment, run)
        gone, entry = files_to_json((old, new))
        content = contents.get(path) or manifest.load(lake.files, path)
        if gone in content["files"]:
            listed = [entry if file == gone else file for file in content["files"]]
            contents[path] = {**content, "files": listed}
            moved.add(run)
    lake.files.put_all(
        {path: manifest.dump(content) for path, content in contents.items()}, before=held.check
    )
    return moved
