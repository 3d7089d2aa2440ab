"""LiRA: the likelihood-ratio attack."""

from __future__ import annotations

from typing import Annotated, Literal

from ...store.errors import NotEnoughData
from ..scores import Scores, count_unscored
from ..source import Source
from .lira_gaussian import gaussian_queries
from .phi_matrix import NO_MEDIANS, phi_medians, queries_of

POOL_UNDER = 64
"""Under this many shadow runs a variance of one's own is too noisy (Carlini et al. 2022, section VI-B)."""


def lira(
    source: Source,
    *,
    mode: Annotated[
        Literal["online", "offline"], "fit runs with and without the sample, or only those without"
    ] = "online",
    variance: Annotated[
        Literal["auto", "sample", "pooled"],
        "each sample's own, one for all, or by the number of runs (under 64: pooled)",
    ] = "auto",
    center: Annotated[Literal["mean", "median"], "of the shadow runs' phi"] = "mean",
    queries: Annotated[
        Literal["mean", "gaussian"],
        "several views: mean of their log ratios, or one Gaussian with full covariance",
    ] = "mean",
) -> Scores:
    """LiRA: how much likelier is the target's phi if the sample was a member than if it was not.

    Online: log N(phi; in) - log N(phi; out), Gaussians fitted to each sample's phi over shadow runs; offline:
    -log Pr[Z > phi] with Z fitted to the runs without it. Variances divide by n; pooled is the mean square of the
    residuals from each sample's centre, in and out apart. The target is left out of its own fit. Higher = member.

    Needs: the target's signals; shadow runs with and (online) without each sample.

    Source: Carlini et al. 2022, "Membership Inference Attacks From First Principles", algorithm 1 and section VI.
    """
    target = source.need_target_table("signals")
    shadows = source.need_shadows()
    chosen = variance if variance != "auto" else "pooled" if len(shadows) < POOL_UNDER else "sample"
    if queries == "gaussian":
        frame = gaussian_queries(source, mode=mode, variance=chosen, center=center)
    else:
        source.provide(
            "phi_medians",
            phi_medians(source, shadows, queries_of(source)) if center == "median" else NO_MEDIANS,
        )
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
