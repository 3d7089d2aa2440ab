"""Whether members and non-members differ by themselves: then an attack that looks at one model takes easy records for members."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..statistics.metric import Metric
from ..statistics.roc import auc, split
from .some_answers import SomeAnswers

ERRORS = 2.576
"""Standard errors from .5 beyond which an AUC is told: 1 in 100 experiments without a difference."""

VOID = ("loss", "attack-p", "kde", "entropy", "shadow-nn", "trajectory")
"""Attacks that see one answer to a record: what they find may be its difficulty alone."""

LEANING = ("rmia", "residual", "attack-r", "attack-s", "calibrated", "lira[mode=offline]")
"""Attacks that compare a record with itself in other models or in earlier epochs, on one side or by a share: part of the difference stays in them."""

ITSELF = ("lira",)
"""Attacks that weigh a record's answers with it against those without it: what is hard is hard in both. What a target learnt of the
kind of its members, where shadow models learnt of both kinds, stays in them too."""


@dataclass(frozen=True)
class Shift:
    """The AUC against the target's membership of the mean loss under shadow models that were not trained on a record,
    ``easy`` being high; and its distance from .5 in standard errors under no difference."""

    auc: Metric
    errors: float

    @property
    def told(self) -> bool:
        return abs(self.errors) > ERRORS


def shifted_members(answers: SomeAnswers) -> Shift | None:
    """How far records that are easy without training are the target's members; None without members, non-members or shadows.

    A target whose members were drawn without regard to the records has an AUC of .5. The error is Mann & Whitney's, which holds
    for any distribution of the loss.
    """
    out = ~answers.member[1:] & np.isfinite(answers.loss[1:])
    known = ~np.isnan(answers.loss[0]) & out.any(axis=0)
    total = np.where(out, answers.loss[1:], 0.0).sum(axis=0, dtype=np.float64)
    mean = (total / np.maximum(out.sum(axis=0), 1))[known]
    members, others = split(-mean, answers.member[0, known])
    if min(len(members), len(others)) == 0:
        return None
    area = auc(members, others)
    assert area.value is not None
    error = math.sqrt((len(members) + len(others) + 1) / (12 * len(members) * len(others)))
    return Shift(area, (area.value - 0.5) / error)


def caution_on_shift(shift: Shift | None) -> str | None:
    """A warning for readers where members and non-members differ under models that were trained on neither."""
    if shift is None or not shift.told:
        return None
    area = shift.auc
    kind = "easier" if shift.errors > 0 else "harder"
    return (
        f"Members are {kind} than non-members for shadow models that were trained on neither (their mean loss tells them "
        f"apart with AUC {area.value:.2f}, {area.ci_low:.2f} to {area.ci_high:.2f}; 0.50 where members were drawn by chance): a "
        f"shift between them and no sign of what the target learnt. What these find is void: {', '.join(VOID)}; part of the shift is also in "
        f"{', '.join(LEANING)}. {', '.join(ITSELF)} with in- and out-models compares each record with itself; what the target knows of its members' kind alone, "
        "and not of them, still looks like a leak"
    )


def compares_with_itself(score: str) -> bool:
    """Whether this score, NAME or NAME[option=value,...], takes little of a difference between members and non-members for a leak."""
    return score.partition("[")[0] in ITSELF and "mode=offline" not in score
