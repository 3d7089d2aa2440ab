"""The signals of a run that was committed without them, of a model that was kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from ...store.errors import InvalidInput
from ...store.format.records import Run
from ...store.lake import Lake
from ...store.write.visible_run import check_no_signals
from ..signals.calls import Forward
from .given import read_members
from .start import recorded_run, views_of


def evaluate_run(
    lake: Lake,
    experiment: str,
    run: str,
    model: nn.Module,
    data: Any,
    *,
    criterion: Callable[..., Any] | None = None,
    members: Any = None,
    queries: str | Sequence[str] = "original",
    forward: Forward | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
) -> Run:
    """Record the signals of a committed run that has none, as `RecordedRun.evaluate` would have; the run with them.

    ``model`` is the finished model of the run, and ``data`` all samples in the order of their ids. ``criterion`` is the one trained with,
    where it was no cross-entropy: a run has one loss. ``members`` are needed only where the run's traces do not tell all of
    them; the others are as in `start_run`. Raises NotFound, AlreadyExists where the run has signals, InvalidInput.
    """
    known = lake.run(experiment, run)
    check_no_signals(known)
    views = views_of(queries, forward, collate)
    table = lake.samples(experiment)
    mask = _members_of(lake, known, len(table)) if members is None else read_members(members, table["key"])[0]
    writer = lake.write_signals(known, members=mask)
    recorded = recorded_run(
        lake, table, writer, np.flatnonzero(mask), known.info, views, forward, collate, None
    )
    recorded.resume(known)
    recorded.evaluate(model, data, criterion=criterion)
    assert recorded.committed is not None
    return recorded.committed


def _members_of(lake: Lake, run: Run, samples: int) -> np.ndarray:
    mask = np.zeros(samples, dtype=bool)
    for rows in lake.run_rows(run, "traces", columns=["sample_id", "member"]):
        mask[rows["sample_id"].to_numpy()[rows["member"].to_numpy()]] = True
    if int(mask.sum()) != run.members:
        raise InvalidInput(
            f"the traces of run {run.run!r} hold {int(mask.sum())} of its {run.members} members; give members=, as start_run had them"
        )
    return mask
