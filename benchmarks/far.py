"""How far one machine goes: four analyses on lakes of 1 M to 164 M signal rows, each process within 4 GB of memory.

    python benchmarks/far.py FOLDER [--samples 7813 31250 125000 500000 1280000] [--runs 128] [--limit 4]
    python benchmarks/far.py FOLDER --collect [--samples 1280000] [--epochs 90]

What grows is the number of samples, at 128 runs: 7,813 samples are 1 M rows of signals, 1,280,000 are 164 M. 5% of the
samples are RMIA's population; the others have a loss trace of 91 points in the target. Lakes are made in FOLDER, run by run,
where they are not there yet.

Each job is a fresh process, the one that a user starts: ``losslake analyze NAME``, which keeps its scores in the lake, or
a program in Polars or NumPy that computes the same from the same files (far_peers.py). Seconds, of the clock and of the
processor, are those of the whole process, the start of Python included. Memory is its largest resident set; besides, every
process runs under a hard limit of so much data (RLIMIT_DATA), past which it fails; the limit counts what is set aside, too, a
gigabyte more than is used. So does the making of the lakes. Spark (--by "losslake on Spark") goes without a limit, and of it the
memory of Java is not told.

``--collect`` records a run of so many samples and epochs by the hook (far_collect.py), and analyses its trace.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

# Nothing of losslake: a process begins with the memory of the one that starts it.

HERE = Path(__file__).parent
SAMPLES = (7_813, 31_250, 125_000, 500_000, 1_280_000)
POPULATION = 0.05
EPOCHS = 90
JOBS = {
    "lira": ("lira",),
    "lira-median": ("lira", "--center", "median"),
    "rmia": ("rmia",),
    "memorization": ("memorization",),
    "lt-iqr": ("lt-iqr",),
}
OURS = "losslake"
SPARK = "losslake on Spark"
PEERS = ("polars", "numpy", "matrix")
ENGINES = {OURS: (), SPARK: ("--engine", "spark", "--spark-master", "local[2]")}
SLOWER = 1.2
"""How much more time a row may take at one size than at the size before, where there are 10 M rows and more."""


@dataclass(frozen=True)
class Taken:
    """What a process took: seconds of the clock and of processors, gigabytes at its peak, what it printed; why it failed."""

    seconds: float
    processor: float
    peak: float
    answer: str
    failure: str


def run(command: Sequence[str], limit: float) -> Taken:
    """Run a program to its end under a limit of ``limit`` gigabytes of data, 0 for none."""

    def limited() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 1e9), int(limit * 1e9)))

    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as complained:
        began = time.perf_counter()
        child = subprocess.Popen(command, stdout=told, stderr=complained, preexec_fn=limited)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        complained.seek(0)
        words = complained.read().decode(errors="replace").strip()
        failure = f"exit code {child.returncode}: {words}" if child.returncode else ""
        answer = told.read().decode()
    # The peak is told in kibibytes.
    return Taken(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9, answer, failure)


def command_of(job: str, engine: str, lake: Path) -> list[str]:
    """The command line of a job."""
    if engine in ENGINES:
        return [
            *(sys.executable, "-m", "losslake.cli", "analyze", *JOBS[job], *ENGINES[engine]),
            *("--lake", str(lake), "--metrics", "-"),
        ]
    return [sys.executable, str(HERE / "far_peers.py"), str(lake), job, engine]


def auc_in(answer: str) -> float:
    """The area under the ROC curve that a job printed."""
    told: Any = json.loads(answer)
    if isinstance(told, dict):
        return float(told["auc"])
    return float(next(metric["value"] for metric in told if metric["metric"] == "auc"))


def lake_of(folder: Path, runs: int, samples: int, limit: float) -> Path:
    """The lake of so many runs and samples, made where it is not there yet."""
    path = folder / f"{runs}x{samples}-lake"
    done = path / "runs" / "experiment=synthetic" / "target.json"
    if not done.exists():
        population = round(samples * POPULATION)
        sizes = f"runs={runs}, samples={samples - population}, population={population}, epochs={EPOCHS}"
        text = (
            f"from pathlib import Path; from synthetic_lake import make; make(Path({str(path)!r}), {sizes})"
        )
        taken = run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(HERE)!r}); {text}"], limit)
        if taken.failure:
            raise SystemExit(f"the lake of {samples} samples could not be made: {brief(taken.failure)}")
        print(f"made {path.name}: {taken.seconds:.0f} s, {taken.peak:.2f} GB at the peak", flush=True)
    return path


def analyses(given: argparse.Namespace) -> None:
    """Measure every job at every size, print a table, then what missed its bar."""
    print(f"{given.runs} runs; load {load()}; {machine()}\n")
    lakes = {samples: lake_of(given.folder, given.runs, samples, given.limit) for samples in given.samples}
    print("\n| signal rows | job | by | seconds | processor | peak | rows a second | AUC | load |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    processor: dict[str, dict[int, float]] = {job: {} for job in given.jobs}
    missed = []
    for job in given.jobs:
        for samples, lake in lakes.items():
            rows = samples * given.runs
            for engine in given.by:
                if (job, engine) == ("lira-median", "numpy"):
                    continue  # medians cannot be added up
                before = load()
                # A Java machine sets far more memory aside than it takes.
                limit = 0 if engine == SPARK else given.limit
                tries = [run(command_of(job, engine, lake), limit) for _ in range(given.repeat)]
                best = min(tries, key=lambda taken: (taken.failure != "", taken.processor))
                peak = max(taken.peak for taken in tries)
                cells = [f"{rows / 1e6:.0f} M", job, engine]
                if best.failure:
                    cells += ["", "", f"past {given.limit:g} GB" if out_of_memory(best) else "failed", "", ""]
                else:
                    speed = f"{rows / best.seconds / 1e6:.1f} M"
                    cells += [f"{best.seconds:.1f} s", f"{best.processor:.1f} s", f"{peak:.2f} GB", speed]
                    cells += [f"{auc_in(best.answer):.6f}"]
                print(f"| {' | '.join([*cells, before])} |", flush=True)
                if engine == OURS:
                    processor[job][rows] = best.processor if not best.failure else math.inf
                    if best.failure or peak > given.limit > 0:
                        missed.append(
                            f"{job}, {rows / 1e6:.0f} M rows: {brief(best.failure) or f'{peak:.2f} GB'}"
                        )
    missed += [line for job, taken in processor.items() for line in faster_than_linear(job, taken)]
    print(f"\nBars missed: {'; '.join(missed) or 'none'}.")


def faster_than_linear(job: str, processor: dict[int, float]) -> list[str]:
    """Where a row takes more time than at the size before, of the sizes from 10 M rows on."""
    sizes = sorted(rows for rows in processor if rows >= 1e7)
    return [
        f"{job}, {large / 1e6:.0f} M rows: {ratio:.2f} times the time a row of {small / 1e6:.0f} M"
        for small, large in pairwise(sizes)
        if (ratio := processor[large] / large / (processor[small] / small)) > SLOWER
    ]


def out_of_memory(taken: Taken) -> bool:
    """Whether a process failed for want of memory, as far as its last words and its peak tell."""
    return taken.peak > 2 or any(word in taken.failure.lower() for word in ("memory", "alloc"))


def brief(failure: str) -> str:
    """The first line of what a process complained of."""
    return failure.partition("\n")[0][:200]


def load() -> str:
    """What others do on the machine: the mean number of busy threads in the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


