"""Timing an analysis in a process of its own, which has read nothing of the lake yet."""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from losslake.analysis.scoring.catalogue import find, open_source
from losslake.store.lake import Lake
from synthetic_lake import EXPERIMENT, command_line

Jobs = Mapping[str, tuple[str, Mapping[str, Any]]]
"""A job's name to the analysis and its options."""


def arguments(jobs: Jobs, **sizes: int) -> argparse.Namespace:
    """The command line's, with a LAKE in a new folder where none is named, and how often to ``repeat`` each job.

    In the process that `from_lake` started for one of the jobs, this does the job and ends the process.
    """
    parser = command_line(**sizes)
    parser.add_argument("--repeat", type=int, default=3, help="fresh processes a job; the best counts")
    parser.add_argument("--job", choices=jobs, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        in_process(str(given.lake), *jobs[given.job])
        sys.exit()
    given.lake = given.lake or Path(tempfile.mkdtemp()) / "lake"
    return given


def in_process(lake: str, analysis: str, options: Mapping[str, Any]) -> None:
    """Run an analysis here and print its seconds, from opening the lake to all scores, and this process's peak memory."""
    began = time.perf_counter()
    with open_source(Lake.open(lake), EXPERIMENT) as source:
        find(analysis).compute(source, **options)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))


def from_lake(script: str, lake: Path, job: str, repeat: int = 3) -> tuple[float, float]:
    """Seconds (the best of fresh processes) and peak gigabytes of ``script LAKE --job JOB``, which calls `arguments`."""
    answers = []
    for _ in range(repeat):
        command = [sys.executable, script, str(lake), "--job", job]
        answers.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return min(answer["seconds"] for answer in answers), max(answer["peak"] for answer in answers)


def timed(job: Callable[[], object]) -> float:
    """Seconds that a job takes here."""
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def machine() -> str:
    """The machine's kind and the versions that count, for the head of a table."""
    names = ("duckdb", "polars", "numpy", "pyarrow")
    return f"{platform.machine()}, Python {platform.python_version()}, " + ", ".join(
        f"{name} {version(name)}" for name in names
    )
