"""The entropy attack: is this modified entropy likelier for members or for non-members, among records of its class?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import NotEnoughData
from ..scores import Scores, count_unscored
from ..source import Source
from ..statistics.density import Cells, Density, bandwidths
from ..statistics.roc import rates
from .logits import left_out, shadow_logits, target_logits
from .loss import attacked_losses

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LOWEST, HIGHEST = -80.0, 16.0
"""Logarithms of modified entropies are held between these: e^-80 is that of p_y = 1 - 4e-18."""

_BLOCK = 2_048
"""Records looked at together: with ten classes arrays of 160 kB, which a processor's cache holds."""

CELLS = 3_072
WIDTH = (HIGHEST - LOWEST) / CELLS
"""1/32. From a bandwidth of 1/16 log densities are within 5e-4 of those of a kernel a value."""


def entropy(source: Source) -> Scores:
    """Entropy attack: the prediction's modified entropy, judged by that of shadow runs on records of its class.

    M = -(1 - p_y) log p_y - sum over c != y of p_c log(1 - p_c) is low where a model is sure and right. For each class
    the densities of log M over the shadow runs' members and over their non-members are estimated (Gaussian kernel,
    Scott's bandwidth); score = log f_in - log f_out at the target's log M. Higher = member. The target is no shadow of
    its own and its membership plays no part. Records as they are; those of the population count among the shadow runs'
    non-members, apart from canaries' candidates (group canary), and are given no score. Needs logits of the target and of shadow runs.

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


def modified_entropy(logits: npt.NDArray[np.floating], label: npt.NDArray[np.integer]) -> Floats:
    """-(1 - p_y) log p_y - sum over c != y of p_c log(1 - p_c), for logits (R, C) at labels (R,): shape (R,), >= 0.

    Its relative error stays at that of float64 where p rounds to 0 or 1: 1 - p of the likeliest class is summed from
    the others, and no other p is above 1/2. NaN where a logit is not finite or the label is none of the C classes.

    Source: Song & Mittal 2021, "Systematic Evaluation of Privacy Risks of Machine Learning Models".
    """
    found = np.empty(len(logits))
    for start in range(0, len(logits), _BLOCK):
        part = slice(start, start + _BLOCK)
        found[part] = _modified_entropy(logits[part], label[part])
    return found


def _modified_entropy(logits: npt.NDArray[np.floating], label: npt.NDArray[np.integer]) -> Floats:
    usable = np.isfinite(logits).all(axis=1) & (label >= 0) & (label < logits.shape[1])
    if not usable.all():
        logits = np.where(usable[:, None], logits, 0.0)
    z = np.ascontiguousarray(
        logits.T, dtype=np.float64
    )  # a row a class: what is done to each is done to many records at once
    rows, y = np.arange(len(logits)), np.where(usable, label, 0)
    top = logits.argmax(axis=1)
    highest, own = z[top, rows], z[y, rows]
    z -= highest
    relative = np.exp(z, out=z)
    relative[top, rows] = 0.0
    rest = relative.sum(axis=0)  # what the other classes have for each 1 of the likeliest
    p = relative
    p /= 1 + rest
    surprise = np.negative(p)
    np.log1p(surprise, out=surprise)
    surprise *= -1
    p[top, rows] = 1 / (1 + rest)
    # A rest that is too small for float64 belongs to logits more than 700 apart.
    surprise[top, rows] = np.log1p(rest) - np.log(np.maximum(rest, np.finfo(np.float64).tiny))
    of_label = np.where(top == y, rest / (1 + rest), 1 - p[y, rows]) * (highest - own + np.log1p(rest))
    surprise *= p
    surprise[y, rows] = of_label
    return np.where(usable, surprise.sum(axis=0), np.nan)


def log_modified_entropy(logits: npt.NDArray[np.floating], label: npt.NDArray[np.integer]) -> Floats:
    """log of the modified entropy of logits (R, C) at labels (R,), LOWEST to HIGHEST; NaN where there is none."""
    return np.log(np.clip(modified_entropy(logits, label), np.exp(LOWEST), np.exp(HIGHEST)))


@dataclass(frozen=True, eq=False)
class EntropyCells:
    """What values add up to, by class, membership (0 out, 1 in) and cell: arrays (classes, 2, CELLS).

    ``offset`` and ``square`` are sums of the distances from the cells' lower bounds and of their squares, so that each
    cell keeps its mean and variance.
    """

    count: Floats
    offset: Floats
    square: Floats

    @classmethod
    def empty(cls, classes: int) -> EntropyCells:
        return cls(*(np.zeros((classes, 2, CELLS)) for _ in range(3)))

    def add(self, value: Floats, label: npt.NDArray[np.integer], member: npt.NDArray[np.bool_]) -> None:
        """Take in values of `log_modified_entropy`; NaN is left out."""
        known = ~np.isnan(value)
        value, side = value[known] - LOWEST, member[known].astype(np.int64)
        cell = np.minimum((value / WIDTH).astype(np.int64), CELLS - 1)
        place = (label[known] * 2 + side) * CELLS + cell
        offset = value - cell * WIDTH
        np.add.at(self.count.reshape(-1), place, 1.0)
        np.add.at(self.offset.reshape(-1), place, offset)
        np.add.at(self.square.reshape(-1), place, offset * offset)

    def densities(self, label: int) -> tuple[Density, Density] | None:
        """Densities of a class's members and non-members, Scott's bandwidths; None where either has no value."""
        members, others = self._cells(label, 1), self._cells(label, 0)
        if members is None or others is None:
            return None
        chosen = bandwidths(members.moments(), others.moments())
        return members.smoothed(chosen[0]), others.smoothed(chosen[1])

    def _cells(self, label: int, side: int) -> Cells | None:
        (filled,) = np.nonzero(self.count[label, side])
        if len(filled) == 0:
            return None
        count = self.count[label, side, filled]
        mean = self.offset[label, side, filled] / count
        within = self.square[label, side, filled] / count - mean * mean
        # What rounding leaves of equal values is no spread.
        return Cells(LOWEST + filled * WIDTH + mean, np.where(within > 1e-12, within, 0.0), count)
