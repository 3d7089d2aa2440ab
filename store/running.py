"""Runs in the making, as far as the files of their writers tell."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from . import paths
from .errors import CorruptLake
from .lake import Lake

_STAGED = re.compile(r"staging/experiment=([^/]+)/run=([^/]+)/[^/]+/(?:train|eval)-(\d+)\.arrow")
_SIGNALS = re.compile(r"signals/experiment=([^/]+)/run=([^/]+)/[^/]+\.parquet")


@dataclass(frozen=True)
class RunningRun:
    """A run that a writer has begun and not committed; ``epoch`` is the latest recorded one, None before any.

    ``signals`` says whether the finished model's answers are being written, ``written`` when the latest file was.
    A killed writer leaves the same files as one at work: only the age tells.
    """

    experiment: str
    run: str
    epoch: int | None
    signals: bool
    written: datetime

    @property
    def state(self) -> str:
        """In words, such as ``collecting, epoch 7``."""
        parts = [] if self.epoch is None else [f"epoch {self.epoch}"]
        return ", ".join(["collecting", *parts, *(["signals"] if self.signals else [])])


def running(lake: Lake, experiments: Iterable[str]) -> list[RunningRun]:
    """The runs in the making, by experiment and name.

    A run shows from its first recorded epoch on, or where it records none from its first signals on.
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
        by_run: dict[str, list[str]] = {}
        for path in files:
            match = _STAGED.fullmatch(path) or _SIGNALS.fullmatch(path)
            if match and match[2] not in committed:
                by_run.setdefault(match[2], []).append(path)
        found += [
            one
            for run, own in sorted(by_run.items())
            if (one := _running(lake, experiment, run, own)) is not None
        ]
    return found


def _running(lake: Lake, experiment: str, run: str, files: list[str]) -> RunningRun | None:
    """What the files of a run say; None where they went while one looked, or the run was committed."""
    try:
        written = max(lake.files.modified(path) for path in files)
    except CorruptLake:
        if lake.files.exists(paths.run_manifest(experiment, run)):
            return None
        left = [path for path in files if lake.files.exists(path)]
        return _running(lake, experiment, run, left) if left and left != files else None
    epochs = [int(match[3]) for path in files if (match := _STAGED.fullmatch(path))]
    signals = any(_SIGNALS.fullmatch(path) for path in files)
    return RunningRun(
        experiment, run, max(epochs, default=None), signals, datetime.fromtimestamp(written, UTC)
    )
