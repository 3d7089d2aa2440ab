"""Gradient boosting that tells members from others: scikit-learn's trees, by its compiled parts alone, as its import takes ten times as long.

Bins, trees and steps are those of `HistGradientBoostingClassifier`, bit for bit; it is called itself where its parts lie otherwise.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from ..statistics.compiled import without_packages
from ..statistics.special import logit

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Bins = npt.NDArray[np.uint8]

TREES, LEAVES, RATE = 60, 8, 0.08

BINS = 255
"""Bins that a feature is put into for boosting."""

MOST_BINNED = 200_000
"""Known records up to which scikit-learn looks at all of them to find the bins; of more it draws some."""

_BOOSTING = "sklearn.ensemble._hist_gradient_boosting"
_PACKAGES = ("sklearn", "sklearn.utils", "sklearn._loss", "sklearn.ensemble", _BOOSTING)


def log_odds(known: Floats, member: Flags, asked: Floats) -> Floats:
    """The log odds of member of the records ``asked`` about, learnt from the ``known`` ones; members and non-members weigh alike."""
    if not len(asked):
        return np.zeros(0)
    weight = np.where(member, 0.5 / member.mean(), 0.5 / (1 - member.mean()))
    if len(known) > MOST_BINNED:
        return _by_classifier(known, member, weight, asked)
    known, asked = binned(known, weight, asked)
    try:
        with without_packages(_PACKAGES):
            parts = _parts()
        return _by_parts(parts, known.astype(np.uint8), member, weight, asked.astype(np.uint8))
    except (ImportError, AttributeError, TypeError, ValueError):  # another version's
        return _by_classifier(known, member, weight, asked)


def _by_classifier(known: Floats, member: Flags, weight: Floats, asked: Floats) -> Floats:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    model = HistGradientBoostingClassifier(
        max_iter=TREES, max_leaf_nodes=LEAVES, learning_rate=RATE, early_stopping=False, random_state=0
    )
    with threadpool_limits(1):
        model.fit(known, member, sample_weight=weight)
        return np.asarray(model.decision_function(asked), np.float64)


def _parts() -> tuple[Any, Any, Any]:
    """The class that grows a tree, the loss, and the function that adds a tree's values to those before it."""
    grower = importlib.import_module(f"{_BOOSTING}.grower")
    loss = importlib.import_module("sklearn._loss._loss")
    adding = importlib.import_module(f"{_BOOSTING}._gradient_boosting")
    return grower.TreeGrower, loss.CyHalfBinomialLoss, adding._update_raw_predictions


def _by_parts(parts: tuple[Any, Any, Any], known: Bins, member: Flags, weight: Floats, asked: Bins) -> Floats:
    grow, loss, add = parts
    inside, told = np.asfortranarray(known), member.astype(np.float64)
    start = float(logit(np.average(told, weights=weight)))
    said, answer = np.full(len(known), start), np.full(len(asked), start)
    slope, curve = np.empty((2, len(known)), np.float32)
    distinct = known.max(axis=0).astype(np.uint32) + 1
    between = [np.arange(count - 1) + 0.5 for count in distinct.tolist()]
    for _ in range(TREES):
        loss().gradient_hessian(
            y_true=told,
            raw_prediction=said,
            sample_weight=weight,
            gradient_out=slope,
            hessian_out=curve,
            n_threads=1,
        )
        grown = grow(
            inside,
            slope,
            curve,
            n_bins=BINS + 1,  # one more for what is missing
            n_bins_non_missing=distinct,
            max_leaf_nodes=LEAVES,
            min_samples_leaf=20,
            shrinkage=RATE,
            n_threads=1,
        )
        grown.grow()
        add(said, grown, 1)
        answer += grown.make_predictor(between).predict_binned(asked, BINS, 1)
    return answer


def binned(known: Floats, weight: Floats, asked: Floats) -> tuple[Floats, Floats]:
    """In which of `BINS` each value lies, in place of it: those that scikit-learn's boosting would put it into, column by column.

    It sorts a column anew for the bound of each bin, which takes longer than to learn. A tree of the numbers of bins is that of the values.
    """
    pairs = [_bins(*column, weight) for column in zip(known.T, asked.T, strict=True)]
    return np.stack([inside for inside, _ in pairs], axis=1), np.stack([other for _, other in pairs], axis=1)


def _bins(known: Floats, asked: Floats, weight: Floats) -> tuple[Floats, Floats]:
    distinct = np.unique(known)
    if len(distinct) <= BINS:
        bounds = (distinct[:-1] + distinct[1:]) / 2
    else:
        bounds = _bounds(known, weight)
    # Bins without a known value, if weights are few, part no known ones; what lies there falls to the next.
    place = np.searchsorted(bounds, known, "left")
    filled = np.flatnonzero(np.bincount(place, minlength=len(bounds) + 1))
    bounds = bounds[filled[filled < len(bounds)]]
    inside, outside = (np.searchsorted(bounds, values, "left") for values in (known, asked))
    return inside.astype(np.float64), outside.astype(np.float64)


def _bounds(values: Floats, weight: Floats) -> Floats:
    """The weighted quantiles that part the bins, the mean of two values where the weights below and above are as asked."""
    order = np.argsort(values)
    values, weight = values[order], weight[order]
    # Of equal values the weights are added up in the order that a second sort leaves them in.
    below = np.cumsum(weight[np.argsort(values)])
    wanted = np.linspace(0, 100, BINS + 1)[1:-1] / 100 * below[-1]
    at = np.minimum(np.searchsorted(below, wanted), len(values) - 1)
    after = np.minimum(at + 1, len(values) - 1)
    found = np.where(
        below[at] - wanted > np.finfo(np.float64).eps, values[at], (values[at] + values[after]) / 2
    )
    return np.unique(found)
