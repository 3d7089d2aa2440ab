"""What an analysis reads: one experiment of one lake, and the run it is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import duckdb
import polars as pl
import pyarrow as pa

from ..sql import read_sql
from ..store.errors import NotEnoughData, NotFound
from ..store.format.records import Role, Run
from ..store.lake import Lake
from ..store.query.connection import connect
from ..store.query.engine_errors import engine_errors
from ..store.query.scan import rows_of_each
from ..store.read.catalogue import listed_files
from ..store.read.changes import read_again
from .declare import Analysis, parse_score

T = TypeVar("T")


@dataclass
class Source:
    """An experiment opened for analysis. ``target`` is the run under attack, or None.

    ``runs`` and every query answer as of the moment of opening: the rows of these runs, wherever others have moved them
    since. Use as a context manager.
    """

    engine: ClassVar[str] = "duckdb"

    lake: Lake
    experiment: str
    target: Run | None
    runs: tuple[Run, ...]
    connection: duckdb.DuckDBPyConnection = field(repr=False)
    find: Callable[[str], Analysis] = field(repr=False)
    _provided: dict[str, pa.Table] = field(default_factory=dict, repr=False)
    _moved: bool = field(default=False, repr=False)

    @classmethod
    def open(
        cls,
        lake: Lake,
        experiment: str,
        target: str | None = None,
        *,
        find: Callable[[str], Analysis],
    ) -> Self:
        """Open an experiment. Without ``target`` the only run of role target is meant, if there is one.

        ``find`` gives the analysis of a name to those that ask for another one's scores; `open_source` knows them all.
        Raises NotFound for an unknown run, and when several targets leave the choice open.
        """

        def connected() -> tuple[Run | None, tuple[Run, ...], duckdb.DuckDBPyConnection]:
            runs = tuple(lake.runs(experiment))
            chosen = lake.run(experiment, target) if target is not None else _only_target(experiment, runs)
            return chosen, runs, connect(lake, experiment, runs=runs)

        return cls(lake, experiment, *read_again(connected, lambda: listed_files(lake, experiment)), find)

    @property
    def target_name(self) -> str:
        """The target's name for a query; empty, which no run is called, where there is no target."""
        return self.target.run if self.target else ""

    def need_target(self) -> Run:
        """The target. Raises NotEnoughData where there is none."""
        if self.target is None:
            if not self.runs:
                raise NotEnoughData(
                    f"experiment {self.experiment!r} has no committed run; collect one with 'losslake collect target'"
                )
            names = ", ".join(run.run for run in self.runs[:5])
            raise NotEnoughData(
                f"experiment {self.experiment!r} has no run of role target; name the run to look at with --target "
                f"(runs: {names}{', ...' if len(self.runs) > 5 else ''})"
            )
        return self.target

    def need_target_table(self, table: str) -> Run:
        """The target, which must have rows in ``table`` (signals or traces)."""
        target = self.need_target()
        if table not in target.tables():
            raise NotEnoughData(f"run {target.run!r} of experiment {self.experiment!r} has no {table}")
        return target

    def need_shadows(self) -> tuple[Run, ...]:
        """The shadow runs with signals, the target left out. Raises NotEnoughData where there is none."""
        found = self._others("shadow")
        if not found:
            raise NotEnoughData(
                f"experiment {self.experiment!r} has no shadow runs"
                f"{f' beside {self.target_name!r}' if self.target else ''}; "
                "collect some with 'losslake collect shadows'"
            )
        return found

    def need_references(self) -> tuple[Run, ...]:
        """The same with reference runs beside the shadow runs."""
        return self._others("shadow", "reference") or self.need_shadows()

    def _others(self, *roles: Role) -> tuple[Run, ...]:
        return tuple(
            run
            for run in self.runs
            if run.info.role in roles and run.run != self.target_name and "signals" in run.tables()
        )

    def query(self, name: str, parameters: Mapping[str, Any]) -> pl.DataFrame:
        """The answer to ``sql/NAME.sql`` with its ``$parameters`` bound."""
        return self.sql(read_sql(name), parameters)

    def sql(self, text: str, parameters: Mapping[str, Any] | None = None) -> pl.DataFrame:
        """The answer to one query with its ``$parameters`` bound. Raises CorruptLake for a damaged file."""

        def ask() -> pl.DataFrame:
            with engine_errors(self.connection):
                return self.connection.sql(text, params=dict(parameters or {})).pl()

        return self.again(ask)

    def provide(self, name: str, table: pa.Table) -> None:
        """Let queries read ``table`` under ``name``; one of that name provided before is replaced."""
        self.connection.register(name, table)
        self._provided[name] = table

    def rows(self, run: Run, table: str, columns: list[str]) -> pl.DataFrame:
        """Columns of one run's rows in ``signals`` or ``traces``, read from its own files only."""
        return self.rows_of_each((run,), table, columns)[0]

    def rows_of_each(self, runs: Sequence[Run], table: str, columns: list[str]) -> list[pl.DataFrame]:
        """The same for many runs, a frame a run, read in one go. Raises CorruptLake for a damaged file."""
        return self.again(lambda: rows_of_each(self.lake, self.now(runs), table, columns))

    def rows_between(self, run: Run, table: str, columns: list[str], samples: range) -> pl.DataFrame:
        """`rows` of the samples in a range alone; of files in the order of sample ids little else is read."""
        wanted = [("sample_id", ">=", samples.start), ("sample_id", "<", samples.stop)]

        def read() -> pl.DataFrame:
            files = [file for file in self.now([run])[0].files if file.table == table]
            found = [self.lake.read_file(file, columns=columns, filters=wanted) for file in files]
            return pl.DataFrame(pa.concat_tables(found))

        return self.again(read)

    def now(self, runs: Sequence[Run]) -> list[Run]:
        """The same runs with the files in which their rows lie now. To be asked inside `again`."""
        by_name = {run.run: run for run in self.runs}
        return [by_name.get(run.run, run) for run in runs]

    def again(self, read: Callable[[], T]) -> T:
        """What ``read`` returns, called once more where the files that it reads have been replaced meanwhile."""

        def read_what_is_there() -> T:
            if self._moved:
                self._reconnect()
            return read()

        def look() -> frozenset[str]:
            self._moved = True
            return listed_files(self.lake, self.experiment)

        return read_again(read_what_is_there, look)

    def _reconnect(self) -> None:
        names = {run.run for run in self.runs}
        self.runs = tuple(run for run in self.lake.runs(self.experiment) if run.run in names)
        self.target = self.now([self.target])[0] if self.target else None
        connection = connect(self.lake, self.experiment, runs=self.runs)
        self.connection.close()
        self.connection = connection
        for name, table in self._provided.items():
            connection.register(name, table)
        self._moved = False

    def reopened(self) -> Self:
        """The same experiment and target as of now, with what was kept since."""
        return self.beside(self.target_name or None)

    def beside(self, target: str | None, *, experiment: str | None = None, lake: Lake | None = None) -> Self:
        """Another target, of this experiment or another one, in this lake or another one."""
        return type(self).open(lake or self.lake, experiment or self.experiment, target, find=self.find)

    def analysis(self, score: str) -> tuple[Analysis, dict[str, Any]]:
        """The analysis that a score's name means, and its options; see `parse_score`."""
        return parse_score(score, self.find)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()


def _only_target(experiment: str, runs: tuple[Run, ...]) -> Run | None:
    targets = [run for run in runs if run.info.role == "target"]
    # Duals name the target as their parent.
    first = [run for run in targets if run.info.parent is None] or targets
    if len(first) > 1:
        raise NotFound(
            f"experiment {experiment!r} has several targets ({', '.join(run.run for run in first[:8])}); "
            "choose one with --target"
        )
    return first[0] if first else None


def with_membership(source: Source, frame: pl.DataFrame) -> pl.DataFrame:
    """Add the column member after sample_id: membership in the target, NULL where there is no target."""
    if source.target is None or not source.target.tables():
        return frame.select("sample_id", pl.lit(None, pl.Boolean).alias("member"), pl.exclude("sample_id"))
    table = "signals" if "signals" in source.target.tables() else "traces"
    known = (
        source.rows(source.target, table, ["sample_id", "member"])
        .group_by("sample_id")
        .agg(pl.col("member").any())
    )
    joined = frame.join(known, on="sample_id", how="left", maintain_order="left")
    return joined.select("sample_id", "member", pl.exclude("sample_id", "member"))
