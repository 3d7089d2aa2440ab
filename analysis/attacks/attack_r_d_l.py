"""Attacks R, D and L: is this loss usual for this record, on models that did not train on it?

What these models are tells the attacks apart: any others (R), models that learnt all they know from the target (D), or the
target trained again without the record (L).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from ...store.errors import NotEnoughData
from ...store.format.records import Role, Run, unpack_samples
from ...store.format.tables import empty_table, table_of_rows
from ..remedies import of_audit
from ..scores import Scores
from ..source import Source
from .in_and_out import AT_ONCE, one_below_another
from .loss import NOT_FINITE
from .reference_share import (
    ALPHAS,
    Alpha,
    Interpolate,
    Levels,
    levels_of,
    most_below,
    share_scores,
    thresholds_at,
    with_thresholds,
)

_NONE_TAUGHT = empty_table(pa.schema({"run": pa.string(), "sample_id": pa.int32()}))
"""No run learnt from a sample without being trained on its label."""

_LEAVE_ONE_OUT = "losslake collect leave-one-out --sample ID"


def attack_r(source: Source, *, alpha: Alpha = ALPHAS, interpolate: Interpolate = False) -> Scores:
    """Attack R: the target's loss on the record among the losses of models that did not train on it.

    score = 1 - F(loss), F = share of the losses that shadow and reference runs without this record have on it that
    are at or under the target's (column share). Higher = member. Metrics of its own: what rejecting "not a member" at
    share <= alpha yields, tpr_at_alpha, fpr_at_alpha and their difference advantage_at_alpha. Column thresholds: the
    loss under which each alpha rejects, the sample's own. The target is left out of its own reference.

    In steps all records whose loss lies under every reference loss have one score, with n references 1 in n + 1 non-members at the least: at a
    lower FPR nobody is named and the TPR is 0 (a note says so), where interpolate goes on.

    Needs: the target's signals; shadow or reference runs without each sample.

    Source: Ye et al. 2022, "Enhanced Membership Inference Attacks against Machine Learning Models", section 4.3.
    """
    levels = levels_of(alpha)
    source.need_target_table("signals")
    runs = source.need_references()
    frame = _share_among_runs(source, runs, levels, interpolate)
    if frame["score"].null_count() == len(frame):
        raise NotEnoughData(
            f"no sample of experiment {source.experiment!r} with a finite loss was left out of the training sets of its "
            f"{len(runs)} shadow and reference runs; collect more"
        )
    return share_scores(
        frame, levels, interpolate, f"{NOT_FINITE}, or every shadow and reference run trained on them"
    )


def attack_d(source: Source, *, alpha: Alpha = ALPHAS, interpolate: Interpolate = False) -> Scores:
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
    runs = _derived(source, "distilled", "models distilled", "losslake collect distilled --count 32")
    frame = _share_among_runs(source, runs, levels, interpolate, taught=_taught(source, runs))
    if frame["score"].null_count() == len(frame):
        raise NotEnoughData(
            f"no sample of experiment {source.experiment!r} with a finite loss was left out of what its {len(runs)} "
            f"models distilled from {source.target_name!r} learnt from; collect more, or distil on the population"
        )
    return share_scores(
        frame, levels, interpolate, f"{NOT_FINITE}, or every distilled model learnt from them"
    )


def _taught(source: Source, runs: Sequence[Run]) -> pa.Table:
    """Which audit samples a run was distilled on: the target's own answers about these are what it repeats."""
    samples = source.lake.experiment(source.experiment).samples
    tables = [_NONE_TAUGHT]
    for run in runs:
        told = run.info.extra.get("distilled_on")
        if isinstance(told, dict) and told.get("pool") == "audit":
            ids = np.flatnonzero(unpack_samples(told.get("samples", ""), samples))
            names = pa.repeat(pa.scalar(run.run, pa.string()), len(ids))
            tables.append(pa.table({"run": names, "sample_id": ids.astype(np.int32)}))
    return pa.concat_tables(tables)


