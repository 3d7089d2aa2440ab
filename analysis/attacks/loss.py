"""Attacks on the loss of the record as it is: low for what a model trained on, or lower than other models' losses."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import NotEnoughData
from ..scores import Scores, count_unscored
from ..source import Source
from ..statistics.metric import Metric
from ..statistics.roc import rates
from .in_and_out import query_in_parts

NOT_FINITE = "the target's loss on them is not finite"


def attacked_losses(source: Source) -> pl.DataFrame:
    """sample_id, member, score (-loss), loss and label of the audit samples the target has signals of.

    The score is NULL where the loss is not finite. Raises NotEnoughData where the target has no signals of the
    samples as they are.
    """
    target = source.need_target_table("signals")
    frame = source.query("loss", {"target": target.run})
    if frame["score"].null_count() == len(frame):
        raise NotEnoughData(
            f"run {target.run!r} of experiment {source.experiment!r} has no finite loss of any sample as it is "
            "(query 0)"
        )
    return frame


def loss(source: Source) -> Scores:
    """Loss attack: the target's loss on the record alone, low for what it trained on. Needs no shadow runs.

    score = -loss of the record as it is. Higher = member. Metrics of its own: mean_loss, the mean loss of the
    target's members, which the paper's attack takes for its threshold, and the rates of naming every record at or
    under it a member: tpr_at_mean_loss, fpr_at_mean_loss and advantage_at_mean_loss, which is their difference. Of a
    language model the loss is the mean over the tokens, the logarithm of the perplexity: both order texts alike.

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

    With --tau out and reference runs this is the reference attack on language models: the log-perplexity of the text under
    models that were not trained on it less that under the target, a mean over the same tokens. Where a run counts other
    tokens than the target, as with another tokenizer, it is refused; --without leaves that run out.

    Needs: the target's signals; shadow or reference runs with and (both) without each sample.

    Source: Sablayrolles et al. 2019, "White-box vs Black-box: Bayes Optimal Strategies for Membership Inference"
    ("both"); Watson et al. 2022, "On the Importance of Difficulty Calibration in Membership Inference Attacks" ("out");
    Carlini et al. 2021, "Extracting Training Data from Large Language Models", section 5.2 (the ratio to another model).
    """
    target = source.need_target_table("signals")
    runs = source.need_references()
    frame = query_in_parts(source, "calibrated", {"target": target.run, "tau": tau}, runs, "loss")
    if frame["score"].null_count() == len(frame):
        raise NotEnoughData(
            f"no sample of experiment {source.experiment!r} with a finite loss was "
            f"{'both in and out of' if tau == 'both' else 'left out of'} the training sets of its {len(runs)} shadow "
            f"and reference runs; collect more{'' if tau == 'out' else ', or hold it against those without alone: --tau out'}"
        )
    others = (
        "no other run trained on them, or none did without them"
        if tau == "both"
        else "no other run did without them"
    )
    return Scores(frame, count_unscored(frame, f"their loss is not finite, {others}"))
