"""A lake of synthetic runs, to measure analyses on: phi is Gaussian a sample, shifted for members."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from losslake.store.lake import Lake
from losslake.store.records import RunInfo

EXPERIMENT = "synthetic"


def make(path: Path, *, runs: int, samples: int, epochs: int, seed: int = 0) -> Lake:
    """A lake with ``runs`` shadow runs (``shadow-0000``...) and a target with a trace of epochs + 1 points."""
    lake = Lake.open(path, create=True)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, samples)
    lake.create_experiment(EXPERIMENT, pa.table({"label": labels}))
    level = rng.normal(4, 3, samples)
    effect = rng.gamma(1.0, 0.6, samples)
    learnt = 2 + 12 * effect  # epochs until a sample's loss has fallen to a third: late for those that matter
    ids = np.arange(samples)
    for number in range(runs + 1):
        name = f"shadow-{number:04d}" if number < runs else "target"
        if lake.has_run(EXPERIMENT, name):
            continue
        members = rng.random(samples) < 0.5
        phi = (level + effect * members + rng.normal(0, 1, samples)).astype(np.float32)
        with lake.write_run(EXPERIMENT, name, members=members) as writer:
            writer.append_signals(
                ids,
                np.zeros(samples, np.int16),
                labels,
                loss=np.logaddexp(0, -phi.astype(np.float64)),
                phi=phi,
                correct=phi > 0,
            )
            if name == "target" and epochs:
                for epoch in range(epochs + 1):
                    writer.append_epoch(
                        "eval",
                        epoch,
                        ids,
                        loss=rng.gamma(4, 0.6 * np.exp(-epoch / learnt)).astype(np.float32),
                    )
            writer.commit(RunInfo(role="target" if name == "target" else "shadow"))
    return lake


if __name__ == "__main__":
    make(Path(sys.argv[1]), runs=256, samples=50_000, epochs=100)
