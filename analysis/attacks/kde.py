"""The KDE attack: densities of the losses of records whose membership is known, to tell the others by."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from ...store.errors import InvalidOption, NotEnoughData
from ..scores import Scores
from ..source import Source
from ..statistics.density import densities
from ..statistics.roc import confusion
from .logits import logits_of, need_lists
from .loss import NOT_FINITE, attacked_losses

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Loss = Literal["cross-entropy", "probability", "normalised"]


def kde(
    source: Source,
    *,
    fraction: Annotated[float, "share of the members and of the non-members that is known beforehand"] = 0.16,
    loss: Annotated[Loss, "-log p_y, 1 - p_y, or 1 - p_y / max p (needs logits)"] = "cross-entropy",
    seed: Annotated[int, "of the draw of known records"] = 0,
) -> Scores:
    """KDE attack: how much likelier is this loss among known members than among known non-members.

    The attacker knows for a share of the records whether the target trained on them and fits a Gaussian kernel density
    to the losses of either kind (Scott's bandwidth). score = log f_in(loss) - log f_out(loss) of all other records;
    the known ones have no score (column known). Higher = member. Needs no shadow runs. Losses are those of the record
    as it is; normalised is 0 wherever the prediction is right. With one seed a smaller share is part of a larger one.

    Metrics of its own: confusion, accuracy and precision of saying "member" where the score is above 0.

    Needs: the target's signals; logits for the normalised loss.

    Source: slides "Membership Inference Attack" (LeNet-5 on CIFAR-10; shares of 1% to 16%, the three losses), which do
    not name a bandwidth.
    """
    if not 0 < fraction < 1:
        raise InvalidOption(f"fraction of kde must lie between 0 and 1, not {fraction}")
    if seed < 0:
        raise InvalidOption(f"seed of kde must be 0 or more, not {seed}")
    frame = attacked_losses(source)
    value = _losses(source, frame, loss)
    member, finite = frame["member"].to_numpy(), np.isfinite(value)
    known = _drawn(finite & member, fraction, seed) | _drawn(finite & ~member, fraction, seed)
    for kind, side in (("members", member), ("non-members", ~member)):
        if not (known & side).any():
            raise NotEnoughData(
                f"kde compares known members with known non-members, and run {source.target_name!r} of experiment "
                f"{source.experiment!r} has no {kind} with a finite loss"
            )
    inside, outside = densities(value[known & member], value[known & ~member])
    log_in, log_out, score = (np.full(len(value), np.nan) for _ in range(3))
    log_in[finite], log_out[finite] = inside.log_at(value[finite]), outside.log_at(value[finite])
    asked = finite & ~known
    score[asked] = log_in[asked] - log_out[asked]
    scored = frame.select(
        "sample_id",
        "member",
        pl.Series("score", score).fill_nan(None),
        pl.Series("loss", np.where(finite, value, np.nan)).fill_nan(None),
        pl.Series("known", known),
        pl.Series("log_density_in", log_in).fill_nan(None),
        pl.Series("log_density_out", log_out).fill_nan(None),
    )
    metrics = confusion(score[asked] > 0, member[asked]).metrics()
    return Scores(scored, _notes(member, finite, known), metrics)


def _losses(source: Source, frame: pl.DataFrame, loss: Loss) -> Floats:
    """The chosen loss of each row of ``frame``, NaN or infinite where there is none."""
    cross_entropy = frame["loss"].to_numpy()
    if loss == "cross-entropy":
        return cross_entropy
    if loss == "probability":
        return 0.0 - np.expm1(-cross_entropy)
    target = source.need_target_table("signals")
    need_lists(source, target)
    of_sample = np.full(source.lake.experiment(source.experiment).samples, np.nan)
    for piece in logits_of(source, target):
        rows = piece.rows(np.flatnonzero(piece.usable()))
        z = rows.values.astype(np.float64)
        behind = z[np.arange(len(rows)), rows.label] - z.max(axis=1)
        of_sample[rows.sample_id] = 0.0 - np.expm1(behind)
    return of_sample[frame["sample_id"].to_numpy()]


def _drawn(among: Flags, fraction: float, seed: int) -> Flags:
    """The share of the marked rows that the attacker knows; one at least where there is any."""
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(among))
    drawn = np.zeros(len(among), dtype=bool)
    drawn[rows[: max(1, round(fraction * len(rows)))]] = True
    return drawn


def _notes(member: Flags, finite: Flags, known: Flags) -> tuple[str, ...]:
    told = (
        f"{int(known.sum())} of {len(known)} samples have no score: the attacker knows of {int((known & member).sum())} "
        f"members and {int((known & ~member).sum())} non-members what they are",
    )
    missing = int((~finite).sum())
    return (*told, f"{missing} more of {len(known)} have none: {NOT_FINITE}") if missing else told
