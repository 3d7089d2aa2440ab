"""Analyses on Spark: those that SQL computes, for lakes that outgrow one machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar

import polars as pl
import pyarrow as pa

from ...sql import read_sql
from ...store.errors import InvalidOption
from ...store.format.records import Run
from ...store.spark.connection import SparkConnection, connect_spark
from ..not_compared import Memberships
from ..source import Source
from ..statistics.dependence import ALIKE, SURE, correlation, difference

_LOOKED_AT = 4_096
"""Audit samples, evenly spread, whose memberships are looked at first: all are only where these give reason to."""


@dataclass
class SparkSource(Source):
    """An experiment opened for analysis, whose queries Spark answers. What is read beside them is the target's own."""

    engine: ClassVar[str] = "spark"
    adds_up_in_sql: ClassVar[bool] = True
    _spark: SparkConnection = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._spark = connect_spark(self.lake, self.experiment, runs=self.runs)

    def sql(self, text: str, parameters: Mapping[str, Any] | None = None) -> pl.DataFrame:
        """The answer to one query in DuckDB's SQL with its ``$parameters`` bound."""
        return self.again(lambda: pl.DataFrame(self._spark.query(text, parameters)))

    def provide(self, name: str, table: pa.Table) -> None:
        """Let queries read ``table`` under ``name``; one of that name provided before is replaced."""
        super().provide(name, table)
        self._spark.register(name, table)

    def rows_of_each(self, runs: Sequence[Run], table: str, columns: list[str]) -> list[pl.DataFrame]:
        """As `Source.rows_of_each`, of the target alone. Raises InvalidOption for other runs."""
        if self.target is None or any(run.run != self.target.run for run in runs):
            raise InvalidOption(
                "with these options the analysis reads what many models say into memory, which Spark is there to avoid; "
                "leave them out, or take --engine duckdb"
            )
        return super().rows_of_each(runs, table, columns)

    def _memberships(self) -> Memberships:
        return MembershipCounts(self)

    def _reconnect(self) -> None:
        super()._reconnect()
        self._spark.close()
        self._spark = connect_spark(self.lake, self.experiment, runs=self._shown())
        for name, table in self._queries.provided.items():
            self._spark.register(name, table)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spark.close()
        super().__exit__(kind, error, trace)


@dataclass(frozen=True)
class MembershipCounts:
    """`Memberships` counted by Spark."""

    source: SparkSource

    def alike(self) -> tuple[list[str], list[str]]:
        """The runs with the target's training set, and those with its complement."""
        every = max(1, self.source.lake.experiment(self.source.experiment).samples // _LOOKED_AT)
        same, complements = self._alike_among(every)
        return self._alike_among(1) if every > 1 and (same or complements) else (same, complements)

    def _alike_among(self, every: int) -> tuple[list[str], list[str]]:
        found = self.source.sql(
            read_sql("training_sets"), {"target": self.source.target_name, "every": every}
        )
        alike = correlation(*(found[name].to_numpy() for name in ("n", "ours", "theirs", "shared")))
        names = found["run"].to_numpy()
        return names[alike >= ALIKE].tolist(), names[alike <= -ALIKE].tolist()

    def apart(self, fleet: list[str]) -> tuple[float, float]:
        """How many more runs of a fleet trained on a member than on a non-member, and that in standard errors."""
        self.source.provide("fleet_runs", pa.table({"run": pa.array(fleet, pa.string())}))
        every = max(1, self.source.lake.experiment(self.source.experiment).samples // _LOOKED_AT)
        apart, errors = self._apart_among(every)
        return self._apart_among(1) if every > 1 and abs(errors) > SURE / 2 else (apart, errors)

    def _apart_among(self, every: int) -> tuple[float, float]:
        found = self.source.sql(
            read_sql("training_counts"), {"target": self.source.target_name, "every": every}
        )
        sides = {row["own"]: (row["n"], row["mean"], row["variance"]) for row in found.iter_rows(named=True)}
        none = (0.0, 0.0, 0.0)
        return difference(sides.get(True, none), sides.get(False, none))

    def opposite(self, fleet: list[str], fitted: list[str]) -> pa.Table:
        """Raises InvalidOption: single records of runs are not passed over on Spark."""
        raise InvalidOption(
            f"run {self.source.target_name!r} is one of a fleet in balance, so that single records of other runs must be passed "
            "over, which is not done on Spark; leave --engine spark out, or take a target of its own"
        )
