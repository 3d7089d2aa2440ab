"""CSV and Parquet files of strangers, read within the bounds of `room`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from .room import check_room, room_for

_ROW = 16
"""Bytes that a row takes at least, in one array or another, by the time it is a record."""

_BATCH_ROWS = 65_536

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4}
"""Bytes of a value in memory, by what it is in Parquet; 8 of all others."""


def read_csv(path: Path, convert: pyarrow.csv.ConvertOptions | None = None) -> pa.Table:
    """A CSV file, unpacked where its name ends in .gz, as pyarrow reads it.

    Raises InvalidInput where it takes more than it may, and what pyarrow raises for what is no CSV.
    """
    # By one thread: what others were still at when it raises hangs or aborts a process that ends soon after.
    alone = pyarrow.csv.ReadOptions(use_threads=False)
    with _Counted(path) as stream:
        table = pyarrow.csv.read_csv(stream, alone, convert_options=convert)
    check_room(table.nbytes + _ROW * table.num_rows, path)
    return table


class _Counted:
    """The text of a file, unpacked, for pyarrow to read: ends with InvalidInput where what was made of it is too much."""

    def __init__(self, path: Path) -> None:
        self._path, self._text, self._before = path, 0, pa.total_allocated_bytes()
        self._file: Any = pa.OSFile(str(path))
        if path.suffix == ".gz":
            self._file = pa.CompressedInputStream(self._file, "gzip")
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._file.read(1 << 20 if size is None or size < 0 else size)
        self._text += len(data)
        check_room(self._text + max(0, pa.total_allocated_bytes() - self._before), self._path)
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True
        self._file.close()

    def __enter__(self) -> IO[bytes]:
        return self  # type: ignore[return-value]

    def __exit__(self, *_: object) -> None:
        self.close()


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file, or some of its columns, as pyarrow reads it.

    Raises InvalidInput where it takes more than it may, and what pyarrow raises for what is no Parquet, or lacks a column.
    """
    with pq.ParquetFile(path) as parquet:
        schema, metadata = parquet.schema_arrow, parquet.metadata
        for name in columns or ():
            if name not in schema.names:
                raise ValueError(f"no column {name}")
        names = list(schema.names if columns is None else columns)
        check_room(_promised(metadata, names), path)
    wanted = pa.schema([schema.field(name) for name in names], metadata=schema.metadata)
    pieces, taken = [], 0
    for batch in _batches(path, metadata, wanted):
        taken += batch.nbytes + _ROW * len(batch)
        taken += sum(_spelled_out(batch[i], wanted.field(i).type) for i in range(len(names)))
        check_room(taken, path)
        arrays = [
            column.cast(field.type) if column.type != field.type else column
            for column, field in zip(batch.columns, wanted, strict=True)
        ]
        pieces.append(pa.RecordBatch.from_arrays(arrays, schema=wanted))
    return pa.Table.from_batches(pieces, schema=wanted)


def column_batches(path: Path, column: str, most: int) -> Iterator[pa.Array]:
    """A column of a Parquet file, at most so many rows at a time, and as few as keep within bounds."""
    with pq.ParquetFile(path) as parquet:
        rows = min(most, _rows_at_once(path, parquet.metadata, [column]))
        for batch in parquet.iter_batches(batch_size=rows, columns=[column]):
            yield batch.column(0)


def _batches(path: Path, metadata: pq.FileMetaData, wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
    # A text that many rows repeat stands once in the file, and is read as it stands there.
    text = [field.name for field in wanted if _is_text(field.type)]
    nested = [field.name for field in wanted if field.type.num_fields]
    rows = min(_BATCH_ROWS, _rows_at_once(path, metadata, nested))
    with pq.ParquetFile(path, read_dictionary=text) as parquet:
        yield from parquet.iter_batches(batch_size=rows, columns=wanted.names)


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_large_binary(kind)
    )


def _spelled_out(column: pa.Array, kind: pa.DataType) -> int:
    """Bytes of a column of text where each row has a copy of its own; 0 of one that is as it will be."""
    if not pa.types.is_dictionary(column.type) or column.type == kind:
        return 0
    lengths = pc.take(pc.binary_length(column.dictionary), column.indices)
    return int(pc.sum(lengths.cast(pa.int64())).as_py() or 0)


def _leaves(metadata: pq.FileMetaData, names: Sequence[str]) -> Iterator[tuple[int, pq.ColumnChunkMetaData]]:
    """The chunks of columns, and of what is nested in them, with the number of their row group."""
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for i in range(row_group.num_columns):
            chunk = row_group.column(i)
            if any(
                chunk.path_in_schema == name or chunk.path_in_schema.startswith(f"{name}.") for name in names
            ):
                yield group, chunk


def _promised(metadata: pq.FileMetaData, names: Sequence[str]) -> int:
    """Bytes that columns take in memory at least, by what the file says of itself."""
    values = sum(
        max(chunk.total_uncompressed_size, chunk.num_values * _WIDTHS.get(chunk.physical_type, 8))
        for _, chunk in _leaves(metadata, names)
        if chunk.physical_type != "BYTE_ARRAY"
    )
    return values + _ROW * metadata.num_rows


def _rows_at_once(path: Path, metadata: pq.FileMetaData, names: Sequence[str]) -> int:
    """So many rows that they keep within bounds where each repeats the longest text there can be."""
    longest: dict[int, int] = {}
    for group, chunk in _leaves(metadata, names):
        if chunk.physical_type == "BYTE_ARRAY":
            longest[group] = longest.get(group, 0) + max(0, chunk.total_uncompressed_size)
    return max(1, min(_BATCH_ROWS, room_for(path) // max(longest.values(), default=1)))
