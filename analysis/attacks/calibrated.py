"""Calibrated loss: a loss that is low for this record, not low because the record is easy."""

from __future__ import annotations

from typing import Annotated, Literal

from ...store.errors import NotEnoughData
from ..scores import Scores, count_unscored
from ..source import Source
from .attacked import need_references


def calibrated(
    source: Source,
    *,
    tau: Annotated[
        Literal["both", "out"], "what a loss is held against: runs with and without the record, or without"
    ] = "both",
) -> Scores:
    """Calibrated loss: how far the target's loss on the record lies under that of other models.

    score = tau - loss of the record as it is. tau is the mean of two means, of the losses of shadow and reference runs
    that trained on the record and of those that did not ("both"), or the latter alone ("out"); columns mean_in,
    mean_out, n_in, n_out. The target is left out. Higher = member.

    Needs: the target's signals; shadow or reference runs with and (both) without each sample.

    Source: Sablayrolles et al. 2019, "White-box vs Black-box: Bayes Optimal Strategies for Membership Inference"
    ("both"); Watson et al. 2022, "On the Importance of Difficulty Calibration in Membership Inference Attacks" ("out").
    """
    target = source.need_target_table("signals")
    runs = need_references(source)
    frame = source.query("calibrated", {"target": target.run, "tau": tau})
    if frame["score"].null_count() == len(frame):
        raise NotEnoughData(
            f"no sample of experiment {source.experiment!r} with a finite loss was "
            f"{'both in and out of' if tau == 'both' else 'left out of'} the training sets of its {len(runs)} shadow "
            "and reference runs; collect more"
        )
    others = (
        "no other run trained on them, or none did without them"
        if tau == "both"
        else "no other run did without them"
    )
    return Scores(frame, count_unscored(frame, f"their loss is not finite, {others}"))
