"""Attack D: is this loss usual for this record, on models that learnt all they know from the target?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pyarrow as pa

from ...store.errors import NotEnoughData
from ...store.format.records import Run, unpack_samples
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


def attack_d(
    source: Source,
    *,
    alpha: Annotated[tuple[float, ...], ALPHA_HELP] = ALPHAS,
    interpolate: Annotated[bool, INTERPOLATE_HELP] = False,
) -> Scores:
    """Attack D: the target's loss on the record among the losses of models that were distilled from the target.

    score = 1 - F(loss), F = share of the losses that runs distilled from this very target have on the record that are
    at or under the target's (column share). Higher = member. Metrics of its own: what rejecting "not a member" at
    share <= alpha yields, tpr_at_alpha, fpr_at_alpha and their difference advantage_at_alpha. Column thresholds: the
    loss under which each alpha rejects, the sample's and the target's own. A run that learnt what the target says of
    a record is left out for that record.

    Needs: the target's signals; runs distilled from it (`losslake collect distilled`).

    Source: Ye et al. 2022, "Enhanced Membership Inference Attacks against Machine Learning Models", section 4.4.
    """
    levels = levels_of(alpha)
    runs = need_derived(source, "distilled", "models distilled", "losslake collect distilled --count 32")
    target = source.target_name
    frame = share_among_runs(source, target, run_table(runs), _taught(source, runs), levels, interpolate)
    if frame["score"].null_count() == len(frame):
        raise NotEnoughData(
            f"no sample of experiment {source.experiment!r} with a finite loss was left out of what its {len(runs)} "
            f"models distilled from {target!r} learnt from; collect more, or distil on the population"
        )
    return share_scores(
        frame, levels, interpolate, f"{NOT_FINITE}, or every distilled model learnt from them"
    )


def _taught(source: Source, runs: Sequence[Run]) -> pa.Table:
    """Which audit samples a run was distilled on: the target's own answers about these are what it repeats."""
    samples = source.lake.experiment(source.experiment).samples
    tables = [NONE_TAUGHT]
    for run in runs:
        told = run.info.extra.get("distilled_on")
        if isinstance(told, dict) and told.get("pool") == "audit":
            ids = np.flatnonzero(unpack_samples(told.get("samples", ""), samples))
            names = pa.array([run.run], pa.string()).take(pa.array(np.zeros(len(ids), np.int32)))
            tables.append(pa.table({"run": names, "sample_id": ids.astype(np.int32)}))
    return pa.concat_tables(tables)
