"""How long ``losslake analyze all`` takes, analysis by analysis.

    python benchmarks/all_speed.py [LAKE] [--runs 64] [--samples 50000] [--population 10000]

A lake with shadow runs, logits, a population and the target's loss trace; every analysis and evaluation that its data
allows, one after another in one process, each timed. Then the command itself, in a fresh process, with its peak memory.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from losslake.analysis.run import FPRS
from losslake.analysis.run_all import run_all
from losslake.analysis.source import Source
from losslake.store.lake import Lake
from synthetic_lake import EXPERIMENT, make


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("lake", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--population", type=int, default=10_000)
    given = parser.parse_args()
    path = given.lake or Path(tempfile.mkdtemp()) / "lake"
    if not path.exists():
        make(
            path, runs=given.runs, samples=given.samples, epochs=50, population=given.population, logits=True
        )
    print("| analysis | seconds |\n| --- | --- |")
    with Source.open(Lake.open(path), EXPERIMENT) as source:
        began = time.perf_counter()
        for told in run_all(source, FPRS):
            ended = time.perf_counter()
            print(
                f"| {told.title}{' (left out)' if told.missing else ''} | {ended - began:.2f} |", flush=True
            )
            began = ended
    began = time.perf_counter()
    command = [sys.executable, "-m", "losslake.cli", "analyze", "all", "--lake", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"\nlosslake analyze all: {time.perf_counter() - began:.1f} s, {peak:.2f} GB")


if __name__ == "__main__":
    main()
