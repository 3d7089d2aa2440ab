"""How fast RMIA runs from a lake, beside a direct samples x population loop on arrays already in memory.

    python benchmarks/rmia_speed.py [LAKE] [--runs 64] [--samples 50000] [--population 10000]

Every lake job runs in a fresh process; its time runs from opening the lake to having all scores, its memory is that
process's peak. The loop starts with log ratios in memory, compares every record with every population record, and is
timed on a part of the records.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa

EXPERIMENT = "synthetic"
SOME = 1_000
"""Records that the loop is timed on."""

JOBS = {
    "rmia, online": ("rmia", {}),
    "rmia, offline with a given": ("rmia", {"mode": "offline", "a": 0.3}),
    "rmia, offline with its tuning of a": ("rmia", {"mode": "offline"}),
    "attack-r": ("attack-r", {}),
}
GRID = 11


def make(path: Path, *, runs: int, samples: int, population: int, seed: int = 0) -> None:
    """A lake with ``runs`` shadow runs and a target, half of the samples in each, and a population in none."""
    from losslake.store.lake import Lake
    from losslake.store.records import RunInfo

    lake = Lake.open(path, create=True)
    rng = np.random.default_rng(seed)
    total = samples + population
    labels = rng.integers(0, 10, total)
    pool = np.where(np.arange(total) < samples, "audit", "population")
    lake.create_experiment(EXPERIMENT, pa.table({"label": labels, "pool": pool}))
    level, effect = rng.normal(4, 3, total), rng.gamma(1.0, 0.6, total)
    for number in range(runs + 1):
        name = f"shadow-{number:04d}" if number < runs else "target"
        members = (rng.random(total) < 0.5) & (np.arange(total) < samples)
        phi = (level + effect * members + rng.normal(0, 1, total)).astype(np.float32)
        with lake.write_run(EXPERIMENT, name, members=members) as writer:
            writer.append_signals(
                np.arange(total),
                np.zeros(total, np.int16),
                labels,
                loss=np.logaddexp(0, -phi.astype(np.float64)),
                phi=phi,
                correct=phi > 0,
            )
            writer.commit(RunInfo(role="target" if name == "target" else "shadow"))


def in_process(lake: str, job: str) -> None:
    """Run one job here and print its seconds and this process's peak memory."""
    from losslake.analysis.catalogue import find
    from losslake.analysis.source import Source
    from losslake.store.lake import Lake

    name, options = JOBS[job]
    began = time.perf_counter()
    with Source.open(Lake.open(lake), EXPERIMENT) as source:
        find(name).compute(source, **options)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))


def from_lake(lake: Path, job: str, repeat: int) -> tuple[float, float]:
    """Seconds (the best of fresh processes) and peak gigabytes of a job."""
    answers = []
    for _ in range(repeat):
        command = [sys.executable, __file__, str(lake), "--job", job]
        answers.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return min(answer["seconds"] for answer in answers), max(answer["peak"] for answer in answers)


def direct_loop(samples: int, population: int) -> float:
    """Seconds of comparing every record with every population record, one record after another."""
    rng = np.random.default_rng(0)
    some = min(samples, SOME)
    ratio, of_population = rng.normal(size=some), rng.normal(size=population)
    began = time.perf_counter()
    np.array([(own - of_population > 0).mean() for own in ratio])
    return (time.perf_counter() - began) * samples / some


def main() -> None:
    """Measure everything and print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("lake", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--population", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--job", choices=JOBS)
    given = parser.parse_args()
    if given.job:
        in_process(str(given.lake), given.job)
        return
    lake = given.lake or Path(tempfile.mkdtemp()) / "lake"
    if not lake.exists():
        make(lake, runs=given.runs, samples=given.samples, population=given.population)
    once = direct_loop(given.samples, given.population)
    print(f"{given.runs} runs x {given.samples} samples x {given.population} population records; {platform.machine()}, "
          f"Python {platform.python_version()}, "
          + ", ".join(f"{name} {version(name)}" for name in ("duckdb", "polars", "numpy", "pyarrow")))  # fmt: skip
    print("\n| job | from the lake, cold | peak memory | direct loop, in memory | ratio |")
    print("| --- | --- | --- | --- | --- |")
    for job in JOBS:
        seconds, peak = from_lake(lake, job, given.repeat)
        cells = [job, f"{seconds:.2f} s", f"{peak:.2f} GB"]
        if job.startswith("rmia"):
            loop = once * (GRID + 1 if "tuning" in job else 1)
            cells += [f"{loop:.2f} s", f"{loop / seconds:.1f}x"]
        else:
            cells += ["", ""]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
