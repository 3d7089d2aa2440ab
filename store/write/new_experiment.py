"""Writing a new experiment: its samples, their pictures, and last the manifest that makes them one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import InvalidInput
from ..files.filesystem import Files
from ..format import manifest, paths
from ..format.contents import DATASET, check_said
from ..format.manifest import DataFile
from ..format.records import FORGOTTEN
from ..format.schema import PICTURES, SAMPLES
from . import leases
from .table_file import check_there, lost_files, write_table

POOLS = ("audit", "population")

_DIGESTED_ROWS = 65_536
"""Values that are turned into text at a time for a digest."""

_RESERVED = ("experiment", "run", *SAMPLES.names)


def write_experiment(
    files: Files,
    name: str,
    table: pa.Table,
    digest: str,
    dataset: dict[str, Any],
    pictures: pa.Array | None,
) -> None:
    """Write the tables of an experiment and the manifest that makes it one, unless another process made it meanwhile.

    ``table`` are its samples as `complete_samples` gives them, ``pictures`` PNG bytes a sample. Raises InvalidInput for
    pictures that are none, or a ``dataset`` that cannot be stored, CorruptLake where a file that was written is lost: the experiment is not in the lake then.
    """
    try:
        check_said(DATASET, dataset)
    except ValueError as error:
        raise InvalidInput(f"what is said of the data set of {name!r} cannot be stored: {error}") from error
    token = leases.token(files)
    tables = {"samples": (paths.samples_folder(name), table)}
    if pictures is not None:
        tables["pictures"] = (paths.pictures_folder(name), _pictures_table(table, pictures))
    written: list[DataFile] = []
    claimed = False
    try:
        for kind, (folder, rows) in tables.items():
            written.append(write_table(files, kind, f"{folder}/{token}.parquet", rows))
        content = {
            "kind": "experiment",
            "experiment": name,
            "samples": len(table),
            "created": manifest.now(),
            "digest": digest,
            "dataset": dataset,
            "files": manifest.files_to_json(tuple(written)),
        }
        data = manifest.dump(content)
        unmade = f"experiment {name!r} is not made"
        check_there(files, written, unmade)
        claimed = True  # from here on the manifest may be there, whatever goes wrong
        claimed = files.put_if_absent(paths.experiment_manifest(name), data)
        if claimed and lost_files(files, written):
            _withdraw(files, name, written, unmade)
    finally:
        if not claimed:  # it failed, or another process made it in the meantime and theirs counts
            for file in written:
                files.delete(file.path)


def _withdraw(files: Files, name: str, written: list[DataFile], unmade: str) -> None:
    """Take the manifest back where it lists what is lost; not where somebody has forgotten samples since."""
    path = paths.experiment_manifest(name)
    listed = {file["path"] for file in manifest.load(files, path)["files"]}
    if listed.intersection(lost_files(files, written)):
        files.delete(path)
        check_there(files, written, unmade)


def _pictures_table(samples: pa.Table, pictures: pa.Array) -> pa.Table:
    try:
        return pa.table({"sample_id": samples["sample_id"], "png": pictures}, schema=PICTURES)
    except (pa.ArrowException, TypeError) as error:
        raise InvalidInput(
            f"pictures must be PNG bytes, one a sample ({len(samples)} of them): {error}"
        ) from error


def complete_samples(samples: pa.Table) -> pa.Table:
    """The fixed columns, filled in where absent, and then the user's. Raises InvalidInput naming what is wrong."""
    rows = len(samples)
    if rows == 0:
        raise InvalidInput("an experiment needs at least one sample")
    _check_column_names(samples.column_names)
    given = {name: samples[name] for name in samples.column_names}
    expected = pa.chunked_array([np.arange(rows, dtype=np.int32)])
    columns = {"sample_id": expected, "pool": pa.repeat("audit", rows), "key": expected.cast(pa.string())}
    for field in SAMPLES:
        if field.name in given:
            columns[field.name] = _cast(given.pop(field.name), field)
    if not columns["sample_id"].equals(expected):
        raise InvalidInput("sample_id must count 0, 1, 2, ... in the order of the rows")
    columns = {field.name: columns.get(field.name, pa.nulls(rows, field.type)) for field in SAMPLES}
    import pyarrow.compute as pc

    lowest = pc.min(columns["label"]).as_py()
    if lowest is not None and lowest < 0:
        raise InvalidInput(
            f"label {lowest} is out of range: labels count from 0; NULL where a sample has none"
        )
    for pool in columns["pool"].unique().to_pylist():
        if pool not in (*POOLS, FORGOTTEN):  # as it stands in the samples of an experiment
            raise InvalidInput(f"pool must be one of {', '.join(POOLS)}, not {pool!r}")
    for name, column in given.items():
        _check_storable(name, column.type)
    if "zlib_bytes" in given:
        _check_counts("zlib_bytes", given["zlib_bytes"])
    return pa.table(columns | given)


def samples_digest(table: pa.Table) -> str:
    """A digest of the values of a table, whatever its chunks, buffers and the version of Arrow."""
    sink = hashlib.sha256()
    for name in table.column_names:
        column = table[name]
        sink.update(json.dumps([name, str(column.type), len(column)]).encode())
        if pa.types.is_integer(column.type) or column.type in (pa.float32(), pa.float64()):
            values = column.combine_chunks()
            sink.update(np.packbits(values.is_null().to_numpy(zero_copy_only=False)).tobytes())
            sink.update(values.fill_null(0).to_numpy(zero_copy_only=False).tobytes())
        else:
            for text in _json_list(column):
                sink.update(text.encode())
    return sink.hexdigest()


def _json_list(column: pa.ChunkedArray) -> Iterator[str]:
    """The JSON array of a column's values, in pieces: as objects of Python's, a million values take much memory."""
    yield "["
    for start in range(0, len(column), _DIGESTED_ROWS):
        text = json.dumps(column[start : start + _DIGESTED_ROWS].to_pylist(), default=str)
        yield (", " if start else "") + text[1:-1]
    yield "]"


def _check_column_names(names: list[str]) -> None:
    # SQL takes Age and age for one name.
    seen: dict[str, str] = {}
    for name in names:
        lower = name.casefold()
        if lower in seen:
            raise InvalidInput(
                f"two columns of the samples are called {seen[lower]!r} and {name!r}; rename one"
            )
        seen[lower] = name
        if lower in _RESERVED and name not in SAMPLES.names:
            raise InvalidInput(f"a column of the samples is called {name!r}, which the lake needs; rename it")
        if not name or "\0" in name:
            raise InvalidInput(f"a column of the samples is called {name!r}; give it a name")


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    try:
        return column.cast(field.type)
    except pa.ArrowException as error:
        raise InvalidInput(f"the samples' column {field.name!r} must be {field.type}: {error}") from error


def _check_counts(name: str, column: pa.ChunkedArray) -> None:
    import pyarrow.compute as pc

    if not pa.types.is_integer(column.type) and not pa.types.is_null(column.type):
        raise InvalidInput(
            f"the samples' column {name!r} has type {column.type}; give whole numbers: the bytes of the text, compressed"
        )
    lowest = pc.min(column).as_py()
    if lowest is not None and lowest < 1:
        raise InvalidInput(f"the samples' column {name!r} holds {lowest}: a compressed text has bytes")


def _check_storable(name: str, kind: pa.DataType) -> None:
    if pa.types.is_union(kind) or pa.types.is_run_end_encoded(kind) or pa.types.is_interval(kind):
        raise InvalidInput(
            f"the samples' column {name!r} has type {kind}, which Parquet cannot hold; convert it"
        )
