"""Attack S: is this loss usual for records of this label, on models that did not train on them?"""

from __future__ import annotations

from typing import Annotated

from ...store.errors import NotEnoughData
from ..scores import Scores
from ..source import Source
from .attacked import NOT_FINITE, attacked_losses
from .reference_share import (
    ALPHA_HELP,
    ALPHAS,
    INTERPOLATE_HELP,
    levels_of,
    share_among_losses,
    share_scores,
)


def attack_s(
    source: Source,
    *,
    alpha: Annotated[tuple[float, ...], ALPHA_HELP] = ALPHAS,
    interpolate: Annotated[bool, INTERPOLATE_HELP] = False,
) -> Scores:
    """Attack S: the record's loss among shadow models' losses on records of its label that they did not train on.

    score = 1 - F(loss), F = share of those losses that are at or under the target's (column share). Higher = member.
    Metrics of its own: what rejecting "not a member" at share <= alpha yields, tpr_at_alpha, fpr_at_alpha and their
    difference advantage_at_alpha. Column thresholds: the loss under which each alpha rejects, one a label. The target
    is no shadow of its own.

    Needs: the target's signals; shadow runs.

    Source: Ye et al. 2022, "Enhanced Membership Inference Attacks against Machine Learning Models", section 4.1.
    """
    levels = levels_of(alpha)
    attacked = attacked_losses(source)
    shadows = source.need_shadows()
    unseen = source.query("attack_s", {"target": source.target_name})
    if unseen.is_empty():
        raise NotEnoughData(
            f"the {len(shadows)} shadow runs of experiment {source.experiment!r} trained on every sample they have "
            "signals of; attack-s needs losses on others"
        )
    frame = share_among_losses(attacked, unseen, "label", levels, interpolate)
    return share_scores(
        frame, levels, interpolate, f"{NOT_FINITE}, or no shadow run left out a record of their label"
    )
