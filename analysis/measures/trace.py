"""Trace aggregates: how a sample's loss, margin or gradient norm went over training. LT-IQR is the best known."""

from __future__ import annotations

from typing import Annotated, Literal

import polars as pl

from ...store.errors import InvalidOption, NotEnoughData
from ...store.format.records import Run
from ...store.format.schema import CROSS_ENTROPY
from ..scores import Scores, count_unscored
from ..source import Source

Recorded = Literal["auto", "eval", "train"]
Signal = Literal["loss", "grad_norm", "margin", "probability", "error", "held-loss"]
Aggregate = Literal[
    "iqr",
    "mean",
    "std",
    "final",
    "max",
    "delta",
    "ratio",
    "slope",
    "l1",
    "l2",
    "l3",
    "l4",
    "linf",
    "first-below",
    "first-half-minus-final",
    "early-minus-final",
    "forgets",
]
First = Annotated[int, "first epoch to look at; 0 is before training"]
Last = Annotated[int | None, "last epoch to look at; default: the last there is"]
RecordedBy = Annotated[Recorded, "by a pass after each epoch, or inside the steps; auto: eval if there"]

_LAST_EPOCH = 1_000_000

_RISING = {"margin", "probability"}
"""Signals that rise as a model learns a record: their level is lower for exposed samples."""

_SPREAD = {"iqr", "std", "slope", "forgets"}
"""Aggregates of a rising signal that are higher for exposed samples nevertheless."""

_OF_LOSS = {"probability", "error", "held-loss"}
"""Signals that are made of the loss, where it is a cross-entropy."""


def trace(
    source: Source,
    *,
    signal: Annotated[Signal, "which trace"] = "loss",
    aggregate: Annotated[Aggregate, "what to make of it"] = "iqr",
    first: First = 0,
    last: Last = None,
    source_: RecordedBy = "auto",
    low: Annotated[float, "lower quantile of iqr"] = 0.25,
    high: Annotated[float, "upper quantile of iqr"] = 0.75,
) -> Scores:
    """Any aggregate of any trace of the target.

    probability is exp(-loss), the share that the model gives to the record's label, error 1 - exp(-loss), and held-loss 4 (1 - exp(-loss / 4)): the loss where it is
    small, and never above 4 (generalised cross-entropy, Zhang & Sabuncu 2018, with q = 1/4). iqr is Q75 - Q25 (other quantiles by low and high) with linear interpolation; delta = L[n//2] - L[-1]; ratio =
    1 - L[-1] / L[n//2]; slope is least squares over epochs; l1 to l4 and linf are norms; first-below is the
    first epoch at or under a millionth of the first value, and the epoch after the last one looked at where none is: records
    that never get there share it, the highest score that there is. first-half-minus-final is the mean of L[:n//2] (at least one
    value) less L[-1], early-minus-final that of the first 40% of the values less L[-1]. forgets counts the epochs after which a record that was classified right (a margin above 0) is not any more; a record
    that was never right has the number of epochs looked at. The column value is the aggregate itself, score turns it
    so that higher = more exposed (the slope of what falls, and the level of a margin or
    probability, change sign). Names that people know: AUM (Pleiss et al. 2020) is the mean of margin, forgetting events (Toneva
    et al. 2019) forgets of margin, confidence and variability (Swayamdipta et al. 2020) the mean and std of probability, and
    the mean of error over epochs 1 to 3 is the idea of EL2N (Paul et al. 2021), of the label's own share alone.

    Needs: the target's losses, gradient norms or margins after each epoch; probability, error and held-loss a loss that is a cross-entropy.

    Source: Pollock et al., "Free Record-Level Privacy Risk Evaluation Through Artifact-Based Methods"; iqr, mean and the like.
    """
    target = source.need_target_table("traces")
    if not 0 <= low < high <= 1:
        raise InvalidOption(f"quantiles must satisfy 0 <= low < high <= 1, not {low} and {high}")
    if first < 0 or (last is not None and last < first):
        raise InvalidOption(
            f"epochs {first} to {last} are no range; first must be at least 0 and at most last"
        )
    _check_pair(target, signal, aggregate)
    recorded = recorded_source(target) if source_ == "auto" else source_
    parameters = {
        "target": target.run,
        "source": recorded,
        "signal": signal,
        "aggregate": aggregate,
        "first": first,
        "last": _LAST_EPOCH if last is None else last,
        "low": low,
        "high": high,
        "direction": _direction(signal, aggregate),
    }
    frame = source.query("trace", parameters)
    if frame["score"].null_count() == len(frame):
        raise NotEnoughData(
            f"run {target.run!r} has no usable {recorded} trace of {signal} in epochs {first} to "
            f"{'the last' if last is None else last}"
        )
    return Scores(
        frame, count_unscored(frame, f"their {signal} trace is empty, not finite, or has no {aggregate}")
    )


