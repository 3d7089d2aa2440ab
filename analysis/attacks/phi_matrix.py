"""phi of many runs side by side, for what SQL says slowly: medians, covariances.

Grouping 12.8 million rows for their medians takes an engine 1.5 s and more; a sort of the same values laid out as a
matrix takes NumPy 0.2 s (benchmarks/analysis_speed.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ...store.format.records import Run
from ...store.format.schema import PLAIN_QUERIES, ROW_GROUP
from ...store.format.tables import empty_table
from ..source import Source

_BLOCK = 8_192
"""Columns sorted at a time: few enough that a block of them, runs long, stays in a processor's cache."""

_ROWS = 1 << 24
"""Rows read at a time, 13 bytes each: runs may hold many range queries that are not asked for."""

_BLOCK_VALUES = 1 << 26
"""Values of phi that are laid side by side for medians: with what is made of them half a gigabyte."""

_COLUMNS = ["sample_id", "query", "member", "phi"]

_MEDIANS = """
select sample_id, query,
       percentile_cont(0.5) within group (order by phi::double) filter (where member) as median_in,
       percentile_cont(0.5) within group (order by phi::double) filter (where not member) as median_out
from signals
where query < $plain and run <> $target and not isnan(phi) and run in (select run from runs where role = 'shadow')
group by sample_id, query
"""

NO_MEDIANS = empty_table(
    pa.schema(
        {"sample_id": pa.int32(), "query": pa.int16(), "median_in": pa.float64(), "median_out": pa.float64()}
    )
)


@dataclass(frozen=True, eq=False)
class PhiMatrix:
    """``phi`` float32 (runs, samples, queries), NaN where a run has no value; ``member`` bool (runs, samples).

    ``sample_id`` (samples,) are the audit pool's, ascending; ``queries`` are query numbers, ascending.
    """

    phi: npt.NDArray[np.float32]
    member: npt.NDArray[np.bool_]
    sample_id: npt.NDArray[np.int64]
    queries: tuple[int, ...]


def queries_of(source: Source) -> list[int]:
    """The plain queries that the target has signals of, ascending."""
    found = source.sql(
        "select distinct query from signals where run = $target and query < $plain order by query",
        {"target": source.target_name, "plain": PLAIN_QUERIES},
    )
    return found["query"].to_list()


def read_phi(source: Source, runs: Sequence[Run], queries: Sequence[int]) -> PhiMatrix:
    """Read phi of ``runs`` for the audit pool and the given queries: runs x samples x queries float32 in memory."""
    audit = source.audited()
    return _laid_out(_frames(source, runs), len(runs), audit, range(len(audit)), queries)


def shadow_phi(source: Source, queries: Sequence[int]) -> PhiMatrix:
    """`read_phi` of the runs that the target is compared with; NaN where one is passed over for a sample."""
    shadows = source.need_shadows()
    return _passed_over(source, shadows, read_phi(source, shadows, queries))


def _passed_over(source: Source, runs: Sequence[Run], matrix: PhiMatrix) -> PhiMatrix:
    matrix.phi[source.passed_over(runs, matrix.sample_id)] = np.nan
    return matrix


def phi_medians(source: Source, runs: Sequence[Run], queries: Sequence[int]) -> pa.Table:
    """Medians of phi over in- and out-runs: sample_id, query, median_in, median_out; NULL where there is no run.

    An engine that has the rows spread over many machines counts them there.
    """
    if source.engine == "spark":
        return source.sql(_MEDIANS, {"target": source.target_name, "plain": PLAIN_QUERIES}).to_arrow()
    found = [_medians_of(_passed_over(source, runs, matrix)) for matrix in _matrices(source, runs, queries)]
    return pa.concat_tables(found)


def _medians_of(matrix: PhiMatrix) -> pa.Table:
    runs, samples, queries = matrix.phi.shape
    values = matrix.phi.reshape(runs, -1)
    trained = matrix.member if queries == 1 else np.repeat(matrix.member, queries, axis=1)
    seen = ~np.isnan(values)
    sides = {"median_in": medians(values, seen & trained), "median_out": medians(values, seen & ~trained)}
    return pa.table(
        {
            "sample_id": np.repeat(matrix.sample_id, queries).astype(np.int32),
            "query": np.tile(np.asarray(matrix.queries, dtype=np.int16), samples),
            **{name: pa.array(side, from_pandas=True) for name, side in sides.items()},
        }
    )


