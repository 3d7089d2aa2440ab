"""What attacks on the loss start from: the target's losses, and the runs to compare them with."""

from __future__ import annotations

import polars as pl

from ..store.errors import NotEnoughData
from ..store.records import Run
from .source import Source

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
