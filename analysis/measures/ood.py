"""Out-of-distribution detectors on the target's logits."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidOption, NotEnoughData
from ..attacks.logits import logits_of, need_lists
from ..scores import Scores, count_unscored
from ..source import Source


def ood(
    source: Source,
    *,
    detector: Annotated[
        Literal["msp", "energy"], "1 - the highest probability, or the free energy of all logits"
    ] = "msp",
    temperature: Annotated[float, "the T that divides the logits"] = 1.0,
) -> Scores:
    """Out-of-distribution score of the target on each record as it is: how foreign the record looks to it.

    msp: 1 - max p with p = softmax(z / T); energy: -T logsumexp(z / T). Higher = further out of distribution, which is
    no claim of membership: a model is often the surer of a record for having trained on it. How much such a score says
    about privacy, `spearman ood privacy-score` tells; published rank correlations stay below .4, at most .55.

    Needs: logits of the target.

    Source: Hendrycks & Gimpel 2017, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples" (msp); Liu
    et al. 2020, "Energy-based Out-of-distribution Detection" (energy).
    """
    if not 0 < temperature < np.inf:
        raise InvalidOption(f"temperature of ood must be above 0, not {temperature}")
    target = source.need_target_table("signals")
    need_lists(source, target)
    audit = source.audited()
    parts = [
        pl.DataFrame(
            {
                "sample_id": piece.sample_id.astype(np.int32),
                "member": piece.member,
                "score": foreignness(piece.values, detector, temperature),
            }
        ).filter(pl.Series(audit[piece.sample_id]))
        for piece in logits_of(source, target)
    ]
    frame = pl.concat(parts).sort("sample_id") if parts else pl.DataFrame()
    if frame.is_empty():
        raise NotEnoughData(
            f"run {target.run!r} of experiment {source.experiment!r} has logits of no audit sample as it is (query 0)"
        )
    frame = frame.with_columns(pl.when(pl.col("score").is_finite()).then("score").alias("score"))
    return Scores(frame, count_unscored(frame, "a logit of theirs is not finite"))


def foreignness(
    logits: npt.NDArray[np.float32], detector: Literal["msp", "energy"], temperature: float
) -> npt.NDArray[np.float64]:
    """The score of each row of logits (R, C); NaN or infinite where one is not finite.

    msp is the sum of the other probabilities, which stays exact where the highest rounds to 1.
    """
    with np.errstate(invalid="ignore"):
        z = logits.astype(np.float64) / temperature
        highest = z.max(axis=1)
        parts = np.exp(z - highest[:, None])
        if detector == "energy":
            return -temperature * (highest + np.log(parts.sum(axis=1)))
        parts[np.arange(len(z)), z.argmax(axis=1)] = 0
        others = np.where(np.isfinite(highest), parts.sum(axis=1), np.nan)
    return others / (1 + others)
