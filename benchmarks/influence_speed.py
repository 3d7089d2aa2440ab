"""How fast influence runs from a lake, beside one sample after another on arrays already in memory.

    python benchmarks/influence_speed.py [LAKE] [--runs 256] [--samples 10000] [--tested 2000]

Every lake job runs in a fresh process; its time runs from opening the lake to having all scores, its memory is that
process's peak. The loops start with the arrays in memory and are timed on some of the samples.
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
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rmia_speed import EXPERIMENT, make

SOME = 200
"""Samples that the loop over samples is timed on."""

PAIRS = 20_000
"""Pairs that the loop over pairs is timed on."""

JOBS = {
    "influence, correct": {},
    "influence, probability": {"of": "probability"},
}


def in_process(lake: str, job: str) -> None:
    """Run one job here and print its seconds and this process's peak memory."""
    from losslake.analysis.influence import influence
    from losslake.analysis.source import Source
    from losslake.store.lake import Lake

    began = time.perf_counter()
    with Source.open(Lake.open(lake), EXPERIMENT) as source:
        influence(source, **JOBS[job])
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))


def from_lake(lake: Path, job: str, repeat: int) -> tuple[float, float]:
    """Seconds (the best of fresh processes) and peak gigabytes of a job."""
    answers = []
    for _ in range(repeat):
        command = [sys.executable, __file__, str(lake), "--job", job]
        answers.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return min(answer["seconds"] for answer in answers), max(answer["peak"] for answer in answers)


def loops(runs: int, samples: int, tested: int) -> tuple[float, float]:
    """Seconds for all samples of a loop over samples and of one over pairs; either takes the largest five."""
    rng = np.random.default_rng(0)
    keep, correct = rng.random((runs, SOME)) < 0.5, rng.random((runs, tested)) < 0.7

    def by_sample() -> None:
        for i in range(SOME):
            found = correct[keep[:, i]].mean(axis=0) - correct[~keep[:, i]].mean(axis=0)
            np.argpartition(found, -5)[-5:]

    def by_pair() -> None:
        for pair in range(PAIRS):
            inside, right = keep[:, pair % SOME], correct[:, pair % tested]
            right[inside].mean() - right[~inside].mean()

    return timed(by_sample) * samples / SOME, timed(by_pair) * samples * tested / PAIRS


def timed(job: Callable[[], None]) -> float:
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def main() -> None:
    """Measure everything and print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("lake", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=256)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--tested", type=int, default=2_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--job", choices=JOBS)
    given = parser.parse_args()
    if given.job:
        in_process(str(given.lake), given.job)
        return
    lake = given.lake or Path(tempfile.mkdtemp()) / "lake"
    if not lake.exists():
        make(lake, runs=given.runs, samples=given.samples, population=given.tested)
    by_sample, by_pair = loops(given.runs, given.samples, given.tested)
    print(f"{given.runs} runs x {given.samples} samples x {given.tested} test records; {platform.machine()}, "
          f"Python {platform.python_version()}, "
          + ", ".join(f"{name} {version(name)}" for name in ("duckdb", "polars", "numpy", "pyarrow")))  # fmt: skip
    print(
        "\n| job | from the lake, cold | peak memory | loop over samples | ratio | loop over pairs | ratio |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for job in JOBS:
        seconds, peak = from_lake(lake, job, given.repeat)
        cells = [job, f"{seconds:.2f} s", f"{peak:.2f} GB"]
        for loop in (by_sample, by_pair):
            cells += [f"{loop:.1f} s", f"{loop / seconds:.0f}x"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
