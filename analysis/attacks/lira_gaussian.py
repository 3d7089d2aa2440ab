"""LiRA with one Gaussian, or multivariate t, over all queries of a sample."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidOption
from ..source import Source
from .lira_each import VARIANCE_FLOOR
from .phi_matrix import medians, queries_of, read_phi, shadow_phi
from .variance_prior import log_gamma_half, log_variances

Floats = npt.NDArray[np.float64]


def gaussian_queries(source: Source, mode: str, variance: str, center: str) -> pl.DataFrame:
    """Online LiRA scores with multivariate normals, or for bayes multivariate t, over the queries of a sample.

    Returns sample_id, member, score, n_in, n_out of the samples the target has signals of. Covariances divide by
    n; pooled ones are the mean outer product of the residuals from each sample's centre. With bayes covariances are inverse
    Wishart over samples about the pooled one, how much they differ being fitted where that is the identity. Holds phi
    of all shadow runs: runs x samples x queries float32.
    """
    if mode == "offline":
        raise InvalidOption(
            "a tail of several queries at once is not defined; offline LiRA takes --queries mean"
        )
    target = source.need_target()
    queries = queries_of(source)
    attacked = read_phi(source, [target], queries)
    point = attacked.phi[0].astype(np.float64)
    matrix = shadow_phi(source, queries)
    phi, trained = matrix.phi, matrix.member
    seen = ~np.isnan(phi).any(axis=2)
    inside, n_in = _fit(phi, seen & trained, variance, center)
    outside, n_out = _fit(phi, seen & ~trained, variance, center)
    score = _log_density(point, *inside) - _log_density(point, *outside)
    scored = (n_in > 0) & (n_out > 0) & ~np.isnan(point).any(axis=1)
    return pl.DataFrame(
        {
            "sample_id": matrix.sample_id.astype(np.int32),
            "member": attacked.member[0],
            "score": pl.Series(np.where(scored, score, np.nan)).fill_nan(None),
            "n_in": n_in,
            "n_out": n_out,
        }
    ).filter(pl.Series(np.isfinite(point).any(axis=1)))


def _fit(
    phi: npt.NDArray[np.float32], used: npt.NDArray[np.bool_], variance: str, center: str
) -> tuple[tuple[Floats, Floats, Floats | None], npt.NDArray[np.int64]]:
    """Centre (N, Q), covariance or scale (N, Q, Q), a t's degrees of freedom (N,); and number of runs (N,) a sample.

    From the runs that ``used`` marks.
    """
    count = used.sum(axis=0)
    known = np.maximum(count, 1)
    total = np.zeros(phi.shape[1:])
    for values, marked in zip(phi, used, strict=True):
        total += np.where(marked[:, None], values, 0.0)  # not a product: what a run has no value of is NaN
    mean = total / known[:, None]
    middle = mean
    if center == "median":
        flat = used.repeat(phi.shape[2], axis=1)
        middle = medians(phi.reshape(len(phi), -1), flat).reshape(phi.shape[1:])
    about = middle if variance == "pooled" else mean
    products = np.zeros((phi.shape[1], phi.shape[2], phi.shape[2]))
    for values, marked in zip(phi, used, strict=True):
        residual = np.where(marked[:, None], values - about, 0.0)
        products += residual[:, :, None] * residual[:, None, :]
    dof = None
    if variance == "sample":
        covariance = products / known[:, None, None]
    else:
        covariance = products.sum(axis=0) / max(int(count.sum()), 1)
        if variance == "bayes":
            covariance, dof = _drawn_to(covariance, products, count)
        covariance = np.broadcast_to(covariance, products.shape)
    return (middle, covariance, dof), count


def _drawn_to(pooled: Floats, products: Floats, count: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Scale (N, Q, Q) and degrees of freedom (N,) of the t that is expected of one more value of each sample."""
    queries = len(pooled)
    size = float(np.trace(pooled)) / queries
    pooled = pooled + max(VARIANCE_FLOOR, 1e-9 * size) * np.eye(queries)
    values, axes = np.linalg.eigh(pooled)
    apart = axes / np.sqrt(values)  # to where the pooled covariance is the identity
    squares = np.einsum("qa,nqr,ra->na", apart, products, apart)
    counts = np.broadcast_to(count[:, None], squares.shape)
    prior = log_variances(counts, squares, VARIANCE_FLOOR / max(size, VARIANCE_FLOOR), axis=None).prior()
    dof = prior.dof.item() + np.maximum(count, 1) - 1
    scale = (prior.dof.item() * prior.variance.item() * pooled + products) / dof[:, None, None]
    return scale * (1 + 1 / np.maximum(count, 1))[:, None, None], dof


def _log_density(point: Floats, middle: Floats, covariance: Floats, dof: Floats | None) -> Floats:
    queries = covariance.shape[-1]
    # Fewer runs than queries, or queries that always agree, leave a singular matrix; the floor, relative to the
    # matrix's own size, keeps it invertible and the score finite.
    size = np.trace(covariance, axis1=1, axis2=2) / queries
    floor = np.maximum(VARIANCE_FLOOR, 1e-9 * size)
    covariance = covariance + floor[:, None, None] * np.eye(queries)
    residual = np.where(np.isnan(point), 0.0, point) - np.where(np.isnan(middle), 0.0, middle)
    distance = np.einsum("nq,nq->n", residual, np.linalg.solve(covariance, residual[:, :, None])[:, :, 0])
    log_volume = np.linalg.slogdet(covariance)[1]
    if dof is None:
        return -0.5 * (queries * np.log(2 * np.pi) + log_volume + distance)
    steps = sum(log_gamma_half((dof + query) / 2) for query in range(queries))
    return (
        steps
        - 0.5 * (queries * np.log(np.pi * dof) + log_volume)
        - (dof + queries) / 2 * np.log1p(distance / dof)
    )
