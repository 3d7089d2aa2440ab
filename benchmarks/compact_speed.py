"""What sharing files gains: queries over many small runs before and after ``losslake lake compact``.

    python benchmarks/compact_speed.py [LAKE] [--runs 2000] [--samples 500]

A lake of small runs with signals and a trace each, and a copy of it that is compacted. Every job is done in fresh
processes, by turns in the one and in the other, and the best of three counts; then time and memory of compaction itself.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from fresh_process import machine, timed
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.upkeep.compact import Compacted, compact

EXPERIMENT = "small"
_BY_SAMPLE = (
    "select sample_id, avg(phi) filter (where member), stddev(phi) from signals where query = 0 group by 1"
)


def make(path: Path, runs: int, samples: int) -> None:
    """A target and ``runs`` - 1 shadow runs, each with signals of every sample and a loss trace of five epochs."""
    lake = Lake.open(path, create=True)
    rng = np.random.default_rng(0)
    ids = np.arange(samples)
    labels = ids % 10
    lake.create_experiment(EXPERIMENT, pa.table({"label": labels}))
    for number in range(runs):
        members = rng.random(samples) < 0.5
        phi = rng.normal(0, 2, samples) + members
        name = f"shadow-{number:04d}" if number else "target"
        with lake.write_run(EXPERIMENT, name, members=members) as writer:
            loss = np.logaddexp(0, -phi)
            writer.append_signals(ids, np.zeros(samples, int), labels, loss=loss, phi=phi, correct=phi > 0)
            writer.append_traces("eval", ids, loss=rng.random((samples, 5)))
            writer.commit(RunInfo(role="shadow" if number else "target"))


def jobs(lake: Lake) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    run = f"shadow-{len(lake.runs(EXPERIMENT)) // 2:04d}"

    def lira() -> None:
        with open_source(lake, EXPERIMENT) as source:
            find("lira").compute(source)

    def one_run() -> None:
        with open_source(lake, EXPERIMENT, run) as source:
            source.rows(source.need_target(), "signals", ["sample_id", "phi"])

    return {
        "connect": lambda: lake.connect(EXPERIMENT).close(),
        "SQL: count of signals": lambda: lake.sql("select count(*) from signals"),
        "SQL: mean and deviation by sample": lambda: lake.sql(_BY_SAMPLE),
        "SQL: one run": lambda: lake.sql("from signals where run = $run", {"run": run}),
        "SQL: last losses of all traces": lambda: lake.sql(
            "select run, avg(loss[-1]) from traces group by run"
        ),
        "Polars: mean by run": lambda: (
            lake.scan("signals").group_by("run").agg(pl.col("phi").mean()).collect()
        ),
        "one run's rows": one_run,
        "lira": lira,
    }


def in_process(path: str, job: str) -> None:
    """Do one job here; print its seconds."""
    work = jobs(Lake.open(path))[job]
    print(json.dumps(timed(work)))


def by_turns(lakes: Sequence[Path], job: str) -> list[float]:
    """Seconds of a job in each of the lakes, the best of three fresh processes."""
    commands = [[sys.executable, __file__, str(path), "--job", job] for path in lakes]
    turns = [
        [
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for command in commands
        ]
        for _ in range(3)
    ]
    return [min(times) for times in zip(*turns, strict=True)]


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("lake", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--job")
    given = parser.parse_args()
    if given.job:
        in_process(str(given.lake), given.job)
        return
    path = given.lake or Path(tempfile.mkdtemp()) / "lake"
    if not path.exists():
        make(path, given.runs, given.samples)
    copy = path.with_name(f"{path.name}-compacted")
    shutil.copytree(path, copy)
    done: list[Compacted] = []
    seconds = timed(lambda: done.append(compact(Lake.open(copy), EXPERIMENT)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(machine(), f"{given.runs} runs x {given.samples} samples", sep="\n")
    print("| job | before | after | ratio |\n| --- | --- | --- | --- |")
    for name in jobs(Lake.open(path)):
        before, after = by_turns((path, copy), name)
        print(f"| {name} | {before:.2f} s | {after:.2f} s | {before / after:.1f}x |", flush=True)
    (one,) = done
    print(
        f"\ncompact: {seconds:.1f} s, {peak:.2f} GB; {one.files_before} files of {one.bytes_before / 1e6:.1f} MB became "
        f"{one.files_after} of {one.bytes_after / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
