"""The signals of a run that was committed without them, of a model that was kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from ...store.errors import AlreadyExists, InvalidInput
from ...store.format.records import Run
from ...store.lake import Lake
from ..signals.calls import Forward
from .given import key_lookup, read_members
from .recorded_run import RecordedRun
from .start import views_of


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
    if "signals" in known.tables():
        raise AlreadyExists(
            f"run {run!r} of experiment {experiment!r} has signals, which are never overwritten; evaluate a run of its own"
        )
    views = views_of(queries, forward, collate)
    table = lake.samples(experiment)
    mask = _members_of(lake, known, len(table)) if members is None else read_members(members, table["key"])[0]
    labels = table["label"].fill_null(-1).to_numpy().astype(np.int64)
    population = np.asarray(table["pool"].to_numpy(zero_copy_only=False) != "audit")
    recorded = RecordedRun(
        lake.write_signals(known, members=mask), labels, population, np.flatnonzero(mask), known.info, views,
        key_lookup(table["key"]), forward, collate, None, lambda run, whom: lake.write_signals(run, members=whom),
    )  # fmt: skip
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
