"""Attack P: is this loss usual for records of the population, on this very model?"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from ...store.errors import NotEnoughData
from ..scores import Scores
from ..source import Source
from ..statistics.metric import Metric
from .attacked import NOT_FINITE, attacked_losses
from .reference_share import (
    ALPHA_HELP,
    ALPHAS,
    INTERPOLATE_HELP,
    levels_of,
    share_among_losses,
    share_scores,
)


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

    score = 1 - F(loss), F = share of the population's losses on the target that are at or under the record's (column
    share). Higher = member. Metrics of its own: what rejecting "not a member" at share <= alpha yields, tpr_at_alpha,
    fpr_at_alpha and their difference advantage_at_alpha. One threshold for all records: the order of the loss attack,
    calibrated; with labels apart it is another order. Column thresholds: the loss under which each alpha rejects;
    where it is one for all also metric threshold_at_alpha.

    Needs: the target's signals; a population (collect with --population).

    Source: Ye et al. 2022, "Enhanced Membership Inference Attacks against Machine Learning Models", section 4.2.
    """
    levels = levels_of(alpha)
    attacked = attacked_losses(source)
    population = source.query("attack_p", {"target": source.target_name})
    if population.is_empty():
        raise NotEnoughData(
            f"attack-p compares with records that no run trained on, and run {source.target_name!r} of experiment "
            f"{source.experiment!r} has losses of none; set some aside with --population when collecting"
        )
    by = "label" if reference == "class" else None
    frame = share_among_losses(attacked, population, by, levels, interpolate)
    scores = share_scores(
        frame, levels, interpolate, f"{NOT_FINITE}, or no population record has their label"
    )
    if by is not None:
        return scores
    common = tuple(
        Metric("threshold_at_alpha", one["loss"], n=len(population), parameters={"alpha": one["alpha"]})
        for one in frame["thresholds"][0]
    )
    return replace(scores, metrics=(*scores.metrics, *common))
