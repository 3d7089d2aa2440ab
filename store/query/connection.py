"""SQL over the lake: connections that can read the lake and nothing else, and those that users get.

What a query of a user's may do is looked at besides, see `read_only`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import json
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self, TypeVar

import duckdb
import pyarrow as pa

from ...sql import read_sql
from ..errors import InvalidOption, MissingExtra, QueryRefused
from ..format.records import Run
from ..read.catalogue import results, with_runs
from ..read.changes import check_unchanged
from .engine_errors import engine_errors, first_lines
from .limits import StillRunning, wait_for
from .read_only import one_query
from .views import (
    FILE_LISTS,
    OF_RESULTS,
    VIEWS,
    classes_table,
    define_views,
    file_lists,
    metrics_table,
    runs_table,
)

if TYPE_CHECKING:
    import polars as pl

    from ..read.catalogue import Catalogue

T = TypeVar("T")

_NEXT = re.compile(r"[A-Z][A-Za-z ]*: |[~\d][\d.,]* rows?\b")
"""How a part of a box in a drawn plan begins."""

# Progress is counted, for `wait_for`, and not printed. SHOW is of a view, and not of a setting.
_SETTINGS = """
set autoinstall_known_extensions = false;
set autoload_known_extensions = false;
set preserve_insertion_order = false;
set allow_community_extensions = false;
set allow_extension_repositories = 'forbidden';
set allow_persistent_secrets = false;
set python_enable_replacements = false;
set show_behavior = 'table';
set enable_progress_bar = true;
set enable_progress_bar_print = false;
"""


class Connection:
    """The lake's views for queries of one's own. Get one with `Lake.connect`; use it as a context manager.

    Every statement is looked at before it runs and refused unless it only reads (see `read_only` for what one can rely
    on). The views show what was committed when the connection was made. ``timeout`` is in seconds, per answer.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, timeout: float | None = None) -> None:
        self._connection = connection
        self._timeout = timeout
        self._left_behind = False

    def sql(self, query: str, parameters: Mapping[str, Any] | None = None) -> Answer:
        """The answer to one statement that only reads; parameters stand in it as ``$name``.

        Its rows are computed when they are taken out: ``.pl()``, ``.arrow()``, ``.df()`` or ``.fetchall()``. Raises
        QueryRefused for anything but a query, and for one that the engine rejects.
        """
        relation = self._wait(lambda: run_query(self._connection, query, parameters))
        return Answer(self, relation)

    def execute(self, query: str, parameters: Mapping[str, Any] | None = None) -> Answer:
        """The same as `sql`, under the name that DuckDB's own connections have for it."""
        return self.sql(query, parameters)

    def register(self, name: str, table: pa.Table | pl.DataFrame) -> None:
        """Let queries read a table of one's own under ``name``. Raises InvalidOption for the name of a view."""
        if self._left_behind:
            raise StillRunning(
                "a query of this connection still runs and cannot be stopped; open another one"
            )
        if not name.isidentifier() or name.casefold() in VIEWS:
            raise InvalidOption(f"{name!r} is no name for a table beside the views {', '.join(VIEWS)}")
        if not isinstance(table, pa.Table):
            table = table.to_arrow()
        with engine_errors(self._connection):
            self._connection.register(name, table)

    def close(self) -> None:
        """Close it; its answers cannot be read any more. One with a query that could not be stopped closes when that ends."""
        if not self._left_behind:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    def _take(self, work: Callable[[], T]) -> T:
        return self._wait(engine_errors(self._connection)(work))

    def _wait(self, work: Callable[[], T]) -> T:
        if self._left_behind:
            raise StillRunning(
                "a query of this connection still runs and cannot be stopped; open another one"
            )
        if self._timeout is None:
            return work()
        try:
            return wait_for(self._connection, work, self._timeout)
        except StillRunning:
            self._left_behind = True
            raise


