"""DuckDB over the lake: the views, what a query may do, and reading a view whole."""

from __future__ import annotations

import atexit
import functools
import json
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from ...sql import read_sql
from ..errors import CorruptLake, InvalidOption, QueryRefused
from ..format.records import Result, Run
from ..format.schema import METRICS, SAMPLES, SCORES, SIGNALS, TRACES
from ..read.catalogue import results
from ..read.changes import check_unchanged
from .engine_errors import engine_errors, first_lines
from .listed_files import FILE_LISTS, lists_for, table_files, view_statements
from .read_only import one_query

if TYPE_CHECKING:
    import polars as pl

    from ..read.catalogue import Catalogue

_PARTITIONS = {
    "samples": ("experiment",),
    "signals": ("experiment", "run"),
    "traces": ("experiment", "run"),
    "scores": ("experiment", "analysis", "target"),
}
_COLUMNS = {"samples": SAMPLES, "signals": SIGNALS, "traces": TRACES, "scores": SCORES}
# Variables keep file names, which come from outside, out of the text of the views.
_SET_LIST = {
    "samples_files": "set variable samples_files = $list",
    "scores_files": "set variable scores_files = $list",
    "signals_files": "set variable signals_files = $list",
    "signals_shared_files": "set variable signals_shared_files = $list",
    "signals_part_files": "set variable signals_part_files = $list",
    "signals_part_rows": "set variable signals_part_rows = $list",
    "traces_files": "set variable traces_files = $list",
    "traces_shared_files": "set variable traces_shared_files = $list",
    "traces_part_files": "set variable traces_part_files = $list",
    "traces_part_rows": "set variable traces_part_rows = $list",
}
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
    lake: Catalogue,
    experiment: str | None = None,
    *,
    runs: Sequence[Run] | None = None,
    threads: int | None = None,
    memory: str | None = None,
) -> duckdb.DuckDBPyConnection:
    """A connection with the lake's views that can read the lake and nothing else, and change no setting.

    ``runs`` are the ones to show, for a caller that has read their manifests already; by default all that are
    committed. ``memory`` is a limit in DuckDB's notation, such as '4GB'. A private folder takes what does not fit, up to half
    of what is free on its disk.

    What runs here is not looked at: this is for losslake's own SQL. A text of a user's goes through `run_query` or
    `Lake.connect`.
    """
    experiments = [experiment] if experiment is not None else lake.experiments()
    shown = [run for name in experiments for run in lake.runs(name)] if runs is None else list(runs)
    found = [result for name in experiments for result in results(lake, name)]
    location = lake.files.location
    known = [lake.experiment(name) for name in experiments]
    check_unchanged(lake.files, [*known, *shown, *found])
    samples = [file.path for each in known for file in each.files if file.table == "samples"]
    lists = {
        "samples_files": [location(path) for path in samples],
        "scores_files": [location(result.file.path) for result in found if result.file is not None],
        **lists_for("signals", table_files(shown, "signals"), location),
        **lists_for("traces", table_files(shown, "traces"), location),
    }
    connection = duckdb.connect()
    try:
        _settings(connection, threads, memory)
        lake.files.let_read(connection)
        with engine_errors(connection):
            _hold(connection, "runs", runs_table(shown))
            _hold(connection, "metrics", metrics_table(found))
            _define_views(connection, lists)
            connection.execute(read_sql("macros_duckdb"))
            _close_the_door(connection, [file for name in FILE_LISTS for file in lists[name]])
    except BaseException:
        connection.close()
        raise
    return connection


def _settings(connection: duckdb.DuckDBPyConnection, threads: int | None, memory: str | None) -> None:
    connection.execute("set autoinstall_known_extensions = false")
    connection.execute("set autoload_known_extensions = false")
    connection.execute("set preserve_insertion_order = false")
    connection.execute("set allow_community_extensions = false")
    connection.execute("set allow_extension_repositories = 'forbidden'")
    connection.execute("set allow_persistent_secrets = false")
    connection.execute("set python_enable_replacements = false")
    connection.execute("set show_behavior = 'table'")  # of a view, and not of a setting
    connection.execute("set enable_progress_bar = true")  # counts how far a query is, and prints nothing
    connection.execute("set enable_progress_bar_print = false")
    # DuckDB makes the folder when it needs one and lets queries read it, so it is nobody else's.
    connection.execute(
        "set temp_directory = $folder", {"folder": f"{_private_folder()}/{secrets.token_hex(8)}"}
    )
    connection.execute(
        "set max_temp_directory_size = $size",
        {"size": f"{shutil.disk_usage(_private_folder()).free // 2} bytes"},
    )
    if threads is not None:
        connection.execute("set threads = $threads", {"threads": threads})
    if memory is not None:
        try:
            connection.execute("set memory_limit = $memory", {"memory": memory})
        except duckdb.Error as error:
            raise InvalidOption(
                f"memory limit {memory!r} is not understood; write for example 4GB"
            ) from error


