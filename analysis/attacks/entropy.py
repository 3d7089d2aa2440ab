"""The entropy attack: is this modified entropy likelier for members or for non-members, among records of its class?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import NotEnoughData
from ..scores import Scores, count_unscored
from ..source import Source
from ..statistics.rates import rates
from .attacked import attacked_losses
from .entropy_cells import EntropyCells, log_modified_entropy
from .shadow_logits import left_out, shadow_logits, target_logits

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def entropy(source: Source) -> Scores:
    """Entropy attack: the prediction's modified entropy, judged by that of shadow runs on records of its class.

    M = -(1 - p_y) log p_y - sum over c != y of p_c log(1 - p_c) is low where a model is sure and right. For each class
    the densities of log M over the shadow runs' members and over their non-members are estimated (Gaussian kernel,
    Scott's bandwidth); score = log f_in - log f_out at the target's log M. Higher = member. The target is no shadow of
    its own and its membership plays no part. Records as they are; needs logits of the target and of shadow runs.

    Metrics of its own, rates of saying "member" where the score is above 0: tpr_at_log_ratio_0, fpr_at_log_ratio_0 and
    their difference advantage_at_log_ratio_0. The paper says it where M is at or under a threshold a class, chosen on
    shadow runs; with densities in its place extreme values keep an order of their own.

    Needs: logits of the target and of shadow runs.

    Source: Song & Mittal 2021, "Systematic Evaluation of Privacy Risks of Machine Learning Models"; as a test between
    two distributions a class, "Why Train More? Effective and Efficient Membership Inference via Memorization",
    appendix C.
    """
    frame = attacked_losses(source)
    target = target_logits(source, frame["sample_id"].to_numpy())
    counted, seen = EntropyCells.empty(target.values.shape[1]), set()
    for run, piece in shadow_logits(source, target.values.shape[1]):
        seen.add(run)
        counted.add(log_modified_entropy(piece.values, piece.label), piece.label, piece.member)
    notes = left_out(source, seen)
    value = np.concatenate([log_modified_entropy(part.values, part.label) for part in target.pieces()])
    score, n_in, n_out = _ratios(value, target.label, counted)
    scored = frame.select(
        "sample_id",
        "member",
        pl.Series("score", score).fill_nan(None),
        pl.Series("modified_entropy", np.exp(value)).fill_nan(None),
        pl.Series("n_in", n_in),
        pl.Series("n_out", n_out),
    )
    known = ~np.isnan(score)
    if not known.any():
        raise NotEnoughData(
            f"no class of experiment {source.experiment!r} has both members and non-members among its {len(seen)} "
            "shadow runs; collect more"
        )
    metrics = rates(score[known] > 0, frame["member"].to_numpy()[known], "at_log_ratio_0", {})
    why = (
        "they have no label or no finite logits, or no shadow run has members and non-members of their class"
    )
    return Scores(scored, (*count_unscored(scored, why), *notes), metrics)


def _ratios(
    value: Floats, label: npt.NDArray[np.integer], counted: EntropyCells
) -> tuple[Floats, Integers, Integers]:
    """log f_in - log f_out of each value under its label's densities, NaN without them; values of either side."""
    classes = len(counted.count)
    ratio, n_in, n_out = np.full(len(value), np.nan), np.zeros(len(value), int), np.zeros(len(value), int)
    known = np.flatnonzero(~np.isnan(value))
    order = known[np.argsort(label[known], kind="stable")]
    bounds = np.searchsorted(label[order], np.arange(classes + 1))
    for of_class, start, end in zip(range(classes), bounds[:-1], bounds[1:], strict=True):
        rows = order[start:end]
        n_out[rows], n_in[rows] = counted.count[of_class].sum(axis=1)
        fits = counted.densities(of_class) if len(rows) else None
        if fits is not None:
            inside, outside = fits
            ratio[rows] = inside.log_at(value[rows]) - outside.log_at(value[rows])
    return ratio, n_in, n_out
