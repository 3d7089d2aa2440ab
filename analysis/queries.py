"""Queries of a source: DuckDB, started when one is first asked, over the runs that the source shows and the tables that it provides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa

from ..store.format.records import Run
from ..store.lake import Lake
from ..store.query.connection import connect
from ..store.query.engine_errors import engine_errors
from ..store.query.held import hold
from ..store.query.views import OF_RESULTS

_COMMENT = re.compile(r"--.*")

_ASKS_RESULTS = re.compile(rf"\b({'|'.join(OF_RESULTS)})\b")

_PASSED_OVER = """
create or replace temp view signals as
select * from memory.main.signals as kept
where not exists (
  select 1 from passed_over where passed_over.sample_id = kept.sample_id and passed_over.run = kept.run
)
"""


def without_comments(text: str) -> str:
    """A query's text less its comments."""
    return _COMMENT.sub("", text)


@dataclass(eq=False)
class Queries:
    """``provided`` are tables beside the lake's views, by name, whenever the engine is started."""

    lake: Lake
    experiment: str
    provided: dict[str, pa.Table] = field(default_factory=dict)
    _connection: duckdb.DuckDBPyConnection | None = None
    _with_results: bool = False
    _asked_for: set[str] = field(default_factory=set)
    _held: set[str] = field(default_factory=set)

    @property
    def started(self) -> bool:
        """Whether the engine runs."""
        return self._connection is not None

    def connection(
        self, runs: Iterable[Run], passed_over: pa.Table | None, *, with_results: bool
    ) -> duckdb.DuckDBPyConnection:
        """The engine's, which shows ``runs`` less the records of them in ``passed_over``: the same one until it is closed.

        Views of what analyses found are there with results alone.
        """
        if with_results and not self._with_results:
            self.close()
        if self._connection is None:
            self._with_results = with_results
            connection = connect(self.lake, self.experiment, runs=tuple(runs), with_results=with_results)
            if passed_over is not None:
                self.provided["passed_over"] = passed_over
            for name, table in self.provided.items():
                connection.register(name, table)
            if passed_over is not None:
                connection.execute(_PASSED_OVER)
            self._connection = connection
        return self._connection

    def ask(
        self, text: str, parameters: Mapping[str, Any], runs: Iterable[Run], passed_over: pa.Table | None
    ) -> pl.DataFrame:
        """The answer to one query with its ``$parameters`` bound. Raises CorruptLake for a damaged file."""
        shown = tuple(runs)
        # Of what analyses found each is a manifest of its own, which few queries ask for.
        with_results = bool(_ASKS_RESULTS.search(without_comments(text)))
        connection = self.connection(shown, passed_over, with_results=with_results)
        with engine_errors(connection):
            self._hold(connection, text, shown)
            return connection.sql(text, params=dict(parameters)).pl()

    def _hold(self, connection: duckdb.DuckDBPyConnection, text: str, runs: tuple[Run, ...]) -> None:
        """Let a table that a query asks for once more be answered from memory, where it is small and lies in many files."""
        for table in ("signals", "traces"):
            if re.search(rf"\b{table}\b", text) and table not in self._held:
                if table in self._asked_for:
                    self._held.add(table)
                    hold(connection, runs, table)
                self._asked_for.add(table)

    def provide(self, name: str, table: pa.Table) -> None:
        """Let queries read ``table`` under ``name``; one of that name provided before is replaced."""
        if self._connection is not None:
            self._connection.register(name, table)
        self.provided[name] = table

    def withdraw(self, name: str) -> None:
        """Take back what was provided under ``name``."""
        del self.provided[name]
        if self._connection is not None:
            with suppress(duckdb.Error):  # where the engine has failed, that is told
                self._connection.unregister(name)

    def close(self) -> None:
        """Stop the engine; the next query starts it anew."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._held.clear()
