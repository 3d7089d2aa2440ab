"""What the lake's tables look like on disk, and how their Parquet files are written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FORMAT = 2
"""Version of the lake's layout, see `STEPS` in `manifest`. A reader refuses a newer one and reads all older ones."""

ORIGINAL = 0
"""The ``query`` number of the sample as it is; 1 is its flip, and what else an import has counts on from there."""

CROSS_ENTROPY = "cross-entropy"
"""What a run's facts say of its loss where that is -log p_y, which is also what a run means that says nothing."""

PLAIN_QUERIES = 1024
"""Numbers below this are plain views: the sample as it is, its flip, and others that show the same record.

From here on they are range neighbours (see `ranges`), which are other records: analyses of the sample itself read
``query < 1024`` only.
"""

SAMPLES = pa.schema(
    [
        ("sample_id", pa.int32()),
        ("label", pa.int32()),
        ("pool", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("key", pa.string()),
    ]
)

PICTURES = pa.schema([("sample_id", pa.int32()), ("png", pa.binary())])

SIGNALS = pa.schema(
    [
        ("sample_id", pa.int32()),
        ("query", pa.int16()),
        ("member", pa.bool_()),
        ("label", pa.int32()),
        ("loss", pa.float32()),
        ("phi", pa.float32()),
        ("correct", pa.bool_()),
        ("logits", pa.list_(pa.float32())),
        ("features", pa.list_(pa.float32())),
        ("token_losses", pa.list_(pa.float32())),
        ("token_z", pa.list_(pa.float32())),
        ("lower_loss", pa.float32()),
    ]
)

TOKENS = ("token_losses", "token_z", "lower_loss")
"""Columns of signals that a file has only where they were given: language models'. They are NULL in all others."""

TRACES = pa.schema(
    [
        ("sample_id", pa.int32()),
        ("source", pa.string()),
        ("member", pa.bool_()),
        ("loss", pa.list_(pa.float32())),
        ("grad_norm", pa.list_(pa.float32())),
        ("margin", pa.list_(pa.float32())),
    ]
)

SCORES = pa.schema(
    [("variant", pa.string()), ("sample_id", pa.int32()), ("member", pa.bool_()), ("score", pa.float64())]
)
"""What every result has; the analysis's own columns come on top."""

METRICS = pa.schema(
    [
        ("experiment", pa.string()),
        ("analysis", pa.string()),
        ("target", pa.string()),
        ("variant", pa.string()),
        ("metric", pa.string()),
        ("parameters", pa.string()),
        ("value", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("n", pa.int64()),
    ]
)

TRACE_SIGNALS = ("loss", "grad_norm", "margin")

RUN = pa.field("run", pa.string())
"""The first column of every file of signals and traces: whose rows these are, also where the file lies alone."""

OF_RUNS = ("signals", "traces")
"""The tables whose files have it."""

ROW_GROUP = 131_072
"""Rows a row group: few enough groups to scan fast, small enough to hold several in memory."""

TRACE_ROW_GROUP = 8_192
"""The same for traces, whose rows are a hundred times wider; engines share out work by row groups."""

PICTURE_ROW_GROUP = 256
"""The same for pictures: a report asks for a dozen of them, and a row group is read whole."""

ROW_GROUP_BYTES = 64 << 20
"""A row group of wide rows (logits of a thousand classes) ends here: writers and readers hold several in memory."""


def row_group_size(table: str, row_bytes: int) -> int:
    """Rows a row group of ``table`` whose rows take ``row_bytes`` in memory."""
    most = {"traces": TRACE_ROW_GROUP, "pictures": PICTURE_ROW_GROUP}.get(table, ROW_GROUP)
    return min(most, max(256, ROW_GROUP_BYTES // max(1, row_bytes)))


@contextmanager
def parquet_writer(file: Any, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A Parquet writer with the lake's settings.

    Floats get no dictionary: nearly every value is its own, and building one costs twice the time of
    writing without (measured). Words that repeat, such as ``pool``, do.

    Floats get no statistics either: the least and the greatest of them leave NaN out, and DuckDB, for which NaN is
    greater than any number, would take from them that a column holds none (``isnan``, ``>`` and ``<=`` go wrong).
    """
    words = [field.name for field in schema if pa.types.is_string(field.type) and field.name != "key"]
    with pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        compression_level=3,
        use_dictionary=words or False,
        write_page_checksum=True,
        write_statistics=[field.name for field in schema if _ordered(field.type)] or False,
    ) as writer:
        yield writer


def _ordered(kind: pa.DataType) -> bool:
    """Whether the least and the greatest of a column say what lies between them: of no list, and of no float."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return not (pa.types.is_nested(kind) or pa.types.is_floating(kind))
