"""Attacks P and S: is this loss usual for records of the population, or for records of this label?"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import NotEnoughData
from ..remedies import set_aside
from ..scores import Scores
from ..source import Source
from ..statistics.metric import Metric
from .loss import NOT_FINITE, attacked_losses
from .reference_share import (
    ALPHAS,
    Alpha,
    Interpolate,
    Levels,
    levels_of,
    share_scores,
    thresholds_at,
    with_thresholds,
)

Floats = npt.NDArray[np.float64]


def attack_p(
    source: Source,
    *,
    reference: Annotated[
        Literal["all", "class"], "compare with the whole population, or with its records of the same label"
    ] = "all",
    alpha: Alpha = ALPHAS,
    interpolate: Interpolate = False,
) -> Scores:
    """Attack P: the record's loss among the target's losses on population records. Needs no shadow runs.

    score = 1 - F(loss), F = share of the population's losses on the target that are at or under the record's (column
    share). Higher = member. Metrics of its own: what rejecting "not a member" at share <= alpha yields, tpr_at_alpha,
    fpr_at_alpha and their difference advantage_at_alpha. One threshold for all records: the order of the loss attack,
    calibrated; with labels apart it is another order. Column thresholds: the loss under which each alpha rejects;
    where it is one for all also metric threshold_at_alpha. Those of the population that are of group canary are not compared with: they are
    the candidates that `exposure` ranks canaries among.

    Needs: the target's signals; a population (collect with --population).

    Source: Ye et al. 2022, "Enhanced Membership Inference Attacks against Machine Learning Models", section 4.2.
    """
    levels = levels_of(alpha)
    attacked = attacked_losses(source)
    population = source.query("attack_p", {"target": source.target_name})
    if population.is_empty():
        raise NotEnoughData(
            f"attack-p compares with records that no run trained on, and run {source.target_name!r} of experiment "
            f"{source.experiment!r} has losses of none; {set_aside(source.lake, source.experiment)}"
        )
    by = "label" if reference == "class" else None
    frame = _share_among_losses(attacked, population, by, levels, interpolate)
    scores = share_scores(
        frame, levels, interpolate, f"{NOT_FINITE}, or no population record has their label"
    )
    if by is not None:
        return scores
    common = tuple(
        Metric("threshold_at_alpha", one["loss"], n=len(population), parameters={"alpha": one["alpha"]})
        for one in frame["thresholds"][0]
    )
    return replace(scores, metrics=(*scores.metrics, *common))


def attack_s(source: Source, *, alpha: Alpha = ALPHAS, interpolate: Interpolate = False) -> Scores:
    """Attack S: the record's loss among shadow models' losses on records of its label that they did not train on.

    score = 1 - F(loss), F = share of those losses that are at or under the target's (column share). Higher = member.
    Metrics of its own: what rejecting "not a member" at share <= alpha yields, tpr_at_alpha, fpr_at_alpha and their
    difference advantage_at_alpha. Column thresholds: the loss under which each alpha rejects, one a label. The target
    is no shadow of its own. Records of the population are compared with too; those of group canary are not: they are the candidates that
    `exposure` ranks canaries among.

    Needs: the target's signals; shadow runs.

    Source: Ye et al. 2022, "Enhanced Membership Inference Attacks against Machine Learning Models", section 4.1.
    """
    levels = levels_of(alpha)
    attacked = attacked_losses(source)
    shadows = source.need_shadows()
    if attacked["label"].is_null().all():
        raise NotEnoughData(
            f"the samples of experiment {source.experiment!r} have no labels; attack-s compares records of one label"
        )
    unseen = source.query("attack_s", {"target": source.target_name})
    if unseen.is_empty():
        raise NotEnoughData(
            f"the {len(shadows)} shadow runs of experiment {source.experiment!r} trained on every sample they have "
            "signals of; attack-s needs losses on others"
        )
    frame = _share_among_losses(attacked, unseen, "label", levels, interpolate)
    return share_scores(
        frame, levels, interpolate, f"{NOT_FINITE}, or no shadow run left out a record of their label"
    )


def _share_among_losses(
    frame: pl.DataFrame, reference: pl.DataFrame, by: str | None, levels: Levels, interpolate: bool
) -> pl.DataFrame:
    """Add share, n_reference and thresholds and set score = 1 - share, from the columns loss of both frames; label goes.

    ``by`` names an integer column of both whose values are kept apart. The score is NULL where no reference loss
    is of its kind or where it was NULL.
    """
    loss = frame["loss"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    others = reference["loss"].to_numpy()
    share, count = np.full(len(loss), np.nan), np.zeros(len(loss), dtype=np.int64)
    thresholds: list[Floats] = []  # of one kind after another
    which = np.zeros(len(loss), dtype=np.int32)
    own = np.zeros(len(loss), dtype=np.int64) if by is None else frame[by].to_numpy()
    kinds = np.zeros(len(others), dtype=np.int64) if by is None else reference[by].to_numpy()
    grouped = np.argsort(kinds, kind="stable")
    others, kinds = others[grouped], kinds[grouped]
    rows_of = np.argsort(own, kind="stable")
    for kind in np.unique(own):
        rows = rows_of[slice(*np.searchsorted(own, [kind, kind + 1], sorter=rows_of))]
        part = np.sort(others[slice(*np.searchsorted(kinds, [kind, kind + 1]))])
        share[rows], count[rows] = share_at_or_below(part, loss[rows], interpolate), len(part)
        which[rows] = len(thresholds)
        found = thresholds_at(part, np.zeros(1, np.int64), np.array([len(part)]), levels, interpolate)
        thresholds.append(found[0])
    del others, kinds, grouped, rows_of, own, loss  # of millions of records each is 24 MB
    scored = frame["score"].is_not_null().to_numpy() & (count > 0)
    share = np.where(scored, share, np.nan)
    frame = frame.drop("label").with_columns(
        pl.Series("score", 1 - share).fill_nan(None),
        pl.Series("share", share).fill_nan(None),
        pl.Series("n_reference", count),
    )
    del scored, share, count
    of_kinds = np.array(thresholds).reshape(-1, len(levels))
    return with_thresholds(frame, lambda rows: of_kinds[which[rows]], levels)


def share_at_or_below(ranked: Floats, loss: Floats, interpolate: bool) -> Floats:
    """F at each loss: the share of ``ranked`` values (sorted) at or under it; NaN where there are none.

    Interpolated, F goes on in a straight line from each reference loss towards the next one, by one value's share,
    and from 0 at loss 0 to the first; at a reference loss both are equal.
    """
    n = len(ranked)
    if n == 0:
        return np.full(len(loss), np.nan)
    below = np.searchsorted(ranked, loss, "right").astype(np.float64)
    if not interpolate:
        return below / n
    at = below.astype(np.int64)
    low = np.where(at > 0, ranked[np.maximum(at - 1, 0)], 0.0)
    high = ranked[np.minimum(at, n - 1)].astype(np.float64)
    inside = (at < n) & np.isfinite(high) & (loss > low)
    below[inside] += (loss[inside] - low[inside]) / (high[inside] - low[inside])
    return below / n
