"""phi of many runs side by side, for what SQL says slowly: medians, covariances.

Grouping 12.8 million rows for their medians takes an engine 1.5 s and more; a sort of the same values laid out as a
matrix takes NumPy 0.2 s (benchmarks/analysis_speed.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...store.format.records import Run
from ...store.format.schema import PLAIN_QUERIES, ROW_GROUP
from ...store.format.tables import empty_table
from ..source import Source
from .in_and_out import Fit, Fits
from .run_answers import answers_of, stacked

_BLOCK = 8_192
"""Columns sorted at a time: few enough that a block of them, runs long, stays in a processor's cache."""

_BLOCK_VALUES = 1 << 25
"""Values of phi that are laid side by side for medians: with what is made of them a quarter of a gigabyte."""

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
    if source.target is None:
        return []
    found = source.rows(source.target, "signals", ["query"])["query"].unique().sort()
    return found.filter(found < PLAIN_QUERIES).to_list()


def why_no_phi(source: Source) -> str | None:
    """Why the target has no phi at all, and what goes without; None where it has some."""
    known = source.sql(
        "select count(*) filter (where phi is not null and not isnan(phi)) as n from signals where run = $target",
        {"target": source.target_name},
    )
    if known["n"][0]:
        return None
    loss = source.need_target().info.extra.get("loss", "other than cross-entropies")
    return (
        f"the losses of run {source.target_name!r} are {loss}, of which there is no phi and no label that is predicted; rmia, calibrated, kde, "
        "attack-r and attack-p take the loss alone"
    )


def read_phi(source: Source, runs: Sequence[Run], queries: Sequence[int]) -> PhiMatrix:
    """Read phi of ``runs`` for the audit pool and the given queries: runs x samples x queries float32 in memory."""
    sample_id = np.flatnonzero(source.audited())
    found = answers_of(source, runs, ["phi"], sample_id, queries, passing_over=False)
    return PhiMatrix(*stacked(found, len(runs), (len(sample_id), len(queries))), sample_id, tuple(queries))


def shadow_phi(source: Source, queries: Sequence[int]) -> PhiMatrix:
    """`read_phi` of the runs that the target is compared with; NaN where one is passed over for a sample."""
    shadows = source.need_shadows()
    sample_id = np.flatnonzero(source.audited())
    found = answers_of(source, shadows, ["phi"], sample_id, queries)
    return PhiMatrix(*stacked(found, len(shadows), (len(sample_id), len(queries))), sample_id, tuple(queries))


def phi_medians(source: Source, runs: Sequence[Run], queries: Sequence[int]) -> pa.Table:
    """Medians of phi over in- and out-runs: sample_id, query, median_in, median_out; NULL where there is no run.

    An engine that has the rows spread over many machines counts them there.
    """
    if source.adds_up_in_sql:
        return source.sql(_MEDIANS, {"target": source.target_name, "plain": PLAIN_QUERIES}).to_arrow()
    sample_id = np.flatnonzero(source.audited())
    inside, outside = _medians(source, runs, sample_id, queries)
    return pa.table(
        {
            "sample_id": np.repeat(sample_id, len(queries)).astype(np.int32),
            "query": np.tile(np.asarray(queries, dtype=np.int16), len(sample_id)),
            "median_in": pa.array(inside.reshape(-1), from_pandas=True),
            "median_out": pa.array(outside.reshape(-1), from_pandas=True),
        }
    )


def median_fits(
    source: Source,
    runs: Sequence[Run],
    sample_id: npt.NDArray[np.intp],
    queries: Sequence[int],
    about_means: Fits,
    *,
    pooled: bool,
) -> Fits:
    """The fits (in, out) about medians in place of means; ``pooled``, squares are about them too."""
    sides = []
    for fit, middle in zip(about_means, _medians(source, runs, sample_id, queries), strict=True):
        middle = np.where(fit.n > 0, middle, 0.0)
        squares = fit.squares + fit.n * (fit.mean - middle) ** 2 if pooled else fit.squares
        sides.append(Fit(fit.n, middle, squares))
    inside, outside = sides
    return inside, outside


def _medians(
    source: Source, runs: Sequence[Run], sample_id: npt.NDArray[np.intp], queries: Sequence[int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Medians of the runs with and without each sample (samples, queries); NaN where there is none.

    As many samples are laid side by side at a time as memory is set aside for.
    """
    shape = (len(sample_id), len(queries))
    inside, outside = np.full(shape, np.nan), np.full(shape, np.nan)
    many = max(1, _BLOCK_VALUES // max(1, len(runs) * len(queries)))
    if many < len(sample_id):
        # Of whole row groups nothing is read twice.
        many = max(many - many % ROW_GROUP, min(many, ROW_GROUP))
    last = int(sample_id.max(initial=-1))
    for start in range(0, last + 1, many):
        within = range(start, min(start + many, last + 1))
        first, end = np.searchsorted(sample_id, [within.start, within.stop])
        some = sample_id[first:end]
        answers = answers_of(
            source, runs, ["phi"], some, queries, within=None if end - first == len(sample_id) else within
        )
        values, member = stacked(answers, len(runs), (len(some), len(queries)))
        values = values.reshape(len(runs), -1)
        trained = member if len(queries) == 1 else np.repeat(member, len(queries), axis=1)
        seen = ~np.isnan(values)
        for side, used in ((inside, trained), (outside, ~trained)):
            side[first:end] = medians(values, seen & used).reshape(len(some), len(queries))
    return inside, outside


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
