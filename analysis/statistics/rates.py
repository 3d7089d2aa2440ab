"""Rates of a decision: how many members and how many non-members an attack names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .intervals import clopper_pearson
from .metric import Metric


def rates(
    named: npt.NDArray[np.bool_], member: npt.NDArray[np.bool_], where: str, parameters: Mapping[str, Any]
) -> tuple[Metric, ...]:
    """TPR, FPR and advantage = TPR - FPR of naming these records members, called ``tpr_WHERE`` and likewise.

    Both rates with Clopper-Pearson intervals; that of the advantage is put together from theirs, as of independent
    shares (Newcombe 1998, method 10). Empty when there are only members or only non-members.
    """
    n_members, n_others = int(member.sum()), int((~member).sum())
    if n_members == 0 or n_others == 0:
        return ()
    hits, alarms = int((named & member).sum()), int((named & ~member).sum())
    tpr, fpr = hits / n_members, alarms / n_others
    tpr_low, tpr_high = clopper_pearson(hits, n_members)
    fpr_low, fpr_high = clopper_pearson(alarms, n_others)
    below = math.hypot(tpr - tpr_low, fpr_high - fpr)
    above = math.hypot(tpr_high - tpr, fpr - fpr_low)
    advantage = tpr - fpr
    return (
        Metric(f"tpr_{where}", tpr, tpr_low, tpr_high, n_members, parameters),
        Metric(f"fpr_{where}", fpr, fpr_low, fpr_high, n_others, parameters),
        Metric(
            f"advantage_{where}",
            advantage,
            max(-1.0, advantage - below),
            min(1.0, advantage + above),
            n_members + n_others,
            parameters,
        ),
    )
