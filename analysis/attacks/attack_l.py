"""Attack L: is this loss usual for this record, on the target trained again without it?"""

from __future__ import annotations

from typing import Annotated

from ...store.errors import NotEnoughData
from ..scores import Scores
from ..source import Source
from .attacked import NOT_FINITE, need_derived, run_table
from .reference_share import (
    ALPHA_HELP,
    ALPHAS,
    INTERPOLATE_HELP,
    NONE_TAUGHT,
    levels_of,
    share_among_runs,
    share_scores,
)

_COMMAND = "losslake collect leave-one-out --sample ID"


def attack_l(
    source: Source,
    *,
    alpha: Annotated[tuple[float, ...], ALPHA_HELP] = ALPHAS,
    interpolate: Annotated[bool, INTERPOLATE_HELP] = False,
) -> Scores:
    """Attack L: the target's loss on the record among those of models trained on its other members alone.

    score = 1 - F(loss), F = share of the losses that leave-one-out runs made for this record and target have on it
    that are at or under the target's (column share). Higher = member. Metrics of its own: what rejecting "not a
    member" at share <= alpha yields, tpr_at_alpha, fpr_at_alpha and their difference advantage_at_alpha. Column
    thresholds: the loss under which each alpha rejects, the sample's and the target's own. Records without such runs
    have no score. The strongest of these attacks, with the strongest assumption: the adversary knows all other
    members.

    Needs: the target's signals; runs without the single records (`losslake collect leave-one-out`).

    Source: Ye et al. 2022, "Enhanced Membership Inference Attacks against Machine Learning Models", section 4.5.
    """
    levels = levels_of(alpha)
    runs = need_derived(source, "leave_one_out", "leave-one-out runs", _COMMAND)
    # Of a run that does not say which sample it is for, none counts: -1 is no sample.
    told = [run.info.extra.get("sample_id") for run in runs]
    left_out = [sample if isinstance(sample, int) else -1 for sample in told]
    target = source.target_name
    frame = share_among_runs(source, target, run_table(runs, left_out), NONE_TAUGHT, levels, interpolate)
    if frame["score"].null_count() == len(frame):
        raise NotEnoughData(
            f"the {len(runs)} leave-one-out runs of {target!r} in experiment {source.experiment!r} were made for no audit "
            f"sample with a finite loss; '{_COMMAND}' makes some"
        )
    return share_scores(
        frame,
        levels,
        interpolate,
        f"{NOT_FINITE}, or no leave-one-out run was made for them; '{_COMMAND}' makes some",
    )
