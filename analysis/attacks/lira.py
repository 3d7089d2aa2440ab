"""LiRA, the likelihood-ratio attack: query by query, or with one Gaussian over all queries of a sample."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import NotEnoughData
from ...store.format.schema import ORIGINAL
from ..scores import Scores, count_unscored
from ..source import Source
from .in_and_out import Fit, fits_of
from .lira_each import scores_of, variances_of
from .lira_gaussian import gaussian_queries
from .phi_matrix import NO_MEDIANS, median_fits, phi_medians, queries_of, why_no_phi
from .run_answers import answers_of

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

    Offline, a record is judged by the spread of its own phi alone, so where records of a wide spread also move most when they are trained on,
    what more runs tell of that spread outweighs what they tell of the mean, and TPRs level off from some 16 runs on: at an FPR of 1% with 64
    runs .045 on digits, .053 by variance pooled; on CIFAR-10 .445, .336 pooled (docs/science.md; noise it is not, as pooled rises on the same runs).

    Needs: the target's signals; shadow runs with and (online) without each sample.

    Source: Carlini et al. 2022, "Membership Inference Attacks From First Principles", algorithm 1 and section VI; for
    bayes Braennvall 2026, "Exponential-Family Membership Inference: From LiRA and RMIA to BaVarIA" (arXiv 2603.11799), and
    Smyth 2004, "Linear models and empirical Bayes methods for assessing differential expression in microarray experiments".
    """
    target = source.need_target_table("signals")
    shadows = source.need_shadows()
    chosen = "bayes" if variance == "auto" else variance
    if queries == "gaussian":
        frame = gaussian_queries(source, mode, chosen, center)
    elif source.adds_up_in_sql:
        source.provide(
            "phi_medians",
            phi_medians(source, shadows, queries_of(source)) if center == "median" else NO_MEDIANS,
        )
        about = {"target": target.run, "mode": mode, "variance": chosen, "center": center}
        frame = source.query("lira", about)
    else:
        frame = _query_by_query(source, mode, chosen, center)
    if frame["score"].null_count() == len(frame):
        raise NotEnoughData(
            why_no_phi(source)
            or f"no sample of experiment {source.experiment!r} was {'both in and out of' if mode == 'online' else 'left out of'} "
            f"the training sets of its {len(shadows)} shadow runs; collect more"
        )
    notes = count_unscored(frame, "no shadow run trained on them, or none did without them")
    return Scores(frame, notes)


def _query_by_query(source: Source, mode: str, variance: str, center: str) -> pl.DataFrame:
    """The answer to sql/lira.sql, by sums over run after run: the same bits each time, and a third of the time."""
    target, shadows = source.need_target(), source.need_shadows()
    queries = queries_of(source)
    sample_id = np.flatnonzero(source.audited())
    (attacked,) = answers_of(source, [target], ["phi"], sample_id, queries, passing_over=False)
    point = attacked.columns[0].astype(np.float64)
    about_means = fits_of(source, shadows, "phi", sample_id, queries)
    fits = about_means
    if center == "median":
        fits = median_fits(source, shadows, sample_id, queries, about_means, pooled=variance == "pooled")
    asked = ~np.isnan(point)
    original = asked[:, 0] if queries[:1] == [ORIGINAL] else np.zeros(len(sample_id), dtype=bool)
    columns: dict[str, npt.NDArray[np.floating]] = {"phi": np.where(original, point[:, 0], np.nan)}
    for side, fit in zip(("in", "out"), fits, strict=True):
        known = original & (fit.n[:, 0] > 0)
        columns[f"centre_{side}"] = np.where(known, fit.mean[:, 0], np.nan)
        columns[f"sd_{side}"] = np.where(known, np.sqrt(variances_of(fit, variance)[:, 0]), np.nan)
    return (
        pl.DataFrame(
            {
                "sample_id": sample_id.astype(np.int32),
                "member": attacked.member,
                "score": scores_of(point, fits, mode, variance),
                "n_in": _fewest(fits[0], asked),
                "n_out": _fewest(fits[1], asked),
                **{name: columns[name] for name in ("phi", "centre_in", "centre_out", "sd_in", "sd_out")},
            }
        )
        .with_columns(pl.col(pl.Float64).fill_nan(None))
        .filter(pl.Series(asked.any(axis=1)))
    )


def _fewest(fit: Fit, asked: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The least number of runs that one of a sample's queries has."""
    return (
        np.where(asked, fit.n, np.iinfo(np.int32).max)
        .min(axis=1, initial=np.iinfo(np.int32).max)
        .astype(np.int64)
    )
