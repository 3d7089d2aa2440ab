"""How fast RMIA runs from a lake, beside a direct samples x population loop on arrays already in memory.

    python benchmarks/rmia_speed.py [LAKE] [--runs 64] [--samples 50000] [--population 10000]

Every lake job runs in a fresh process; its time runs from opening the lake to having all scores, its memory is that
process's peak. The loop starts with log ratios in memory, compares every record with every population record, and is
timed on a part of the records.
"""

from __future__ import annotations

import numpy as np
from fresh_process import Jobs, arguments, from_lake, machine, timed
from synthetic_lake import make

SOME = 1_000
"""Records that the loop is timed on."""

JOBS: Jobs = {
    "rmia, online": ("rmia", {}),
    "rmia, offline with a given": ("rmia", {"mode": "offline", "a": 0.3}),
    "rmia, offline with its tuning of a": ("rmia", {"mode": "offline"}),
    "attack-r": ("attack-r", {}),
}
GRID = 11


def direct_loop(samples: int, population: int) -> float:
    """Seconds of comparing every record with every population record, one record after another."""
    rng = np.random.default_rng(0)
    some = min(samples, SOME)
    ratio, of_population = rng.normal(size=some), rng.normal(size=population)
    once = timed(lambda: np.array([(own - of_population > 0).mean() for own in ratio]))
    return once * samples / some


def main() -> None:
    """Measure everything and print a table in Markdown."""
    given = arguments(JOBS, runs=64, samples=50_000, population=10_000)
    if not given.lake.exists():
        make(given.lake, runs=given.runs, samples=given.samples, epochs=0, population=given.population)
    once = direct_loop(given.samples, given.population)
    print(f"{given.runs} runs x {given.samples} samples x {given.population} population records; {machine()}")
    print("\n| job | from the lake, cold | peak memory | direct loop, in memory | ratio |")
    print("| --- | --- | --- | --- | --- |")
    for job in JOBS:
        seconds, peak = from_lake(__file__, given.lake, job, given.repeat)
        cells = [job, f"{seconds:.2f} s", f"{peak:.2f} GB"]
        if job.startswith("rmia"):
            loop = once * (GRID + 1 if "tuning" in job else 1)
            cells += [f"{loop:.2f} s", f"{loop / seconds:.1f}x"]
        else:
            cells += ["", ""]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
