"""Attack P: is this loss usual for records of the population, on this very model?"""

from __future__ import annotations

from typing import Annotated, Literal

from ..store.errors import NotEnoughData
from .attacked import NOT_FINITE, attacked_losses
from .reference_share import ALPHA_HELP, ALPHAS, INTERPOLATE_HELP, check_alphas, share_scores, with_share
from .scores import Scores
from .source import Source


def attack_p(
    source: Source,
    *,
    reference: Annotated[
        Literal["all", "class"], "compare with the whole population, or with its records of the same label"
    ] = "all",
    alpha: Annotated[tuple[float, ...], ALPHA_HELP] = ALPHAS,
    interpolate: Annotated[bool, INTERPOLATE_HELP] = False,
) -> Scores:
    """Attack P: the record's loss among the target's losses on population records. Needs no shadow runs.

    score = 1 - F(loss), F = share of the population's losses on the target that are at or under the record's
    (column share). Higher = member. Metrics of its own: what rejecting "not a member" at share <= alpha yields.
    One threshold for all records: the order of the loss attack, calibrated; with labels apart it is another order.

    Source: Ye et al. 2022, "Enhanced Membership Inference Attacks against Machine Learning Models", section 4.2.
    """
    check_alphas(alpha)
    attacked = attacked_losses(source)
    population = source.query("attack_p", {"target": source.target_name})
    if population.is_empty():
        raise NotEnoughData(
            f"attack-p compares with records that no run trained on, and run {source.target_name!r} of experiment "
            f"{source.experiment!r} has losses of none; set some aside with --population when collecting"
        )
    frame = with_share(attacked, population, "label" if reference == "class" else None, interpolate)
    return share_scores(frame, alpha, interpolate, f"{NOT_FINITE}, or no population record has their label")