def machine() -> str:
    """The machine's kind and the versions that count."""
    names = ("duckdb", "polars", "numpy", "pyarrow", "torch")
    told = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {told}"


def collected(given: argparse.Namespace) -> None:
    """Record a run, tell its memory as it goes, and analyse its trace."""
    samples = max(given.samples)
    lake = given.folder / "collected-lake"
    print(f"{samples} samples x {given.epochs} epochs; load {load()}; {machine()}\n", flush=True)
    program = [sys.executable, str(HERE / "far_collect.py"), str(lake)]
    taken = run([*program, "--samples", str(samples), "--epochs", str(given.epochs)], given.limit)
    print(taken.answer)
    print("| what | seconds | processor | peak |\n| --- | --- | --- | --- |")
    for name, each in (("recording", taken), ("lt-iqr", None)):
        told = each or run(command_of("lt-iqr", OURS, lake), given.limit)
        cells = [name, f"{told.seconds:.1f} s", f"{told.processor:.1f} s", f"{told.peak:.2f} GB"]
        print(f"| {' | '.join(cells)} | {brief(told.failure)}", flush=True)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, nargs="+", default=SAMPLES)
    parser.add_argument("--runs", type=int, default=128)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--by", nargs="+", choices=(*ENGINES, *PEERS), default=[OURS, *PEERS])
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--limit", type=float, default=4.0, help="gigabytes a process; 0: no limit")
    parser.add_argument("--collect", action="store_true")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.collect:
        collected(given)
    else:
        analyses(given)


if __name__ == "__main__":
    main()