def medians(values: npt.NDArray[np.float32], used: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Median of each column of ``values`` (rows, columns) over the rows that ``used`` marks; NaN where it marks none.

    Marked values must be finite.
    """
    found = np.full(values.shape[1], np.nan)
    for start in range(0, values.shape[1], _BLOCK):
        part = slice(start, start + _BLOCK)
        marked = used[:, part]
        # What is not marked sorts behind all that is.
        ranked = np.ascontiguousarray(np.where(marked, values[:, part], np.float32(np.inf)).T)
        ranked.sort(axis=1)
        count = marked.sum(axis=0)
        some = np.flatnonzero(count)
        lower, upper = ranked[some, (count[some] - 1) // 2], ranked[some, count[some] // 2]
        found[start + some] = (lower.astype(np.float64) + upper) / 2
    return found


def _matrices(source: Source, runs: Sequence[Run], queries: Sequence[int]) -> Iterator[PhiMatrix]:
    """`read_phi` of some samples after others, as many at a time as memory is set aside for."""
    audit = source.audited()
    many = max(1, _BLOCK_VALUES // max(1, len(runs) * len(queries)))
    if len(audit) <= many:
        yield _laid_out(_frames(source, runs), len(runs), audit, range(len(audit)), queries)
        return
    # Of whole row groups nothing is read twice.
    many = max(many - many % ROW_GROUP, min(many, ROW_GROUP))
    for start in range(0, len(audit), many):
        part = range(start, min(start + many, len(audit)))
        frames = (source.rows_between(run, "signals", _COLUMNS, part) for run in runs)
        yield _laid_out(frames, len(runs), audit, part, queries)


def _frames(source: Source, runs: Sequence[Run]) -> Iterator[pl.DataFrame]:
    """sample_id, query, member and phi of each run; runs are read together as long as they are few rows."""
    rows = [sum(file.rows for file in run.files if file.table == "signals") for run in runs]
    at_once = max(1, _ROWS // max(1, max(rows, default=1)))
    for start in range(0, len(runs), at_once):
        yield from source.rows_of_each(runs[start : start + at_once], "signals", _COLUMNS)


def _laid_out(
    frames: Iterable[pl.DataFrame],
    runs: int,
    audit: npt.NDArray[np.bool_],
    samples: range,
    queries: Sequence[int],
) -> PhiMatrix:
    """The matrix of a range of samples from a frame a run, which may hold rows of other samples and queries too."""
    sample_id = samples.start + np.flatnonzero(audit[samples.start : samples.stop])
    place = np.full(len(audit), -1, dtype=np.int64)
    place[sample_id] = np.arange(len(sample_id))
    column = np.full(max(queries, default=0) + 2, -1, dtype=np.int64)
    column[list(queries)] = np.arange(len(queries))
    phi = np.full((runs, len(sample_id), len(queries)), np.nan, dtype=np.float32)
    member = np.zeros((runs, len(sample_id)), dtype=bool)

    order: tuple[Any, Any] | None = None
    for row, frame in enumerate(frames):
        ids, numbers = frame["sample_id"].to_numpy(), frame["query"].to_numpy()
        # Runs nearly always hold the same samples in the same order; then the places are those of the run before.
        if order is None or not (np.array_equal(ids, order[0]) and np.array_equal(numbers, order[1])):
            order = (ids, numbers)
            # Queries beyond those asked for fall on the last entry, which is none.
            where, which = place[ids], column[np.minimum(numbers, len(column) - 1)]
            asked = np.flatnonzero((where >= 0) & (which >= 0))
            where, which = where[asked], which[asked]
            cells = where * len(queries) + which
            whole = len(cells) == phi[0].size == len(ids) and np.array_equal(cells, np.arange(len(cells)))
        if whole:
            phi[row] = frame["phi"].to_numpy().reshape(phi.shape[1:])
            member[row] = frame["member"].to_numpy()[:: len(queries)]
        else:
            phi[row, where, which] = frame["phi"].to_numpy()[asked]
            member[row, where] = frame["member"].to_numpy()[asked]
    return PhiMatrix(phi, member, sample_id, tuple(queries))
