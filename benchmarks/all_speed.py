"""How long ``losslake report`` and ``losslake analyze all`` take, the latter analysis by analysis.

    python benchmarks/all_speed.py [LAKE] [--runs 64] [--samples 50000] [--population 10000]

A lake with shadow runs, logits, a population and the target's loss trace. First the report, which computes what it needs, as a new
lake keeps no results yet; then every analysis and evaluation that the data allows, one after another in one process, each
timed; last `analyze all` itself, in one process and in as many as it takes by itself. The commands run in fresh processes; told is the peak
memory of the largest one.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from losslake.analysis.evaluations.catalogue import run_all
from losslake.analysis.scoring.catalogue import open_source
from losslake.analysis.scoring.run import FPRS
from losslake.store.lake import Lake
from synthetic_lake import EXPERIMENT, command_line, make


def main() -> None:
    """Measure, and print a table in Markdown."""
    given = command_line(runs=64, samples=50_000, population=10_000).parse_args()
    path = given.lake or Path(tempfile.mkdtemp()) / "lake"
    if not path.exists():
        make(
            path, runs=given.runs, samples=given.samples, epochs=50, population=given.population, logits=True
        )
    command("report", "--lake", str(path), "--out", str(path.with_name("report.html")))
    print("\n| analysis | seconds |\n| --- | --- |")
    with open_source(Lake.open(path), EXPERIMENT) as source:
        began = time.perf_counter()
        for told in run_all(source, FPRS):
            ended = time.perf_counter()
            print(
                f"| {told.title}{' (left out)' if told.missing else ''} | {ended - began:.2f} |", flush=True
            )
            began = ended
    print()
    command("analyze", "all", "--jobs", "1", "--lake", str(path))
    command("analyze", "all", "--lake", str(path))


def command(*given: str) -> None:
    """Run ``losslake`` in a process of its own and print what it took."""
    line = [sys.executable, "-m", "losslake.cli", *given]
    quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
    began = time.perf_counter()
    _, status, used = os.wait4(os.posix_spawn(line[0], line, os.environ, file_actions=quiet), 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"losslake {' '.join(given)} failed")
    print(
        f"losslake {' '.join(given).partition(' --lake')[0]}: {seconds:.1f} s, {used.ru_maxrss / 1e6:.2f} GB"
    )


if __name__ == "__main__":
    main()
