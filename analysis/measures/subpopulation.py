"""Subpopulations: clusters of what the target's last layer sees, the smallest being the under-represented one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidOption, NotEnoughData
from ...store.format.records import Run
from ..attacks.logits import lists_of, need_lists
from ..scores import Scores, count_unscored
from ..source import Source, with_membership
from ..statistics.metric import Metric

STARTS = 10
SEED = 0
"""k-means starts from 10 draws of k-means++ by this seed; the tightest result counts."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def subpopulation(
    source: Source,
    *,
    clusters: Annotated[int, "number of subpopulations"] = 5,
    components: Annotated[int, "principal components of the features that are clustered"] = 10,
    among: Annotated[
        str | None, "cluster only the samples of this group, as the under-represented data set"
    ] = None,
) -> Scores:
    """Subpopulations: clusters of the target's penultimate features; the smallest is the under-represented one.

    The features of the audit samples as they are (collect with --features) are centred, not scaled; principal components
    and k-means (10 starts of k-means++, fixed seed) make the clusters. score = -log(cluster size / samples). Higher = of
    a rarer subpopulation, which is no claim of membership; samples of one cluster tie. Labels and membership play no
    part.

    Columns: cluster (0 = the largest), cluster_size, distance (to the cluster's centre, among the components).

    Metrics of its own: cluster_share of each cluster, and explained_variance of the components.

    Needs: features of the target (collect with --features).

    Source: "Why Train More? Effective and Efficient Membership Inference via Memorization", section 6 (b), after
    Jagielski et al. 2021, "Subpopulation Data Poisoning Attacks".
    """
    from threadpoolctl import threadpool_limits

    if clusters < 2:
        raise InvalidOption(f"clusters of subpopulation is 2 or more, not {clusters}")
    if components < 1:
        raise InvalidOption(f"components of subpopulation is 1 or more, not {components}")
    target = source.need_target_table("signals")
    need_lists(source, target, "features")
    wanted = _wanted(source, among)
    with threadpool_limits(1):  # several would add up in an order of their own
        points, there, explained = _projected(source, target, wanted, components)
    if there.sum() < clusters:
        raise NotEnoughData(
            f"{clusters} clusters need as many samples with features; run {target.run!r} of experiment "
            f"{source.experiment!r} has {int(there.sum())}{'' if among is None else f' in group {among!r}'}"
        )
    with threadpool_limits(1):
        cluster, distance = cluster_points(points[there], clusters)
    size = np.bincount(cluster)
    frame = pl.DataFrame({"sample_id": np.flatnonzero(wanted).astype(np.int32)}).join(
        pl.DataFrame(
            {
                "sample_id": np.flatnonzero(there).astype(np.int32),
                "score": -np.log(size[cluster] / len(cluster)),
                "cluster": cluster.astype(np.int32),
                "cluster_size": size[cluster],
                "distance": distance,
            }
        ),
        on="sample_id",
        how="left",
        maintain_order="left",
    )
    notes = count_unscored(frame, "the target has no features of them, or some are not finite")
    if len(size) < clusters:
        notes += (
            f"the features have {len(size)} distinct values among their components: so many clusters, not {clusters}",
        )
    metrics = (
        Metric("explained_variance", explained, n=len(cluster), parameters={"components": points.shape[1]}),
        *(
            Metric("cluster_share", float(n / len(cluster)), n=int(n), parameters={"cluster": k})
            for k, n in enumerate(size)
        ),
    )
    return Scores(with_membership(source, frame), notes, metrics)


def _wanted(source: Source, among: str | None) -> Flags:
    """Which samples of the experiment to cluster."""
    samples = pl.DataFrame(source.lake.samples(source.experiment).select(["pool", "group"]))
    audit = (samples["pool"] == "audit").to_numpy()
    if among is None:
        return audit
    chosen = audit & (samples["group"] == among).fill_null(False).to_numpy()
    if not chosen.any():
        known = ", ".join(samples["group"].drop_nulls().unique().sort().head(8)) or "none"
        raise InvalidOption(
            f"experiment {source.experiment!r} has no audit sample of group {among!r} (groups: {known})"
        )
    return chosen


def _projected(source: Source, run: Run, wanted: Flags, components: int) -> tuple[Floats, Flags, float]:
    """Principal components (samples, K) of the experiment's wanted samples, which are there, and their share of variance.

    Two passes over the file: the first sums up the covariance, the second projects. Held at a time: one piece of the
    features, a matrix of width x width, and the components.
    """
    from threadpoolctl import threadpool_limits

    samples, mean, scatter, origin = 0, np.zeros(0), np.zeros((0, 0)), np.zeros(0)
    for _, values in _features(source, run, wanted):
        if samples == 0:  # sums are of differences from some record's features, so that they lose no digits
            origin = values[0]
            mean, scatter = np.zeros(len(origin)), np.zeros((len(origin), len(origin)))
        away = values - origin
        samples += len(away)
        mean += away.sum(axis=0)
        with threadpool_limits(1):  # sums keep their order
            scatter += away.T @ away
    there = np.zeros(len(wanted), dtype=bool)
    if samples == 0:
        return np.zeros((len(wanted), 0)), there, 0.0
    mean /= samples
    with threadpool_limits(1):
        variances, directions = np.linalg.eigh(scatter / samples - np.outer(mean, mean))
    variances = np.maximum(variances[::-1], 0)
    kept = min(components, len(variances))
    points = np.zeros((len(wanted), kept))
    for sample_id, values in _features(source, run, wanted):
        with threadpool_limits(1):
            points[sample_id] = (values - origin - mean) @ directions[:, ::-1][:, :kept]
        there[sample_id] = True
    whole = float(variances.sum())
    return points, there, float(variances[:kept].sum()) / whole if whole > 0 else 1.0


def _features(source: Source, run: Run, wanted: Flags) -> Iterator[tuple[npt.NDArray[np.int64], Floats]]:
    """Sample ids and features (R, width) float64 of the wanted samples, those that are finite."""
    for piece in lists_of(source, run, "features"):
        usable = wanted[piece.sample_id] & np.isfinite(piece.values).all(axis=1)
        if usable.any():
            yield piece.sample_id[usable], piece.values[usable].astype(np.float64)


def cluster_points(points: Floats, clusters: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Cluster (N,) of points (N, K), 0 = the largest, and each point's distance to its centre.

    Clusters of one size are numbered by their first point. There are fewer where the points have fewer distinct values.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # One thread: several add up the centres in the order in which they happen to be done.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # of fewer distinct points than clusters
        fitted = KMeans(clusters, n_init=STARTS, random_state=SEED).fit(points)
    found, first, label, size = np.unique(
        fitted.labels_, return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(found), dtype=np.int64)
    rank[np.lexsort((first, -size))] = np.arange(len(found))
    distance = np.linalg.norm(points - fitted.cluster_centers_[fitted.labels_], axis=1)
    return rank[label], distance
