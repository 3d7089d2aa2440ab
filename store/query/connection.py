"""SQL over the lake from Python: a connection that takes queries and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import duckdb
import pyarrow as pa

from ..errors import InvalidOption, MissingExtra
from .engine_errors import engine_errors
from .patience import StillRunning, wait_for
from .views import VIEWS, frame_of, run_query

if TYPE_CHECKING:
    import polars as pl

T = TypeVar("T")


class Connection:
    """The lake's views for queries of one's own. Get one with `Lake.connect`; use it as a context manager.

    Every statement is looked at before it runs and refused unless it only reads (see `store.read_only` for what one can
    rely on). The views show what was committed when the connection was made. ``timeout`` is in seconds, per answer.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, timeout: float | None = None) -> None:
        self._connection = connection
        self._timeout = timeout

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
        if not name.isidentifier() or name.casefold() in VIEWS:
            raise InvalidOption(f"{name!r} is no name for a table beside the views {', '.join(VIEWS)}")
        if not isinstance(table, pa.Table):
            table = table.to_arrow()
        with engine_errors(self._connection):
            self._connection.register(name, table)

    def close(self) -> None:
        """Close it; its answers cannot be read any more."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, StillRunning):  # that one closes when its query ends
            self.close()

    def _take(self, work: Callable[[], T]) -> T:
        def guarded() -> T:
            with engine_errors(self._connection):
                return work()

        return self._wait(guarded)

    def _wait(self, work: Callable[[], T]) -> T:
        return work() if self._timeout is None else wait_for(self._connection, work, self._timeout)


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