class Answer:
    """The rows that a query gives, computed anew by each call.

    Calls raise LimitReached where time, memory or temporary space ran out, CorruptLake for a damaged file.
    """

    def __init__(self, connection: Connection, relation: duckdb.DuckDBPyRelation) -> None:
        self._take = connection._take
        self._relation = relation

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self._relation.columns)

    def pl(self) -> pl.DataFrame:
        """As a Polars frame."""
        return self._take(lambda: frame_of(self._relation))

    def arrow(self) -> pa.Table:
        """As an Arrow table."""
        return self._take(self._relation.to_arrow_table)

    def df(self) -> Any:
        """As a pandas frame. Raises MissingExtra where pandas is not installed."""
        if find_spec("pandas") is None:
            raise MissingExtra("pandas is not installed; 'pip install pandas', or take .pl()")
        return self._take(self._relation.df)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """As a list of tuples of Python values, those of `pl`."""
        return self.pl().rows()

    def __repr__(self) -> str:
        return f"<answer with the columns {', '.join(self.columns)}; .pl(), .arrow(), .df() or .fetchall() gives its rows>"


def connect(
    lake: Catalogue,
    experiment: str | None = None,
    *,
    runs: Sequence[Run] | None = None,
    threads: int | None = None,
    memory: str | None = None,
    with_results: bool = True,
) -> duckdb.DuckDBPyConnection:
    """A connection with the lake's views that can read the lake and nothing else, and change no setting.

    ``runs`` are the ones to show, for a caller that has read their manifests already; by default all that are
    committed. ``memory`` is a limit in DuckDB's notation, such as '4GB'. A private folder takes what does not fit, up to half
    of what is free on its disk. Without results no manifest of one is read, and the views of them, `OF_RESULTS`, are not there.

    What runs here is not looked at: this is for losslake's own SQL. A text of a user's goes through `run_query` or
    `Lake.connect`.
    """
    experiments = [experiment] if experiment is not None else lake.experiments()
    if runs is None:
        listed = [with_runs(lake, name) for name in experiments]
        known, shown = [each for each, _ in listed], [run for _, found in listed for run in found]
    else:
        known, shown = [lake.experiment(name) for name in experiments], list(runs)
    found = [result for name in experiments for result in results(lake, name)] if with_results else []
    check_unchanged(lake.files, [*known, *shown, *found])
    lists = file_lists(known, shown, found, lake.files.location)
    connection = duckdb.connect()
    try:
        _settings(connection, threads, memory)
        lake.files.let_read(connection)
        with engine_errors(connection):
            connection.from_arrow(classes_table(known)).create("classes")
            connection.from_arrow(runs_table(shown)).create("runs")
            if with_results:
                connection.from_arrow(metrics_table(found)).create("metrics")
            define_views(connection, lists, without=() if with_results else OF_RESULTS)
            connection.execute(read_sql("macros_duckdb"))
            _close_the_door(connection, [file for name in FILE_LISTS for file in lists[name]])
    except BaseException:
        connection.close()
        raise
    return connection


def share_machine(processes: int, threads: int) -> None:
    """Leave room for so many processes like this one: from now on connections have ``threads`` threads and a share of the memory, unless told otherwise."""
    global _share
    _share = (threads, f"{80 // processes}%")  # DuckDB's own limit is 80%


_share: tuple[int | None, str | None] = (None, None)
"""Threads and memory of a connection that is not told; None: what DuckDB takes."""


