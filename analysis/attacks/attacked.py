"""What attacks on the loss start from: the target's losses, and the runs to compare them with."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from ...store.errors import NotEnoughData
from ...store.format.records import Role, Run
from ..source import Source

NOT_FINITE = "the target's loss on them is not finite"


def attacked_losses(source: Source) -> pl.DataFrame:
    """sample_id, member, score (-loss), loss and label of the audit samples the target has signals of.

    The score is NULL where the loss is not finite. Raises NotEnoughData where the target has no signals of the
    samples as they are.
    """
    target = source.need_target_table("signals")
    frame = source.query("loss", {"target": target.run})
    if frame["score"].null_count() == len(frame):
        raise NotEnoughData(
            f"run {target.run!r} of experiment {source.experiment!r} has no finite loss of any sample as it is "
            "(query 0)"
        )
    return frame


def need_references(source: Source) -> tuple[Run, ...]:
    """Shadow and reference runs with signals, the target left out. Raises NotEnoughData where there is none."""
    found = tuple(
        run
        for run in source.runs
        if run.info.role in ("shadow", "reference")
        and run.run != source.target_name
        and "signals" in run.tables()
    )
    return found or source.need_shadows()


def need_derived(source: Source, role: Role, what: str, command: str) -> tuple[Run, ...]:
    """Runs of a role with signals whose parent is the target. Raises NotEnoughData where there is none.

    ``what`` are they in words, ``command`` collects them.
    """
    target = source.need_target_table("signals")
    found = tuple(
        run
        for run in source.runs
        if run.info.role == role and run.info.parent == target.run and "signals" in run.tables()
    )
    if not found:
        raise NotEnoughData(
            f"experiment {source.experiment!r} has no {what} of run {target.run!r}; collect some with "
            f"'{command} --target {target.run}'"
        )
    return found


def run_table(runs: Sequence[Run], samples: Sequence[int | None] | None = None) -> pa.Table:
    """run and sample_id for `share_among_runs`: the one sample each run counts for, NULL (default) for all."""
    only = samples if samples is not None else [None] * len(runs)
    return pa.table(
        {"run": pa.array([run.run for run in runs], pa.string()), "sample_id": pa.array(only, pa.int32())}
    )