def _check_pair(target: Run, signal: Signal, aggregate: Aggregate) -> None:
    if signal in _RISING and aggregate in ("first-below", "ratio"):
        why = "changes its sign" if signal == "margin" else "rises"
        raise InvalidOption(
            f"{aggregate} is for what falls to 0, a loss, an error or a gradient norm; a {signal} {why}"
        )
    if aggregate == "forgets" and signal != "margin":
        raise InvalidOption(
            f"forgets tells by a margin's sign whether a record is classified right; --signal margin, not {signal}"
        )
    loss = target.info.extra.get("loss", CROSS_ENTROPY)
    if signal in _OF_LOSS and loss != CROSS_ENTROPY:
        raise InvalidOption(
            f"{signal} is made of a cross-entropy; the losses of run {target.run!r} are {loss}: --signal loss takes them as they are"
        )


def _direction(signal: Signal, aggregate: Aggregate) -> int:
    """1 where a higher aggregate means more exposed, -1 where a lower one does."""
    if signal in _RISING:
        return 1 if aggregate in _SPREAD else -1
    return -1 if aggregate == "slope" else 1  # the loss of exposed samples falls late and far


def recorded_source(target: Run) -> Recorded:
    """Which trace ``auto`` means: the eval trace, for non-members and the epoch before training, else the train trace."""
    return "train" if target.trace_sources() == {"train"} else "eval"


def lt_iqr(
    source: Source,
    *,
    first: First = 0,
    last: Last = None,
    source_: RecordedBy = "auto",
    low: Annotated[float, "lower quantile"] = 0.25,
    high: Annotated[float, "upper quantile"] = 0.75,
) -> Scores:
    """LT-IQR: the interquartile range of a sample's loss over training. Needs no shadow runs.

    Q75 - Q25 of the raw loss trace, all epochs with the one before training, linear interpolation. Higher = the
    model learnt the record late, on its own account: more exposed.

    Needs: the target's loss after each epoch, of two epochs or more: one ranks nobody.

    Source: Pollock et al., "Free Record-Level Privacy Risk Evaluation Through Artifact-Based Methods".
    """
    scores = trace(source, first=first, last=last, source_=source_, low=low, high=high)
    _check_epochs(source, scores, source_, first, last, "the range of a loss over training")
    return scores


def free(source: Source, *, last: Last = None, source_: RecordedBy = "auto") -> Scores:
    """Free: the loss a sample had early in training, above what is left in the end. Needs no shadow runs.

    The mean of the held loss, 4 (1 - exp(-loss / 4)), over the first 40% of the epochs, the one before training aside, less the held loss after the last. Higher = the
    model learnt the record late, on its own account: more exposed. It is trace[signal=held-loss,aggregate=early-minus-final,first=1]. A loss is held down, never
    above 4, so that records on which a network is far off for an epoch do not decide. Among the 1% and 5% that are ranked highest it found surely
    more of what LiRA finds than LT-IQR in 10 of 16 fleets of models, and surely less in one; benchmarks/README.md has the figures, and where other scores find more.

    Needs: the target's loss after each epoch, a cross-entropy, of two epochs or more: one ranks nobody.

    Source: losslake; the held loss is the generalised cross-entropy of Zhang & Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels", equation 6, q = 1/4.
    """
    scores = trace(
        source, signal="held-loss", aggregate="early-minus-final", first=1, last=last, source_=source_
    )
    _check_epochs(source, scores, source_, 1, last, "what was left of a loss early in training")
    return scores


def _check_epochs(
    source: Source, scores: Scores, recorded: Recorded, first: int, last: int | None, what: str
) -> None:
    """Raises NotEnoughData where no score differs from 0, and that as there is one epoch to look at."""
    values = scores.frame["score"].drop_nulls().cast(pl.Float64).to_numpy()
    # Where nobody moved, either the model learnt nothing or there was nothing to see: only the second is an error.
    if not values.any() and _epochs(source, recorded, first, last) < 2:
        other = _epochs(source, "train", first, last) if recorded == "auto" else 0
        raise NotEnoughData(
            f"run {source.target_name!r} of experiment {source.experiment!r} has one loss of each record in these epochs; {what} "
            f"takes two or more{f'. --source train has {other}' if other > 1 else ''}"
        )


def _epochs(source: Source, recorded: Recorded, first: int, last: int | None) -> int:
    """The most epochs that any of the target's loss traces has between ``first`` and ``last``."""
    target = source.need_target_table("traces")
    kind = recorded_source(target) if recorded == "auto" else recorded
    frame = source.rows(target, "traces", ["source", "loss"]).filter(pl.col("source") == kind)
    span = pl.col("loss").list.slice(first, None if last is None else last - first + 1)
    return int(frame.select(span.list.drop_nulls().list.len().max()).item() or 0)
