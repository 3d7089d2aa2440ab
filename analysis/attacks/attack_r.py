"""Attack R: is this loss usual for this record, on models that did not train on it?"""

from __future__ import annotations

from typing import Annotated

from ...store.errors import NotEnoughData
from ..scores import Scores
from ..source import Source
from .attacked import NOT_FINITE, need_references, run_table
from .reference_share import (
    ALPHA_HELP,
    ALPHAS,
    INTERPOLATE_HELP,
    NONE_TAUGHT,
    levels_of,
    share_among_runs,
    share_scores,
)


def attack_r(
    source: Source,
    *,
    alpha: Annotated[tuple[float, ...], ALPHA_HELP] = ALPHAS,
    interpolate: Annotated[bool, INTERPOLATE_HELP] = False,
) -> Scores:
    """Attack R: the target's loss on the record among the losses of models that did not train on it.

    score = 1 - F(loss), F = share of the losses that shadow and reference runs without this record have on it that
    are at or under the target's (column share). Higher = member. Metrics of its own: what rejecting "not a member" at
    share <= alpha yields, tpr_at_alpha, fpr_at_alpha and their difference advantage_at_alpha. Column thresholds: the
    loss under which each alpha rejects, the sample's own. The target is left out of its own reference.

    Needs: the target's signals; shadow or reference runs without each sample.

    Source: Ye et al. 2022, "Enhanced Membership Inference Attacks against Machine Learning Models", section 4.3.
    """
    levels = levels_of(alpha)
    target = source.need_target_table("signals")
    runs = need_references(source)
    frame = share_among_runs(source, target.run, run_table(runs), NONE_TAUGHT, levels, interpolate)
    if frame["score"].null_count() == len(frame):
        raise NotEnoughData(
            f"no sample of experiment {source.experiment!r} with a finite loss was left out of the training sets of its "
            f"{len(runs)} shadow and reference runs; collect more"
        )
    return share_scores(
        frame, levels, interpolate, f"{NOT_FINITE}, or every shadow and reference run trained on them"
    )
