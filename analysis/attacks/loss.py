"""The loss attack: what a model has trained on, it gets right more surely."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..scores import Scores, count_unscored
from ..source import Source
from ..statistics.metric import Metric
from ..statistics.roc import rates
from .attacked import NOT_FINITE, attacked_losses


def loss(source: Source) -> Scores:
    """Loss attack: the target's loss on the record alone, low for what it trained on. Needs no shadow runs.

    score = -loss of the record as it is. Higher = member. Metrics of its own: mean_loss, the mean loss of the
    target's members, which the paper's attack takes for its threshold, and the rates of naming every record at or
    under it a member: tpr_at_mean_loss, fpr_at_mean_loss and advantage_at_mean_loss, which is their difference.

    Needs: the target's signals.

    Source: Yeom et al. 2018, "Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting".
    """
    frame = attacked_losses(source)
    score, member = Scores(frame).arrays()
    known = ~np.isnan(score)
    notes = count_unscored(frame, NOT_FINITE)
    return Scores(frame.drop("label"), notes, _at_mean_loss(-score[known], member[known]))


def _at_mean_loss(losses: npt.NDArray[np.float64], member: npt.NDArray[np.bool_]) -> tuple[Metric, ...]:
    """The threshold, and the attack at it; nothing without members."""
    of_members = losses[member]
    n = len(of_members)
    if n == 0:
        return ()
    mean = float(of_members.mean())
    spread = 1.959963984540054 * float(of_members.std(ddof=1)) / n**0.5 if n > 1 else np.inf
    threshold = Metric("mean_loss", mean, max(0.0, mean - spread), mean + spread, n)
    return (threshold, *rates(losses <= mean, member, "at_mean_loss", {}))
