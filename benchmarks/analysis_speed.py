"""How fast analyses run from a lake of 256 runs x 50,000 samples, beside NumPy on arrays already in memory.

    python benchmarks/analysis_speed.py [LAKE] [--runs 256] [--samples 50000]

Every lake job runs in a fresh process; its time runs from opening the lake to having all scores, its memory is that
process's peak. The NumPy jobs start with the arrays in memory, which the lake jobs first have to read.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from fresh_process import Jobs, arguments, from_lake, machine, timed
from synthetic_lake import make

JOBS: Jobs = {
    "lira, means": ("lira", {}),
    "lira, medians": ("lira", {"center": "median"}),
    "memorization": ("memorization", {}),
    "privacy-score": ("privacy-score", {}),
    "lt-iqr": ("lt-iqr", {}),
}


def arrays(runs: int, samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """phi (runs + 1, samples) with the target last, members of the same shape, loss traces (samples, 101)."""
    rng = np.random.default_rng(0)
    members = rng.random((runs + 1, samples)) < 0.5
    phi = (rng.normal(4, 3, samples) + members + rng.normal(0, 1, (runs + 1, samples))).astype(np.float32)
    return phi, members, rng.exponential(1, (samples, 101)).astype(np.float32)


def lira_loop(
    phi: np.ndarray, members: np.ndarray, centre: Callable[..., np.ndarray], samples: int
) -> np.ndarray:
    """LiRA one sample after another, as peers write it."""
    scores = np.empty(samples)
    for i in range(samples):
        inside, outside = phi[:-1][members[:-1, i], i], phi[:-1][~members[:-1, i], i]
        here = phi[-1, i]
        scores[i] = _log_normal(here, centre(inside), inside.std()) - _log_normal(
            here, centre(outside), outside.std()
        )
    return scores


def lira_vectorised(phi: np.ndarray, members: np.ndarray, median: bool) -> np.ndarray:
    """LiRA over whole matrices."""
    sides = []
    for mask in (members[:-1], ~members[:-1]):
        values = np.where(mask, phi[:-1], np.nan)
        mean, std = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
        sides.append((np.nanmedian(values, axis=0) if median else mean, std))
    return _log_normal(phi[-1], *sides[0]) - _log_normal(phi[-1], *sides[1])


def _log_normal(x: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    return -0.5 * np.log(2 * np.pi * std**2) - (x - mean) ** 2 / (2 * std**2)


def main() -> None:
    """Measure everything and print a table in Markdown."""
    given = arguments(JOBS, runs=256, samples=50_000)
    make(given.lake, runs=given.runs, samples=given.samples, epochs=100)
    phi, members, traces = arrays(given.runs, given.samples)
    some = min(given.samples, 2_000)
    share = given.samples / some
    loops = {
        "lira, means": lambda: lira_loop(phi, members, np.mean, some),
        "lira, medians": lambda: lira_loop(phi, members, np.median, some),
        "lt-iqr": lambda: [np.subtract(*np.percentile(trace, [75, 25])) for trace in traces[:some]],
    }
    vectorised = {
        "lira, means": lambda: lira_vectorised(phi, members, median=False),
        "lira, medians": lambda: lira_vectorised(phi, members, median=True),
        "lt-iqr": lambda: np.subtract(*np.percentile(traces, [75, 25], axis=1)),
    }
    print(f"{given.runs} runs x {given.samples} samples; {machine()}")
    print(
        "\n| job | from the lake, cold | peak memory | per-sample loop | ratio | vectorised NumPy | ratio |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for job in JOBS:
        seconds, peak = from_lake(__file__, given.lake, job, given.repeat)
        cells = [job, f"{seconds:.2f} s", f"{peak:.2f} GB"]
        for other, scale in ((loops, share), (vectorised, 1.0)):
            if job in other:
                taken = timed(other[job]) * scale
                cells += [f"{taken:.2f} s", f"{taken / seconds:.1f}x"]
            else:
                cells += ["", ""]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
