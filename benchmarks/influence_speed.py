"""How fast influence runs from a lake, beside one sample after another on arrays already in memory.

    python benchmarks/influence_speed.py [LAKE] [--runs 256] [--samples 10000] [--tested 2000]

Every lake job runs in a fresh process; its time runs from opening the lake to having all scores, its memory is that
process's peak. The loops start with the arrays in memory and are timed on some of the samples.
"""

from __future__ import annotations

import numpy as np
from fresh_process import Jobs, arguments, from_lake, machine, timed
from synthetic_lake import make

SOME = 200
"""Samples that the loop over samples is timed on."""

PAIRS = 20_000
"""Pairs that the loop over pairs is timed on."""

JOBS: Jobs = {
    "influence, correct": ("influence", {}),
    "influence, probability": ("influence", {"of": "probability"}),
}


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


def main() -> None:
    """Measure everything and print a table in Markdown."""
    given = arguments(JOBS, runs=256, samples=10_000, tested=2_000)
    if not given.lake.exists():
        make(given.lake, runs=given.runs, samples=given.samples, epochs=0, population=given.tested)
    by_sample, by_pair = loops(given.runs, given.samples, given.tested)
    print(f"{given.runs} runs x {given.samples} samples x {given.tested} test records; {machine()}")
    print(
        "\n| job | from the lake, cold | peak memory | loop over samples | ratio | loop over pairs | ratio |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for job in JOBS:
        seconds, peak = from_lake(__file__, given.lake, job, given.repeat)
        cells = [job, f"{seconds:.2f} s", f"{peak:.2f} GB"]
        for loop in (by_sample, by_pair):
            cells += [f"{loop:.1f} s", f"{loop / seconds:.0f}x"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
