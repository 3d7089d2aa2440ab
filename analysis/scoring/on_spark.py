"""Which analyses and evaluations Spark computes."""

from __future__ import annotations

from ...store.errors import InvalidOption

ON_SPARK = (
    "lt-iqr",
    "free",
    "trace",
    "lira",
    "rmia",
    "ramia",
    "loss",
    "attack-p",
    "attack-r",
    "attack-s",
    "attack-d",
    "attack-l",
    "calibrated",
    "memorization",
    "privacy-score",
    "hellinger",
)
"""Analyses whose queries do the reading; the others read what many models say into the memory of one machine, or look at
single tokens of one model's texts."""

NOT_ON_SPARK = ("per-model", "shadow-curve")
"""Evaluations that read so themselves; the others look at scores, and at the target's own traces."""


def check_on_spark(name: str) -> None:
    """Raises InvalidOption for an analysis that Spark does not compute."""
    if name not in ON_SPARK:
        raise InvalidOption(
            f"{name} is not computed on Spark, where there are {', '.join(ON_SPARK)}. Compute it without --engine spark: "
            "evaluations on Spark take scores that the lake keeps"
        )


def check_evaluation_on_spark(name: str) -> None:
    """Raises InvalidOption for an evaluation that needs more than scores."""
    if name in NOT_ON_SPARK:
        raise InvalidOption(
            f"{name} reads what every model says into the memory of one machine, which Spark is there to avoid; leave "
            "--engine spark out"
        )