def _settings(connection: duckdb.DuckDBPyConnection, threads: int | None, memory: str | None) -> None:
    threads, memory = threads or _share[0], memory or _share[1]
    connection.execute(_SETTINGS)
    # DuckDB makes the folder when it needs one and lets queries read it, so it is nobody else's.
    connection.execute(
        "set temp_directory = $folder", {"folder": f"{private_folder()}/{secrets.token_hex(8)}"}
    )
    connection.execute(
        "set max_temp_directory_size = $size",
        {"size": f"{shutil.disk_usage(private_folder()).free // 2} bytes"},
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
def private_folder() -> str:
    """A folder for this process alone, removed when it ends."""
    folder = tempfile.mkdtemp(prefix="losslake-")
    atexit.register(remove_private_folder)
    return folder


def remove_private_folder() -> None:
    """Remove this process's folder of temporary files, for one that is about to end."""
    shutil.rmtree(private_folder(), ignore_errors=True)


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
    if answer.columns == ["explain_key", "explain_value"]:
        with engine_errors(connection):
            return connection.from_arrow(_without_places(answer.to_arrow_table()))
    return answer


def _without_places(plan: pa.Table) -> pa.Table:
    """A plan without the names of the files that were read: they tell where the lake lies."""
    told = [_without_files(str(text)) for text in plan["explain_value"].to_pylist()]
    return pa.table({"explain_key": plan["explain_key"], "explain_value": pa.array(told, pa.string())})


def _without_files(plan: str) -> str:
    if plan.lstrip().startswith(("{", "[")):
        with contextlib.suppress(ValueError, RecursionError):
            return json.dumps(_less_files(json.loads(plan)), indent=4)
    # In a drawn plan boxes stand side by side. The names fill the lines behind their heading, up to the next line of the box
    # that begins as "Name: value" or "N rows" does.
    lines, boxes = [], set[tuple[int, int]]()
    for line in plan.split("\n"):
        edges = [place for place, sign in enumerate(line) if sign == "│"]
        cells = list(itertools.pairwise(edges))
        boxes &= set(cells)
        for first, last in cells:
            text = line[first + 1 : last].strip()
            if text.startswith("Filename"):
                boxes.add((first, last))
            elif _NEXT.match(text):
                boxes.discard((first, last))
            if (first, last) in boxes:
                line = line[: first + 1] + " " * (last - first - 1) + line[last:]
        lines.append(line)
    return "\n".join(lines)


def _less_files(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _less_files(value) for name, value in part.items() if not name.startswith("Filename")}
    return [_less_files(each) for each in part] if isinstance(part, list) else part


def frame_of(answer: duckdb.DuckDBPyRelation) -> pl.DataFrame:
    """The rows of an answer as a Polars frame; inside `engine_errors`. Intervals are durations, a day being 24 hours.

    Raises QueryRefused for types that Polars lacks, and for an interval of months, which have no one length.
    """
    import polars as pl

    try:
        if "interval" not in (str(kind).lower() for kind in answer.types):
            return answer.pl()
        rows = answer.to_arrow_table()
        for place, field in enumerate(rows.schema):
            if pa.types.is_interval(field.type):
                rows = rows.set_column(place, field.name, _durations(rows.column(place), field.name))
        return pl.DataFrame(rows)
    except pl.exceptions.PolarsError as error:
        raise QueryRefused(
            f"the answer has a column of a type that cannot be handed on; cast it to varchar ({first_lines(error)})"
        ) from error


def _durations(intervals: pa.ChunkedArray, name: str) -> pa.Array:
    """Intervals as durations in microseconds, which is what DuckDB counts in."""
    found: list[int | None] = []
    for value in intervals.to_pylist():
        if value is not None and value.months:
            raise QueryRefused(
                f"column {name!r} is an interval of months, which have no one length; cast it to varchar"
            )
        found.append(None if value is None else value.days * 86_400_000_000 + value.nanoseconds // 1000)
    return pa.array(found, pa.duration("us"))


def read_view(lake: Catalogue, view: str, experiment: str | None = None) -> pa.Table:
    """A whole view as an Arrow table. Raises InvalidOption for an unknown view."""
    if view not in VIEWS:
        raise InvalidOption(f"there is no view {view!r} (views: {', '.join(VIEWS)})")
    with connect(lake, experiment) as connection, engine_errors(connection):
        return connection.view(view).to_arrow_table()