def attack_l(source: Source, *, alpha: Alpha = ALPHAS, interpolate: Interpolate = False) -> Scores:
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
    runs = _derived(source, "leave_one_out", "leave-one-out runs", _LEAVE_ONE_OUT)
    # Of a run that does not say which sample it is for, none counts: -1 is no sample.
    told = [run.info.extra.get("sample_id") for run in runs]
    left_out = [sample if isinstance(sample, int) else -1 for sample in told]
    frame = _share_among_runs(source, runs, levels, interpolate, samples=left_out)
    if frame["score"].null_count() == len(frame):
        raise NotEnoughData(
            f"the {len(runs)} leave-one-out runs of {source.target_name!r} in experiment {source.experiment!r} were made "
            f"for no audit sample with a finite loss; '{_LEAVE_ONE_OUT}' makes some"
        )
    return share_scores(
        frame,
        levels,
        interpolate,
        f"{NOT_FINITE}, or no leave-one-out run was made for them; '{_LEAVE_ONE_OUT}' makes some",
    )


def _derived(source: Source, role: Role, what: str, command: str) -> tuple[Run, ...]:
    """Runs of a role with signals whose parent is the target. Raises NotEnoughData where there is none.

    ``what`` are they in words, ``command`` collects them.
    """
    target = source.need_target_table("signals")
    found = tuple(
        run
        for run in source.runs
        if run.info.role == role and run.info.parent == target.run and "signals" in run.tables()
    )
    if not found and of_audit(source.lake.experiment(source.experiment)):
        raise NotEnoughData(
            f"experiment {source.experiment!r} has no {what} of run {target.run!r}; losslake.audit fits none, and attack R does without"
        )
    if not found:
        raise NotEnoughData(
            f"experiment {source.experiment!r} has no {what} of run {target.run!r}; collect some with "
            f"'{command} --target {target.run}'"
        )
    return found


def _share_among_runs(
    source: Source,
    runs: Sequence[Run],
    levels: Levels,
    interpolate: bool,
    *,
    samples: Sequence[int] | None = None,
    taught: pa.Table = _NONE_TAUGHT,
) -> pl.DataFrame:
    """sample_id, member, score, share, n_reference, loss and thresholds of the target's audit samples.

    Each sample's loss is compared with its losses on ``runs`` that did not train on it. ``samples`` are the one that each
    run counts for (default: all count for all); ``taught`` (run, sample_id) are left out of the comparison.
    """
    only: Sequence[int | None] = samples or [None] * len(runs)
    compared = [{"run": run.run, "sample_id": sample} for run, sample in zip(runs, only, strict=True)]
    source.provide("reference_runs", table_of_rows(compared, _NONE_TAUGHT.schema))
    source.provide("taught", taught)
    most = int(most_below(np.array([len(runs)]), max(levels))[0]) + 1
    asked = {"target": source.target_name, "interpolate": interpolate, "most": most}
    every = source.lake.experiment(source.experiment).samples
    at_once = every if source.adds_up_in_sql else AT_ONCE
    parts, of_parts, counts = [], [], []
    for first in range(0, every, at_once):
        of = {"first_sample": first, "last_sample": first + at_once - 1}
        part = source.query("attack_same_sample", asked | of)
        lowest = part.drop_in_place("lowest")
        counts.append(lowest.list.len().fill_null(0).cast(pl.Int64).to_numpy())
        of_parts.append(lowest.explode().drop_nulls().to_numpy())
        parts.append(part)
    del lowest
    held, ranked, frame = np.concatenate(counts), np.concatenate(of_parts), one_below_another(parts)
    start, count = np.cumsum(held) - held, frame["n_reference"].to_numpy()

    def of_rows(rows: slice) -> np.ndarray:
        return thresholds_at(ranked, start[rows], count[rows], levels, interpolate)

    return with_thresholds(frame, of_rows, levels)
