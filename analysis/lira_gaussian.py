"""LiRA over several queries at once: one Gaussian with full covariance a sample, in NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from ..store.errors import InvalidOption, NotEnoughData
from ..store.records import Run
from .source import Source

VARIANCE_FLOOR = 1e-12
Floats = npt.NDArray[np.float64]


def gaussian_queries(source: Source, *, mode: str, variance: str, center: str) -> pl.DataFrame:
    """Online LiRA scores with multivariate normals over the queries of a sample.

    Returns sample_id, member, score, n_in, n_out of the samples the target has signals of. Covariances divide by
    n; pooled ones are the mean outer product of the residuals from each sample's centre. Holds phi of all shadow
    runs: runs x samples x queries float32.
    """
    if mode == "offline":
        raise InvalidOption(
            "a tail of several queries at once is not defined; offline LiRA takes --queries mean"
        )
    target = source.need_target()
    audit = source.connection.sql(
        "select sample_id from samples where pool = 'audit' order by sample_id"
    ).pl()["sample_id"]
    place = np.full(source.lake.experiment(source.experiment).samples, -1, dtype=np.int64)
    place[audit.to_numpy()] = np.arange(len(audit))
    attacked, member = _read(source, target, place, None)
    queries = [int(q) for q in attacked["query"].unique().sort()]
    point = _matrix(attacked, place, queries, len(audit))
    runs = source.need_shadows()
    phi = np.full((len(runs), len(audit), len(queries)), np.nan, dtype=np.float32)
    trained = np.zeros((len(runs), len(audit)), dtype=bool)
    for row, run in enumerate(runs):
        rows, trained[row] = _read(source, run, place, queries)
        phi[row] = _matrix(rows, place, queries, len(audit))
    seen = ~np.isnan(phi).any(axis=2)
    inside = _fit(phi, seen & trained, variance, center)
    outside = _fit(phi, seen & ~trained, variance, center)
    score = _log_density(point, *inside[:2]) - _log_density(point, *outside[:2])
    scored = (inside[2] > 0) & (outside[2] > 0) & ~np.isnan(point).any(axis=1)
    return pl.DataFrame(
        {
            "sample_id": audit,
            "member": member,
            "score": pl.Series(np.where(scored, score, np.nan)).fill_nan(None),
            "n_in": inside[2],
            "n_out": outside[2],
        }
    ).filter(pl.Series(np.isfinite(point).any(axis=1)))


def _read(
    source: Source, run: Run, place: npt.NDArray[np.int64], queries: list[int] | None
) -> tuple[pl.DataFrame, npt.NDArray[np.bool_]]:
    frame = source.rows(run, "signals", ["sample_id", "query", "member", "phi"])
    if queries is not None:
        frame = frame.filter(pl.col("query").is_in(queries))
    frame = frame.filter(pl.Series(place[frame["sample_id"].to_numpy()] >= 0))
    if frame.is_empty():
        raise NotEnoughData(f"run {run.run!r} has no signals for the queries {queries} of the target")
    member = np.zeros(int(place.max()) + 1, dtype=bool)
    member[place[frame["sample_id"].to_numpy()]] = frame["member"].to_numpy()
    return frame, member


def _matrix(frame: pl.DataFrame, place: npt.NDArray[np.int64], queries: list[int], samples: int) -> Floats:
    matrix = np.full((samples, len(queries)), np.nan)
    column = np.searchsorted(queries, frame["query"].to_numpy())
    matrix[place[frame["sample_id"].to_numpy()], column] = frame["phi"].to_numpy()
    return matrix


def _fit(
    phi: npt.NDArray[np.float32], used: npt.NDArray[np.bool_], variance: str, center: str
) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Centre (N, Q), covariance (N, Q, Q) and number of runs (N,) a sample, from the runs that ``used`` marks."""
    count = used.sum(axis=0)
    known = np.maximum(count, 1)
    total = np.zeros(phi.shape[1:])
    for values, marked in zip(phi, used, strict=True):
        total += np.where(marked[:, None], values, 0.0)  # not a product: what a run has no value of is NaN
    mean = total / known[:, None]
    middle = mean
    if center == "median":
        # Runs not used sort to the end as NaN; the median lies at the middle of the first ``count``.
        ranked = np.sort(np.where(used[:, :, None], phi, np.nan), axis=0)
        rows = np.arange(len(count))
        middle = (ranked[(known - 1) // 2, rows].astype(np.float64) + ranked[known // 2, rows]) / 2
    about = middle if variance == "pooled" else mean
    covariance = np.zeros((phi.shape[1], phi.shape[2], phi.shape[2]))
    for values, marked in zip(phi, used, strict=True):
        residual = np.where(marked[:, None], values - about, 0.0)
        covariance += residual[:, :, None] * residual[:, None, :]
    if variance == "pooled":
        covariance = np.broadcast_to(covariance.sum(axis=0) / max(int(count.sum()), 1), covariance.shape)
    else:
        covariance = covariance / known[:, None, None]
    return middle, covariance, count


def _log_density(point: Floats, middle: Floats, covariance: Floats) -> Floats:
    queries = covariance.shape[-1]
    # Fewer runs than queries, or queries that always agree, leave a singular matrix; the floor, relative to the
    # matrix's own size, keeps it invertible and the score finite.
    size = np.trace(covariance, axis1=1, axis2=2) / queries
    floor = np.maximum(VARIANCE_FLOOR, 1e-9 * size)
    covariance = covariance + floor[:, None, None] * np.eye(queries)
    residual = np.where(np.isnan(point), 0.0, point) - np.where(np.isnan(middle), 0.0, middle)
    distance = np.einsum("nq,nq->n", residual, np.linalg.solve(covariance, residual[:, :, None])[:, :, 0])
    return -0.5 * (queries * np.log(2 * np.pi) + np.linalg.slogdet(covariance)[1] + distance)
