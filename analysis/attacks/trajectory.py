"""The attack that learns from some records what the trace of a member looks like, and needs no other model."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidOption, NotEnoughData
from ...store.format.records import Run
from ..scores import Scores
from ..source import Source
from .residual import at, final_phi, has_margins, phi_after, traced

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

FEWEST = 10
"""Members, and non-members, to learn from at the least."""

FIRST = 3
"""Epochs at the beginning that are all looked at; later ones are, after a quarter, a half and three quarters of the training."""


def trajectory(
    source: Source,
    *,
    fraction: Annotated[float, "share of the members and of the non-members that is known beforehand"] = 0.5,
    seed: Annotated[int, "of the draw of known records"] = 0,
) -> Scores:
    """Trajectory attack: how member-like a record's trace is, learnt from known records. No shadow runs.

    The attacker knows for a share of the records whether the target trained on them, and saw it train. Gradient boosting (scikit-learn) learns from these, on
    phi = log p - log(1 - p) of the label, and margins where they are recorded, after epochs 1 to 3, a quarter, a half and three quarters of the training, on
    phi of the finished model and on the mean of phi over the first half. score = log odds of member of all other records, with members and non-members weighed
    alike; the known ones have no score (column known), and another seed draws others. Higher = member. Where the loss is no cross-entropy, -loss stands in for phi. The
    population counts among the known non-members, where it was traced.

    It is a measure for those who trained a model of what its training gives away, and not what a stranger would find.

    Needs: the target's losses after each epoch, of two epochs or more, of 10 known members and 10 known non-members or more.

    Source: after Liu et al. 2022, "Membership Inference Attacks by Exploiting Loss Trajectory", which learns from shadow models' traces of distilled models.
    """
    if not 0 < fraction < 1:
        raise InvalidOption(f"fraction of trajectory must lie between 0 and 1, not {fraction}")
    if seed < 0:
        raise InvalidOption(f"seed of trajectory must be 0 or more, not {seed}")
    target = source.need_target_table("traces")
    rows, last = traced(source, target, "trajectory")
    seen = _features(source, target, rows, last)
    member, audited = rows["member"].to_numpy(), rows["audited"].to_numpy()
    finite = np.isfinite(seen).all(axis=1)
    known = finite & ~audited
    for number, side in enumerate((member, ~member)):
        known |= _drawn(finite & audited & side, fraction, seed, number)
    for side, what in ((known & member, "members"), (known & ~member, "non-members")):
        if side.sum() < FEWEST:
            raise NotEnoughData(
                f"trajectory learns from known members and non-members, and has {int(side.sum())} {what} with a finite trace to learn from, "
                f"of run {target.run!r} of experiment {source.experiment!r}; {FEWEST} are needed, of more records or a larger fraction"
            )
    asked = finite & ~known
    score = np.full(len(rows), np.nan)
    score[asked] = log_odds(seen[known], member[known], seen[asked])
    scored = rows.select(
        "sample_id",
        "member",
        pl.Series("score", score).fill_nan(None),
        pl.Series("known", known),
    ).filter(rows["audited"])
    return Scores(scored, _notes(scored, int((audited & ~finite).sum())))


def _drawn(among: Flags, fraction: float, seed: int, number: int) -> Flags:
    """The share of the marked records that the attacker knows."""
    rows = np.random.default_rng([seed, number]).permutation(np.flatnonzero(among))
    drawn = np.zeros(len(among), dtype=bool)
    drawn[rows[: round(fraction * len(rows))]] = True
    return drawn


def _notes(scored: pl.DataFrame, missing: int) -> tuple[str, ...]:
    known = scored.filter("known")["member"]
    told = (
        f"{len(known)} of {len(scored)} samples have no score: the attacker knows of {int(known.sum())} members and "
        f"{len(known) - int(known.sum())} non-members what they are",
    )
    why = "their trace or their final loss is not there or not finite"
    return (*told, f"{missing} more of {len(scored)} have none: {why}") if missing else told


def _features(source: Source, target: Run, rows: pl.DataFrame, last: int) -> Floats:
    """What is looked at of each trace (records, columns), NaN for what is not there."""
    looked = {*range(1, FIRST + 1), last // 4, last // 2, 3 * last // 4}
    epochs = sorted(epoch for epoch in looked if 1 <= epoch < last)
    first_half = [phi_after(target, rows, epoch) for epoch in range(1, max(2, last // 2))]
    columns = [phi_after(target, rows, epoch) for epoch in epochs]
    if has_margins(rows):
        columns += [at(rows["margin"], epoch) for epoch in epochs]
    return np.stack([*columns, np.mean(first_half, axis=0), final_phi(source, target, rows, last)], axis=1)


def log_odds(known: Floats, member: Flags, asked: Floats) -> Floats:
    """The log odds of member of the records ``asked`` about, learnt from the ``known`` ones; members and non-members weigh alike."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    weight = np.where(member, 0.5 / member.mean(), 0.5 / (1 - member.mean()))
    model = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=8, learning_rate=0.08, early_stopping=False, random_state=0
    )
    with threadpool_limits(1):
        model.fit(known, member, sample_weight=weight)
        return np.asarray(model.decision_function(asked), np.float64) if len(asked) else np.zeros(0)
