"""A lake of synthetic runs, to measure analyses on: phi is Gaussian a sample, shifted for members."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake

EXPERIMENT = "synthetic"
CLASSES = 10


def command_line(**sizes: int) -> argparse.ArgumentParser:
    """A benchmark's: LAKE, which is made where it is not there, and --NAME for each of the sizes, by default as given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("lake", nargs="?", type=Path)
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    return parser


def make(
    path: Path,
    *,
    runs: int,
    samples: int,
    epochs: int,
    population: int = 0,
    logits: bool = False,
    seed: int = 0,
) -> Lake:
    """A lake with ``runs`` shadow runs (``shadow-0000``...) and a target with a trace of epochs + 1 points.

    ``population`` more samples are in no run's training set; ``logits`` stores ten float16 logits that agree with phi.
    """
    lake = Lake.open(path, create=True)
    rng = np.random.default_rng(seed)
    audit, samples = samples, samples + population
    labels = rng.integers(0, CLASSES, samples)
    pool = np.where(np.arange(samples) < audit, "audit", "population")
    lake.create_experiment(EXPERIMENT, pa.table({"label": labels, "pool": pool}))
    level = rng.normal(4, 3, samples)
    effect = rng.gamma(1.0, 0.6, samples)
    learnt = 2 + 12 * effect  # epochs until a sample's loss has fallen to a third: late for those that matter
    ids = np.arange(samples)
    for number in range(runs + 1):
        name = f"shadow-{number:04d}" if number < runs else "target"
        if lake.has_run(EXPERIMENT, name):
            continue
        members = (rng.random(samples) < 0.5) & (ids < audit)
        phi = (level + effect * members + rng.normal(0, 1, samples)).astype(np.float32)
        with lake.write_run(EXPERIMENT, name, members=members) as writer:
            writer.append_signals(
                ids,
                np.zeros(samples, np.int16),
                labels,
                loss=np.logaddexp(0, -phi.astype(np.float64)),
                phi=phi,
                correct=phi > 0,
                logits=_logits(phi, labels, rng) if logits else None,
            )
            if name == "target" and epochs:
                for epoch in range(epochs + 1):
                    writer.append_epoch(
                        "eval",
                        epoch,
                        ids[:audit],
                        loss=rng.gamma(4, 0.6 * np.exp(-epoch / learnt[:audit])).astype(np.float32),
                    )
            writer.commit(RunInfo(role="target" if name == "target" else "shadow"))
    return lake


def _logits(phi: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Float16 (N, CLASSES): the label's logit lies phi above the logsumexp of the others."""
    z = rng.normal(0, 2, (len(phi), CLASSES)).astype(np.float32)
    z[np.arange(len(z)), labels] = -np.inf
    z[np.arange(len(z)), labels] = phi + np.log(np.exp(z).sum(axis=1))
    return z.astype(np.float16)


if __name__ == "__main__":
    make(Path(sys.argv[1]), runs=256, samples=50_000, epochs=100)