@functools.cache
def _private_folder() -> str:
    """A folder for this process alone, removed when it ends."""
    folder = tempfile.mkdtemp(prefix="losslake-")
    atexit.register(remove_private_folder)
    return folder


def remove_private_folder() -> None:
    """Remove this process's folder of temporary files, for one that is about to end."""
    shutil.rmtree(_private_folder(), ignore_errors=True)


def _define_views(connection: duckdb.DuckDBPyConnection, lists: Mapping[str, list[Any]]) -> None:
    """Create the views over files, and an empty table of the same columns where there are no files."""
    for name, given in lists.items():
        connection.execute(_SET_LIST[name], {"list": given})
    views = view_statements(lists)
    for name in _COLUMNS.keys() - views.keys():
        partitions = [pa.field(part, pa.string()) for part in _PARTITIONS[name]]
        _hold(connection, name, pa.schema([*partitions, *_COLUMNS[name]]).empty_table())
    for statement in views.values():
        connection.execute(statement)


def _hold(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    connection.register("_incoming", table)
    connection.table("_incoming").create(name)
    connection.unregister("_incoming")


def _close_the_door(connection: duckdb.DuckDBPyConnection, files: list[str]) -> None:
    # Files that manifests list, and not the lake's folder: what never committed is out of reach as well.
    connection.execute("set allowed_paths = $files", {"files": files})
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def run_query(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, Any] | None = None
) -> duckdb.DuckDBPyRelation:
    """Run one statement that only reads. Raises QueryRefused for any other and for what DuckDB rejects.

    The answer is computed when it is taken out of the relation, anew each time: do that inside `engine_errors`.
    """
    statement = one_query(connection, query)
    with engine_errors(connection):
        answer = connection.sql(statement, params=dict(parameters) if parameters else None)
    if answer is None:
        raise QueryRefused("the statement returns no rows; losslake runs queries only")
    return answer


def frame_of(answer: duckdb.DuckDBPyRelation) -> pl.DataFrame:
    """The rows of an answer as a Polars frame; inside `engine_errors`. Raises QueryRefused for types that Polars lacks."""
    import polars as pl

    try:
        return answer.pl()
    except pl.exceptions.PolarsError as error:
        raise QueryRefused(
            f"the answer has a column of a type that cannot be handed on; cast it to varchar ({first_lines(error)})"
        ) from error


def read_view(lake: Catalogue, view: str, experiment: str | None = None) -> pa.Table:
    """A whole view as an Arrow table. Raises InvalidOption for an unknown view."""
    if view not in VIEWS:
        raise InvalidOption(f"there is no view {view!r} (views: {', '.join(VIEWS)})")
    with connect(lake, experiment) as connection, engine_errors(connection):
        return connection.view(view).to_arrow_table()


def runs_table(runs: Iterable[Run]) -> pa.Table:
    """The ``runs`` view: one row a committed run."""
    rows: list[dict[str, Any]] = [
        {
            "experiment": run.experiment,
            "run": run.run,
            "role": run.info.role,
            "seed": run.info.seed,
            "dataset": run.info.dataset,
            "model": run.info.model,
            "recipe": _json_text(run.info.recipe),
            "epochs": run.info.epochs,
            "members": run.members,
            "train_accuracy": run.info.train_accuracy,
            "test_accuracy": run.info.test_accuracy,
            "seconds": run.info.seconds,
            "device": run.info.device,
            "created": run.created,
            "versions": _json_text(run.info.versions),
            "parent": run.info.parent,
            "extra": _json_text(run.info.extra),
        }
        for run in runs
    ]
    try:
        for row in rows:
            row["created"] = datetime.fromisoformat(row["created"])
        return pa.Table.from_pylist(rows, schema=RUNS)
    except (TypeError, ValueError, OverflowError, pa.ArrowException) as error:
        raise CorruptLake(
            f"the manifest of a run holds a value of the wrong kind: {error}; run 'losslake lake verify'"
        ) from error


def metrics_table(found: Iterable[Result]) -> pa.Table:
    """The ``metrics`` view: one row a (result, metric)."""
    rows = [
        {
            "experiment": result.experiment,
            "analysis": result.analysis,
            "target": result.target,
            "variant": result.variant,
            "metric": metric["metric"],
            "parameters": _json_text(
                {k: v for k, v in metric.items() if k not in ("metric", "value", "ci_low", "ci_high", "n")}
            ),
            **{name: metric.get(name) for name in ("value", "ci_low", "ci_high", "n")},
        }
        for result in found
        for metric in result.metrics
    ]
    return pa.Table.from_pylist(rows, schema=METRICS)


def _json_text(value: Any) -> str:
    """JSON that every reader takes: numbers that are not finite become null."""
    text = json.dumps(value)
    if "NaN" in text or "Infinity" in text:
        text = json.dumps(json.loads(text, parse_constant=lambda _: None))
    return text
