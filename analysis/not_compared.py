"""What a target is not compared with, so that who the other runs are does not tell its members.

Left out are runs with the target's training set or its complement; where how many of the others trained on a record still tells
whether the target did, single records of runs are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ..store.format.records import Role, Run
from .statistics.dependence import (
    ALIKE,
    SURE,
    TrainingSets,
    alike,
    members_apart,
    opposite,
)

_ROWS = 1 << 24
"""Rows whose memberships are read at a time, 7 bytes each; a bit a run and sample is kept of them."""

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class NotCompared:
    """What is left out of the runs that the target is compared with.

    ``runs`` are names; ``passed_over`` (sample_id, run) are single records of runs; ``notes`` say so.
    """

    runs: tuple[str, ...] = ()
    passed_over: pa.Table | None = None
    notes: tuple[str, ...] = ()


class Memberships(Protocol):
    """What runs trained on, as it is compared with what the target did; wherever that is counted."""

    def alike(self) -> tuple[list[str], list[str]]:
        """The runs with the target's training set, and those with its complement."""

    def apart(self, fleet: list[str]) -> tuple[float, float]:
        """How many more runs of a fleet trained on a member than on a non-member, and that in standard errors."""

    def opposite(self, fleet: list[str], fitted: list[str]) -> pa.Table:
        """What is passed over, sample_id and run: of the samples drawn a run of the fleet, if it is among ``fitted``."""


def find_not_compared(
    target: Run | None, runs: Sequence[Run], asked: Sequence[str], memberships: Callable[[], Memberships]
) -> NotCompared:
    """What a target is not compared with among ``runs``; ``asked`` names runs that are left out whatever they are.

    ``memberships`` are asked for only where there is a target with signals.
    """
    name = target.run if target else ""
    asked = [run.run for run in with_signals(runs, name, ("shadow", "reference")) if run.run in asked]
    notes = [f"left out as asked: {', '.join(asked)}"] if asked else []
    if target is None or "signals" not in target.tables():
        return NotCompared(tuple(asked), None, tuple(notes))
    sets = memberships()
    same, complements = sets.alike()
    kin = (*same, *complements)
    compared = {run.run for run in with_signals(runs, name, ("shadow", "reference"), but=asked)}
    same, complements = ([run for run in names if run in compared] for names in (same, complements))
    if same:
        notes.append(
            f"left out, for they trained on the members of {name!r}: {', '.join(same)}; they know of "
            "them what the target does"
        )
    if complements:
        notes.append(
            f"left out, for they trained on what {name!r} did not: {', '.join(complements)}; with them in, "
            "the number of runs with a record would tell whether the target is one of them"
        )
    gone = (*asked, *same, *complements)
    fitted = [run.run for run in with_signals(runs, name, ("shadow",), but=gone) if run.members]
    # Runs that nothing is fitted to may be of the fleet too: other targets, and what was asked to be left out.
    others = [
        run.run
        for run in with_signals(runs, name, ("shadow", "target"), but=kin)
        if run.members and run.info.parent is None
    ]
    fleets = [fleet for fleet in (fitted, others) if fleet and fitted]
    found = [(*sets.apart(fleet), fleet) for fleet in fleets[: 1 if fitted == others else 2]]
    apart, errors, fleet = max(found, key=lambda one: abs(one[1]), default=(0.0, 0.0, fitted))
    if abs(errors) <= SURE:
        return NotCompared(gone, None, tuple(notes))
    if apart > 0 or apart < -1.5:
        notes.append(
            f"members of {name!r} are in the training sets of {apart:+.2g} other runs more than non-members "
            "are: that alone may tell them apart, so the scores are no clean evidence of what the target learnt"
        )
    if errors >= -SURE:
        return NotCompared(gone, None, tuple(notes))
    cells = sets.opposite(fleet, fitted)
    notes.append(
        f"{name!r} is one of a fleet in balance: its members are in {-apart:.2g} other runs fewer than "
        "non-members are. Where that calls for it one of a record's runs on the other side than the target, drawn at random, "
        "is passed over, so that their number tells nothing"
    )
    return NotCompared(gone, cells if len(cells) else None, tuple(notes))


def with_signals(
    runs: Sequence[Run], target: str, roles: Sequence[Role], but: Sequence[str] = ()
) -> tuple[Run, ...]:
    """The runs of these roles that have signals, without the target and those named."""
    return tuple(
        run
        for run in runs
        if run.info.role in roles and run.run != target and "signals" in run.tables() and run.run not in but
    )


@dataclass(frozen=True, eq=False)
class MembershipBits:
    """`Memberships` from a bit a run and sample in memory."""

    sets: TrainingSets
    target: str

    def alike(self) -> tuple[list[str], list[str]]:
        """The runs with the target's training set, and those with its complement."""
        found = alike(self.sets, self.sets.row(self.target))
        others = [
            (run, value) for run, value in zip(self.sets.runs, found, strict=True) if run != self.target
        ]
        return [run for run, value in others if value >= ALIKE], [
            run for run, value in others if value <= -ALIKE
        ]

    def apart(self, fleet: list[str]) -> tuple[float, float]:
        """How many more runs of a fleet trained on a member than on a non-member, and that in standard errors."""
        return members_apart(self.sets, self.sets.row(self.target), self.sets.rows(fleet))

    def opposite(self, fleet: list[str], fitted: list[str]) -> pa.Table:
        """What is passed over, sample_id and run: of the samples drawn a run of the fleet, if it is among ``fitted``."""
        sets = self.sets
        chosen = opposite(sets, sets.row(self.target), sets.rows(fleet))
        chosen[~np.isin(chosen, sets.rows(fitted))] = -1
        cells = np.flatnonzero(chosen >= 0)
        names = pa.DictionaryArray.from_arrays(pa.array(chosen[cells].astype(np.int32)), pa.array(sets.runs))
        return pa.table({"sample_id": sets.sample_id[cells].astype(np.int32), "run": names.cast(pa.string())})


def read_training_sets(
    runs: Sequence[Run],
    audit: Flags,
    rows_of_each: Callable[[Sequence[Run], str, list[str]], list[pl.DataFrame]],
) -> TrainingSets:
    """Who trained on what among the samples of the audit pool, (samples,) ``audit``; a bit a run and sample is kept."""
    sample_id = np.flatnonzero(audit)
    rows = [sum(file.rows for file in run.files if file.table == "signals") for run in runs]
    at_once = max(1, _ROWS // max(1, max(rows, default=1)))
    known, member = (np.zeros((len(runs), -(-len(sample_id) // 8)), np.uint8) for _ in range(2))
    ids, bits, whole = np.zeros(0, np.int32), known[0], False
    for start in range(0, len(runs), at_once):
        frames = rows_of_each(runs[start : start + at_once], "signals", ["sample_id", "query", "member"])
        for row, frame in enumerate(frames, start):
            plain = frame.filter(pl.col("query") == 0) if frame["query"].max() != 0 else frame
            # Runs nearly always hold the same samples in the same order.
            if not np.array_equal(ids, here := plain["sample_id"].to_numpy()):
                ids, flags = here, np.zeros(len(audit), dtype=np.bool_)
                flags[ids] = True
                bits = np.packbits(flags[sample_id])
                whole = np.array_equal(ids, sample_id)
            inside = plain["member"].to_numpy()
            if not whole:
                flags = np.zeros(len(audit), dtype=np.bool_)
                flags[ids] = inside
                inside = flags[sample_id]
            known[row], member[row] = bits, np.packbits(inside)
    return TrainingSets(tuple(run.run for run in runs), sample_id, known, member)
