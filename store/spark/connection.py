"""Spark over the lake, for lakes that outgrow one machine: the same views, queries and macros as DuckDB's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import polars as pl
import pyarrow as pa

from ..errors import InvalidOption, QueryRefused
from ..format.records import Run
from ..query.views import VIEWS
from ..read.changes import check_unchanged
from .session import spark_errors, spark_session

if TYPE_CHECKING:
    from sqlglot import exp

    from ..read.catalogue import Catalogue


class SparkConnection:
    """A session of Spark's with the lake's views. Get one with `connect_spark`; use it as a context manager.

    Sessions of one process share their Spark, which lives on until the process ends.
    """

    def __init__(
        self, lake: Catalogue, experiments: Sequence[str], runs: Sequence[Run], master: str | None
    ) -> None:
        self._session = spark_session(master)
        from .views import define_views  # needs what the session has found to be there

        self._lake, self._runs = lake, runs
        self._has_lists = False
        self._names = set(VIEWS)
        with spark_errors(self._session):
            define_views(self._session, lake, experiments, runs)

    def query(self, text: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """The answer to a query in DuckDB's SQL; what it may do is not looked at: this is for losslake's own texts."""
        from .transpile import parse_query

        return self._answer(parse_query(text), parameters)

    def sql(self, text: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """The answer to a query of a user's, in DuckDB's SQL. Raises QueryRefused for what `spark_vetting` does not know."""
        from .transpile import macros, parse_query
        from .vetting import check_query

        query = parse_query(text)
        check_query(query, self._names, macros())
        return self._answer(query, parameters)

    def register(self, name: str, table: pa.Table) -> None:
        """Let queries read ``table`` under ``name``; one of that name provided before is replaced."""
        if name in VIEWS:
            raise InvalidOption(f"{name!r} is a view of the lake")
        with spark_errors(self._session):
            self._session.createDataFrame(table).createOrReplaceTempView(name)
        self._names.add(name)

    def unregister(self, name: str) -> None:
        """Forget a table that was registered."""
        self._session.catalog.dropTempView(name)
        self._names.discard(name)

    def close(self) -> None:
        """Drop the views; Spark itself goes on."""
        for name in self._names:
            self._session.catalog.dropTempView(name)

    def _answer(self, query: exp.Query, parameters: Mapping[str, Any] | None) -> pa.Table:
        from .transpile import for_spark, reads_lists
        from .views import define_lists

        with spark_errors(self._session):
            if not self._has_lists and reads_lists(query):
                define_lists(self._session, self._lake, self._runs)
                self._has_lists = True
            rows = self._session.sql(for_spark(query), args=dict(parameters) if parameters else None)
            if len(set(rows.columns)) < len(rows.columns):
                raise QueryRefused("two columns of the answer have one name; rename one with AS")
            return rows.toArrow()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect_spark(
    lake: Catalogue,
    experiment: str | None = None,
    *,
    runs: Sequence[Run] | None = None,
    master: str | None = None,
) -> SparkConnection:
    """Spark with the views of one experiment of a lake, or of all. The views show what is committed at this moment.

    ``runs`` are the ones to show, by default all that are committed. ``master`` is Spark's master URL (see
    `spark_session`). Every worker must see the lake under the same path or URL.
    """
    experiments = [experiment] if experiment is not None else lake.experiments()
    shown = [run for name in experiments for run in lake.runs(name)] if runs is None else list(runs)
    check_unchanged(lake.files, [*(lake.experiment(name) for name in experiments), *shown])
    return SparkConnection(lake, experiments, shown, master)


def frame_of(table: pa.Table) -> pl.DataFrame:
    """An answer as a Polars frame."""
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
