"""Trace aggregates: how a sample's loss, margin or gradient norm went over training. LT-IQR is the best known."""

from __future__ import annotations

from typing import Annotated, Literal

from ...store.errors import InvalidOption, NotEnoughData
from ...store.format.records import Run
from ..scores import Scores, count_unscored
from ..source import Source

Recorded = Literal["auto", "eval", "train"]
Signal = Literal["loss", "grad_norm", "margin"]
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
]
First = Annotated[int, "first epoch to look at; 0 is before training"]
Last = Annotated[int | None, "last epoch to look at; default: the last there is"]
RecordedBy = Annotated[Recorded, "by a pass after each epoch, or inside the steps; auto: eval if there"]

_LAST_EPOCH = 1_000_000

_SPREAD = {"iqr", "std", "slope"}
"""Aggregates of a margin that are higher for exposed samples; a margin's level is lower for them."""


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

    iqr is Q75 - Q25 (other quantiles by low and high) with linear interpolation; delta = L[n//2] - L[-1]; ratio =
    1 - L[-1] / L[n//2]; slope is least squares over epochs; l1 to l4 and linf are norms; first-below is the
    first epoch at or under a millionth of the first value, and the epoch after the last one looked at where none is: records
    that never get there share it, the highest score that there is. The column value is the aggregate itself, score turns it
    so that higher = more exposed (a slope, and a margin's level, change sign).

    Needs: the target's losses, gradient norms or margins after each epoch.

    Source: Pollock et al., "Free Record-Level Privacy Risk Evaluation Through Artifact-Based Methods".
    """
    target = source.need_target_table("traces")
    if not 0 <= low < high <= 1:
        raise InvalidOption(f"quantiles must satisfy 0 <= low < high <= 1, not {low} and {high}")
    if first < 0 or (last is not None and last < first):
        raise InvalidOption(
            f"epochs {first} to {last} are no range; first must be at least 0 and at most last"
        )
    if signal == "margin" and aggregate in ("first-below", "ratio"):
        raise InvalidOption(
            f"{aggregate} is for what falls to 0, a loss or a gradient norm; a margin changes its sign"
        )
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


def _direction(signal: Signal, aggregate: Aggregate) -> int:
    """1 where a higher aggregate means more exposed, -1 where a lower one does."""
    if signal == "margin":
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

    Needs: the target's loss after each epoch.

    Source: Pollock et al., "Free Record-Level Privacy Risk Evaluation Through Artifact-Based Methods".
    """
    return trace(source, first=first, last=last, source_=source_, low=low, high=high)
