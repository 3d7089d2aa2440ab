"""LiRA, the likelihood-ratio attack: in SQL, query by query, or with one Gaussian over all queries of a sample."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidOption, NotEnoughData
from ..scores import Scores, count_unscored
from ..source import Source
from .lira_each import VARIANCE_FLOOR
from .phi_matrix import NO_MEDIANS, medians, phi_medians, queries_of, read_phi, shadow_phi
from .variance_prior import log_gamma_half, log_variances

Floats = npt.NDArray[np.float64]


def lira(
    source: Source,
    *,
    mode: Annotated[
        Literal["online", "offline"], "fit runs with and without the sample, or only those without"
    ] = "online",
    variance: Annotated[
        Literal["auto", "bayes", "sample", "pooled"],
        "each sample's own drawn to those of all by a prior, its own alone, or one for all; auto: bayes",
    ] = "auto",
    center: Annotated[Literal["mean", "median"], "of the shadow runs' phi"] = "mean",
    queries: Annotated[
        Literal["mean", "gaussian"],
        "several views: mean of their log ratios, or one Gaussian with full covariance",
    ] = "mean",
) -> Scores:
    """LiRA: how much likelier is the target's phi if the sample was a member than if it was not.

    Online: log p(phi; in) - log p(phi; out), densities fitted to each sample's phi over shadow runs; offline:
    -log Pr[Z > phi] with Z fitted to the runs without it. The target is left out of its own fit. Higher = member.

    Variance bayes: variances are inverse gamma over samples, in and out apart, as the spread of their logs says, and the density of
    phi is the Student t that is expected of one more value, mean and variance being estimated. The paper's own are
    Gaussians: variance sample divides by n; pooled is the mean square of the residuals from each sample's centre, in and out
    apart; the paper's code pools under 64 shadow runs.

    Needs: the target's signals; shadow runs with and (online) without each sample.

    Source: Carlini et al. 2022, "Membership Inference Attacks From First Principles", algorithm 1 and section VI; for
    bayes Braennvall 2026, "Exponential-Family Membership Inference: From LiRA and RMIA to BaVarIA" (arXiv 2603.11799), and
    Smyth 2004, "Linear models and empirical Bayes methods for assessing differential expression in microarray experiments".
    """
    target = source.need_target_table("signals")
    shadows = source.need_shadows()
    chosen = "bayes" if variance == "auto" else variance
    if queries == "gaussian":
        frame = _gaussian_queries(source, mode, chosen, center)
    else:
        middle = phi_medians(source, shadows, queries_of(source)) if center == "median" else NO_MEDIANS
        source.provide("phi_medians", middle)
        frame = source.query(
            "lira", {"target": target.run, "mode": mode, "variance": chosen, "center": center}
        )
    if frame["score"].null_count() == len(frame):
        raise NotEnoughData(
            f"no sample of experiment {source.experiment!r} was {'both in and out of' if mode == 'online' else 'left out of'} "
            f"the training sets of its {len(shadows)} shadow runs; collect more"
        )
    notes = count_unscored(frame, "no shadow run trained on them, or none did without them")
    return Scores(frame, notes)


def _gaussian_queries(source: Source, mode: str, variance: str, center: str) -> pl.DataFrame:
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
