"""Small data to train on, and the lakes that go with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from losslake.collect.data.training import TrainingData, channel_statistics
from losslake.collect.experiment.prepare import prepare_experiment
from losslake.collect.fleet.target_and_shadows import collect_target
from losslake.collect.recipe import Recipe
from losslake.store.lake import Lake


def pictures(
    n: int, *, classes: int = 3, step: int = 60, channels: int = 3, side: int = 8, audit: int | None = None
) -> TrainingData:
    """``n`` noisy pictures that are brighter by ``step`` from class to class; those from ``audit`` on are the population."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    x = rng.integers(0, 100, (n, channels, side, side)).astype(np.uint8)
    x += (y * step).astype(np.uint8)[:, None, None, None]
    population = np.arange(n) >= (n if audit is None else audit)
    mean, std = channel_statistics(x, np.flatnonzero(~population))
    return TrainingData("made", classes, x, y, population, mean, std)


def lake_with(data: TrainingData, path: Path) -> Lake:
    """A lake whose experiment "e" has these samples, and no run."""
    lake = Lake.open(path, create=True)
    pool = np.where(data.population, "population", "audit").tolist()
    lake.create_experiment("e", pa.table({"label": data.y, "pool": pool}))
    return lake


def lake_with_target(path: Path, samples: int, recipe: Recipe, **recorded: Any) -> Lake:
    """A lake whose experiment "e" has so many digits and a target: a fifth are population, 30% of the others members."""
    lake = Lake.open(path, create=True)
    prepared = prepare_experiment(
        lake, "e", dataset="digits", samples=samples, population=0.2, fraction=0.3, pictures=False
    )
    collect_target(
        lake, "e", recipe=recipe, prepared=prepared, traces=False, device="cpu", jobs=1, **recorded
    )
    return lake
