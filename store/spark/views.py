"""The lake's views as temporary views of a Spark session, over exactly the files that manifests list."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql.functions import expr

from ...sql import read_sql
from ..errors import InvalidOption
from ..format.manifest import DataFile
from ..format.records import Run
from ..format.schema import SIGNALS
from ..query.views import (
    COLUMNS,
    PARTITIONS,
    classes_table,
    metrics_table,
    runs_table,
    table_files,
    view_text,
)
from ..read.catalogue import results
from .transpile import for_spark, parse_query, written_out

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from ..read.catalogue import Catalogue

_TYPES = {
    pa.string(): "string",
    pa.bool_(): "boolean",
    pa.int16(): "smallint",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.list_(pa.float32()): "array<float>",
    pa.list_(pa.float16()): "array<binary>",  # Spark has no such type and reads the two bytes as they are
}
_HALVES = pa.list_(pa.float16())
_LISTS = ("logits", "features")


def define_views(
    session: SparkSession, lake: Catalogue, experiments: Sequence[str], runs: Sequence[Run]
) -> None:
    """Make the lake's views in ``session``: of these runs, and of the samples and results of these experiments."""
    found = [result for name in experiments for result in results(lake, name)]
    samples = [
        file for name in experiments for file in lake.experiment(name).files if file.table == "samples"
    ]
    scores = [result.file for result in found if result.file is not None]
    known = classes_table(map(lake.experiment, experiments))
    session.createDataFrame(known).createOrReplaceTempView("classes")
    session.createDataFrame(runs_table(runs)).createOrReplaceTempView("runs")
    session.createDataFrame(metrics_table(found)).createOrReplaceTempView("metrics")
    _with_own_columns(session, lake, "samples", samples).createOrReplaceTempView("samples")
    _with_own_columns(session, lake, "scores", scores).createOrReplaceTempView("scores")
    for table in ("signals", "traces"):
        _of_runs(session, lake, table, runs, COLUMNS[table]).createOrReplaceTempView(table)
    session.sql(read_sql("views_spark")).createOrReplaceTempView("trace_points")
    session.sql(for_spark(parse_query(view_text("risk")))).createOrReplaceTempView("risk")


def define_lists(session: SparkSession, lake: Catalogue, runs: Sequence[Run]) -> None:
    """Make the view ``signals`` anew so that its lists can be read, of which a file holds half or single precision.

    Every file's schema is read for that, which other queries need not wait for.
    """
    files = {file.path: file for run in runs for file in run.files if file.table == "signals"}

    def kinds(path: str) -> tuple[bool, ...]:
        with lake.files.open_input(path) as source:
            schema = pq.read_schema(source)
        return tuple(schema.field(name).type.value_type == pa.float16() for name in _LISTS)

    halves: dict[str, tuple[bool, ...]] = dict(zip(files, lake.files.each(kinds, files), strict=True))
    parts = []
    for kind in sorted(set(halves.values())):
        alike = [
            replace(run, files=tuple(f for f in run.files if halves.get(f.path) == kind)) for run in runs
        ]
        half = {name for name, is_half in zip(_LISTS, kind, strict=True) if is_half}
        columns = pa.schema([(f.name, _HALVES if f.name in half else f.type) for f in SIGNALS])
        rows = _of_runs(session, lake, "signals", alike, columns)
        for name in half:
            rows = rows.withColumn(name, expr(written_out(f"transform({name}, half_ -> half_float(half_))")))
        parts.append(rows)
    if parts:
        _together(parts).createOrReplaceTempView("signals")


def _of_runs(
    session: SparkSession, lake: Catalogue, table: str, runs: Iterable[Run], columns: pa.Schema
) -> DataFrame:
    """The rows of a table of runs: of files of their own, and of those that they share."""
    files, partitions = table_files(runs, table), PARTITIONS[table]
    parts = [_read(session, lake, paths, partitions, columns) for paths in (files.own, files.whole) if paths]
    counted: dict[tuple[str, ...], list[str]] = {}
    for path, names in files.part.items():
        counted.setdefault(tuple(sorted(names)), []).append(path)
    for of, paths in counted.items():
        rows = _read(session, lake, paths, partitions, columns)
        parts.append(rows.filter(rows["run"].isin(*of)))
    return _together(parts) if parts else _empty(session, partitions, columns)


def _with_own_columns(
    session: SparkSession, lake: Catalogue, table: str, files: Sequence[DataFile]
) -> DataFrame:
    """The rows of files that may differ in columns beyond the table's own: a file without one has NULL there."""

    def columns_of(file: DataFile) -> str:
        with lake.files.open_input(file.path) as source:
            return str(pq.read_schema(source).remove_metadata())

    alike: dict[str, list[str]] = {}
    for file, columns in zip(files, lake.files.each(columns_of, files), strict=True):
        alike.setdefault(columns, []).append(file.path)
    if not alike:
        return _empty(session, PARTITIONS[table], COLUMNS[table])
    return _together([_read(session, lake, paths, PARTITIONS[table]) for paths in alike.values()])


def _read(
    session: SparkSession,
    lake: Catalogue,
    paths: Sequence[str],
    partitions: Sequence[str],
    columns: pa.Schema | None = None,
) -> DataFrame:
    """The rows of Parquet files of one folder of the lake, partitions before ``columns``, which default to the files' own."""
    places = [location(lake, path) for path in paths]
    inside = paths[0].index("/") - len(paths[0])
    reader = session.read.option("basePath", places[0][:inside])
    reader = reader.option("parquet.page.verify-checksum.enabled", "true")
    if columns is not None:
        reader = reader.schema(", ".join(f"`{name}` {kind}" for name, kind in _types(partitions, columns)))
    rows = reader.parquet(*places)
    own = [name for name in rows.columns if name not in partitions]
    return rows.select(*partitions, *(f"`{name.replace('`', '``')}`" for name in own))


def location(lake: Catalogue, path: str) -> str:
    """What Spark opens for a path of the lake. Raises InvalidOption where it opens none, or reads the name as a pattern."""
    place = lake.files.location(path)
    if re.search(r"[*?\[\]{}\\]", place):
        raise InvalidOption(
            f"Spark takes the lake's folder {lake.path} for a pattern (*, ?, [, ], {{, }} or \\); move it to another"
        )
    if place.startswith("az://"):
        raise InvalidOption(
            f"Spark does not read lakes at az://, as {lake.path} is; leave --engine spark out"
        )
    if place.startswith("s3://"):
        return f"s3a://{place[5:]}"  # the name that Hadoop's reader of S3 goes by
    return place if "://" in place else f"file://{place}"


def _together(parts: Sequence[DataFrame]) -> DataFrame:
    """The rows of all, with NULL in the columns that a part lacks."""
    return functools.reduce(lambda whole, part: whole.unionByName(part, allowMissingColumns=True), parts)


def _empty(session: SparkSession, partitions: Sequence[str], columns: pa.Schema) -> DataFrame:
    nulls = (f"cast(null as {kind}) as `{name}`" for name, kind in _types(partitions, columns))
    return session.range(0).selectExpr(*nulls)


def _types(partitions: Sequence[str], columns: pa.Schema) -> list[tuple[str, str]]:
    """The names of columns with their types in Spark's SQL."""
    return [*((name, "string") for name in partitions), *((each.name, _TYPES[each.type]) for each in columns)]
