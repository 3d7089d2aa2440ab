"""Recording a run of many samples and epochs by the hook, with made losses in place of a training.

    python benchmarks/far_collect.py LAKE [--samples 1280000] [--epochs 90]

What a loop of one's own calls is called here: `batch` and `record` for each batch of the members, which are half of the
samples, `trace_eval_by` before training and after each epoch for all of them, `evaluate_by` at the end. Prints the resident
memory after some epochs and its peak at the commit.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from losslake.collect.hook.start import start_run
from losslake.collect.signals.from_logits import Answers
from losslake.collect.signals.queries import Query
from losslake.store.lake import Lake
from synthetic_lake import CLASSES, EXPERIMENT

BATCH = 256


def memory(name: str) -> float:
    """Gigabytes: VmRSS is what this process holds now, VmHWM the most that it has held."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e9


def main() -> None:
    """Record, and print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("lake", type=Path)
    parser.add_argument("--samples", type=int, default=1_280_000)
    parser.add_argument("--epochs", type=int, default=90)
    given = parser.parse_args()
    lake = Lake.open(given.lake, create=True)
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, given.samples)
    members = random.random(given.samples) < 0.5
    learnt = random.uniform(2, given.epochs, given.samples)
    draw = torch.Generator().manual_seed(0)

    def losses(epoch: int) -> torch.Tensor:
        level = torch.from_numpy(np.exp(-epoch / learnt)).float()
        return level * torch.empty(given.samples).exponential_(generator=draw)

    def answers(ids: np.ndarray, query: Query) -> Answers:
        phi = -np.log(np.expm1(losses(given.epochs).numpy()[ids].clip(1e-6)))
        return Answers(np.logaddexp(0, -phi), phi, labels[ids], phi > 0)

    print("| after | seconds | memory | most so far |\n| --- | --- | --- | --- |", flush=True)
    began = time.perf_counter()

    def tell(when: str) -> None:
        cells = [
            f"{time.perf_counter() - began:.0f} s",
            *(f"{memory(name):.2f} GB" for name in ("VmRSS", "VmHWM")),
        ]
        print(f"| {when} | {' | '.join(cells)} |", flush=True)

    trained = torch.from_numpy(np.flatnonzero(members))
    with start_run(lake, EXPERIMENT, samples=labels, members=members) as run:
        tell("the start")
        run.trace_eval_by(lambda ids: (losses(0)[ids], None, None))
        for epoch in range(1, given.epochs + 1):
            now = losses(epoch)
            for batch in trained[torch.randperm(len(trained), generator=draw)].split(BATCH):
                run.batch(batch)
                run.record(now[batch], -now[batch])
            run.end_epoch()
            run.trace_eval_by(lambda ids: (now[ids], -now[ids], None))  # noqa: B023
            if epoch in (1, 3, 10, 30) or epoch % 30 == 0:
                tell(f"epoch {epoch}")
        run.evaluate_by(answers)
        tell("the signals")
    tell("the commit")


if __name__ == "__main__":
    main()
