"""Gradient boosting that tells members from others: scikit-learn's, given the bins of values that it would find itself, in less time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

BINS = 255
"""Bins that a feature is put into for boosting."""

MOST_BINNED = 200_000
"""Known records up to which scikit-learn looks at all of them to find the bins; of more it draws some."""


def log_odds(known: Floats, member: Flags, asked: Floats) -> Floats:
    """The log odds of member of the records ``asked`` about, learnt from the ``known`` ones; members and non-members weigh alike."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    if not len(asked):
        return np.zeros(0)
    weight = np.where(member, 0.5 / member.mean(), 0.5 / (1 - member.mean()))
    model = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=8, learning_rate=0.08, early_stopping=False, random_state=0
    )
    if len(known) <= MOST_BINNED:
        known, asked = binned(known, weight, asked)
    with threadpool_limits(1):
        model.fit(known, member, sample_weight=weight)
        return np.asarray(model.decision_function(asked), np.float64)


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
