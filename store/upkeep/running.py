"""Runs in the making, as far as the files and the leases of their writers tell."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from ..errors import CorruptLake
from ..files import tokens
from ..format import paths
from ..lake import Lake
from ..write import leases
from .leftovers import what_became_of

_STAGED = re.compile(r"staging/experiment=([^/]+)/run=([^/]+)/[^/]+/(?:train|eval)-(\d+)\.arrow")
_SIGNALS = re.compile(r"signals/experiment=([^/]+)/run=([^/]+)/[^/]+\.parquet")


@dataclass(frozen=True)
class RunningRun:
    """A run that a writer has begun and not committed; ``epoch`` is the latest recorded one, None before any.

    ``signals`` says whether the finished model's answers are being written, ``written`` when the latest file was.
    ``killed`` says that its writer is no more. Of a writer on another machine only the age tells.
    """

    experiment: str
    run: str
    epoch: int | None
    signals: bool
    written: datetime
    killed: bool

    @property
    def state(self) -> str:
        """In words, such as ``collecting, epoch 7`` or ``killed, epoch 7``."""
        parts = [] if self.epoch is None else [f"epoch {self.epoch}"]
        return ", ".join(
            ["killed" if self.killed else "collecting", *parts, *(["signals"] if self.signals else [])]
        )


def running(lake: Lake, experiments: Iterable[str]) -> list[RunningRun]:
    """The runs in the making, by experiment and name.

    A run shows from its first recorded epoch on, or where it records none from its first signals on. Of its writers
    that one counts which is not known to be gone, and of several the latest.
    """
    found = []
    for experiment in experiments:
        # What lies there is noted first: a run that commits in the meantime must not look like one in the making.
        files = [
            path
            for folder in ("staging", "signals")
            for path in lake.files.list(f"{folder}/experiment={experiment}")
        ]
        committed = {run.run for run in lake.runs(experiment)}
        # After the files: a writer that has none of its own left by now had its lease when they were listed.
        states = leases.states(lake.files)
        by_writer: dict[tuple[str, str | None], list[str]] = {}
        for path in files:
            match = _STAGED.fullmatch(path) or _SIGNALS.fullmatch(path)
            if match and match[2] not in committed:
                by_writer.setdefault((match[2], tokens.writer_of(path)), []).append(path)
        latest: dict[str, RunningRun] = {}
        for (run, _), own in by_writer.items():
            gone = what_became_of(own[0], states) in ("killed", "ended")
            one = _running(lake, experiment, run, own, killed=gone)
            if one and (run not in latest or _rank(one) > _rank(latest[run])):
                latest[run] = one
        found += [latest[run] for run in sorted(latest)]
    return found


def _rank(one: RunningRun) -> tuple[bool, datetime]:
    return not one.killed, one.written


def _running(lake: Lake, experiment: str, run: str, files: list[str], *, killed: bool) -> RunningRun | None:
    """What the files of a run's writer say; None where they went while one looked, or the run was committed."""
    try:
        written = max(lake.files.modified(path) for path in files)
    except CorruptLake:
        if lake.files.exists(paths.run_manifest(experiment, run)):
            return None
        left = [path for path in files if lake.files.exists(path)]
        return _running(lake, experiment, run, left, killed=killed) if left and left != files else None
    epochs = [int(match[3]) for path in files if (match := _STAGED.fullmatch(path))]
    signals = any(_SIGNALS.fullmatch(path) for path in files)
    return RunningRun(
        experiment, run, max(epochs, default=None), signals, datetime.fromtimestamp(written, UTC), killed
    )
