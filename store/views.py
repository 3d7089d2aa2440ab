"""DuckDB over the lake: the views, what a query may do, and reading a view whole."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from ..sql import read_sql
from .errors import InvalidOption, LosslakeError, QueryRefused
from .records import Run
from .results import METRICS, SCORES, Result, results
from .schema import SAMPLES, SIGNALS, TRACES

if TYPE_CHECKING:
    from .lake import Lake

_PARTITIONS = {
    "samples": ("experiment",),
    "signals": ("experiment", "run"),
    "traces": ("experiment", "run"),
    "scores": ("experiment", "analysis", "target"),
}
_COLUMNS = {"samples": SAMPLES, "signals": SIGNALS, "traces": TRACES, "scores": SCORES}
VIEWS = ("samples", "runs", "signals", "traces", "trace_points", "scores", "metrics")

RUNS = pa.schema(
    [
        ("experiment", pa.string()),
        ("run", pa.string()),
        ("role", pa.string()),
        ("seed", pa.int64()),
        ("dataset", pa.string()),
        ("model", pa.string()),
        ("recipe", pa.string()),
        ("epochs", pa.int32()),
        ("members", pa.int64()),
        ("train_accuracy", pa.float64()),
        ("test_accuracy", pa.float64()),
        ("seconds", pa.float64()),
        ("device", pa.string()),
        ("created", pa.timestamp("ms", tz="UTC")),
        ("versions", pa.string()),
        ("parent", pa.string()),
        ("extra", pa.string()),
    ]
)


def connect(
    lake: Lake, experiment: str | None = None, *, threads: int | None = None, memory: str | None = None
) -> duckdb.DuckDBPyConnection:
    """A connection with the lake's views that can read the lake and nothing else, and change no setting.

    ``memory`` is a limit in DuckDB's notation, such as '4GB'. A private folder takes what does not fit.
    """
    experiments = [experiment] if experiment is not None else lake.experiments()
    runs = [run for name in experiments for run in lake.runs(name)]
    found = [result for name in experiments for result in results(lake, name)]
    listed = {
        "samples": [file.path for name in experiments for file in lake.experiment(name).files if file.table == "samples"],
        "signals": [file.path for run in runs for file in run.files if file.table == "signals"],
        "traces": [file.path for run in runs for file in run.files if file.table == "traces"],
        "scores": [result.file.path for result in found if result.file is not None],
    }
    connection = duckdb.connect()
    try:
        _settings(connection, threads, memory)
        _hold(connection, "runs", runs_table(runs))
        _hold(connection, "metrics", metrics_table(found))
        _define_views(connection, lake, listed)
        connection.execute(read_sql("macros_duckdb"))
        _close_the_door(connection, lake)
    except BaseException:
        connection.close()
        raise
    return connection


def _settings(connection: duckdb.DuckDBPyConnection, threads: int | None, memory: str | None) -> None:
    connection.execute("set autoinstall_known_extensions = false")
    connection.execute("set autoload_known_extensions = false")
    connection.execute("set preserve_insertion_order = false")
    connection.execute("set temp_directory = $folder", {"folder": tempfile.gettempdir()})
    if threads is not None:
        connection.execute("set threads = $threads", {"threads": threads})
    if memory is not None:
        try:
            connection.execute("set memory_limit = $memory", {"memory": memory})
        except duckdb.Error as error:
            raise InvalidOption(f"memory limit {memory!r} is not understood; write for example 4GB") from error


def _define_views(connection: duckdb.DuckDBPyConnection, lake: Lake, listed: Mapping[str, list[str]]) -> None:
    """Create the views over files, and an empty table of the same columns where there are no files."""
    for name, files in listed.items():
        # A variable keeps the file names, which come from outside, out of the text of any statement.
        connection.execute(f"set variable {name}_files = $files", {"files": [lake.files.location(f) for f in files]})
        if not files:
            partitions = [pa.field(part, pa.string()) for part in _PARTITIONS[name]]
            _hold(connection, name, pa.schema([*partitions, *_COLUMNS[name]]).empty_table())
    for statement in connection.extract_statements(read_sql("views")):
        created = re.search(r"create view (\w+)", statement.query)
        if created and listed.get(created.group(1), True):
            connection.execute(statement)


def _hold(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    connection.register("_incoming", table)
    connection.table("_incoming").create(name)
    connection.unregister("_incoming")


def _close_the_door(connection: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    connection.execute("set allowed_directories = $folders", {"folders": [lake.files.root]})
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def run_query(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, Any] | None = None
) -> duckdb.DuckDBPyRelation:
    """Run one statement that only reads. Raises QueryRefused for any other and for what DuckDB rejects."""
    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as error:
        raise QueryRefused(_first_lines(error)) from error
    if len(statements) != 1:
        raise QueryRefused(f"one statement at a time, not {len(statements)}")
    _check_reads_only(connection, statements[0])
    try:
        answer = connection.sql(statements[0], params=dict(parameters) if parameters else None)
    except duckdb.Error as error:
        raise QueryRefused(_first_lines(error)) from error
    if answer is None:
        raise QueryRefused("the statement returns no rows; losslake runs queries only")
    return answer


def _check_reads_only(connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement) -> None:
    kind = statement.type
    if kind == duckdb.StatementType.EXPLAIN:
        inner = re.sub(r"^\s*explain\s+(analyze\s+)?(\([^)]*\)\s*)?", "", statement.query, count=1, flags=re.IGNORECASE)
        try:
            inside = connection.extract_statements(inner)
        except duckdb.Error as error:
            raise QueryRefused(_first_lines(error)) from error
        if len(inside) == 1 and inside[0].type == duckdb.StatementType.SELECT:
            return
    elif kind == duckdb.StatementType.SELECT:
        return
    raise QueryRefused(
        f"only queries run here, this is a {kind.name} statement; write results with --out FILE instead"
    )


def _first_lines(error: duckdb.Error) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return "\n".join(lines[:6])


def read_view(lake: Lake, view: str, experiment: str | None = None) -> pa.Table:
    """A whole view as an Arrow table. Raises InvalidOption for an unknown view."""
    if view not in VIEWS:
        raise InvalidOption(f"there is no view {view!r} (views: {', '.join(VIEWS)})")
    with connect(lake, experiment) as connection:
        try:
            return connection.view(view).to_arrow_table()
        except duckdb.Error as error:
            raise LosslakeError(_first_lines(error)) from error


def runs_table(runs: Iterable[Run]) -> pa.Table:
    """The ``runs`` view: one row a committed run."""
    from datetime import datetime

    rows = [
        {
            "experiment": run.experiment,
            "run": run.run,
            "role": run.info.role,
            "seed": run.info.seed,
            "dataset": run.info.dataset,
            "model": run.info.model,
            "recipe": json.dumps(run.info.recipe),
            "epochs": run.info.epochs,
            "members": run.members,
            "train_accuracy": run.info.train_accuracy,
            "test_accuracy": run.info.test_accuracy,
            "seconds": run.info.seconds,
            "device": run.info.device,
            "created": datetime.fromisoformat(run.created),
            "versions": json.dumps(run.info.versions),
            "parent": run.info.parent,
            "extra": json.dumps(run.info.extra),
        }
        for run in runs
    ]
    return pa.Table.from_pylist(rows, schema=RUNS)


def metrics_table(found: Iterable[Result]) -> pa.Table:
    """The ``metrics`` view: one row a (result, metric)."""
    rows = [
        {
            "experiment": result.experiment,
            "analysis": result.analysis,
            "target": result.target,
            "variant": result.variant,
            "metric": metric["metric"],
            "parameters": json.dumps(
                {k: v for k, v in metric.items() if k not in ("metric", "value", "ci_low", "ci_high", "n")}
            ),
            **{name: metric.get(name) for name in ("value", "ci_low", "ci_high", "n")},
        }
        for result in found
        for metric in result.metrics
    ]
    return pa.Table.from_pylist(rows, schema=METRICS)
