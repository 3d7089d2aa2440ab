"""Equal lake, equal command: equal bytes of scores, metrics and report, whatever the threads and however the files lie."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from losslake.store.lake import Lake
from losslake.store.upkeep.compact import compact
from places import ROOT

MakeLake = Callable[..., Lake]
RUNS, SAMPLES = 17, 1_500

EVERYTHING = """
import functools, hashlib, os, sys
from pathlib import Path

import losslake.analysis.queries as queries
from losslake.analysis.evaluations.catalogue import run_all
from losslake.analysis.report.write import write_report
from losslake.analysis.scoring.catalogue import open_source
from losslake.store.files.local import LocalFiles
import pytest
from losslake.store.lake import Lake

threads, backwards, place = int(sys.argv[1]), sys.argv[2] == "backwards", Path(sys.argv[3])
queries.connect = functools.partial(queries.connect, threads=threads)
if backwards:
    walked = LocalFiles._walk
    LocalFiles._walk = lambda self, folder: list(walked(self, folder))[::-1]
lake = Lake.open(place)
with open_source(lake, "tests", "run-0000") as opened:
    for told in run_all(opened, (0.01, 0.1)):
        print(told.title, told.missing or (told.metrics, told.notes))
scores = lake.sql("select * from scores order by analysis, target, variant, sample_id")
for (analysis,), rows in scores.group_by("analysis", maintain_order=True):
    for column in rows:
        print(analysis, column.name, hashlib.sha256(repr(column.to_list()).encode()).hexdigest())
write_report(lake, "tests", place.parent / "report.html", target="run-0000")
print("report", hashlib.sha256((place.parent / "report.html").read_bytes()).hexdigest())
"""


@pytest.fixture
def base(lake_of: MakeLake, tmp_path: Path) -> Path:
    """A lake of which several threads would add up parts: with logits, features, views, ranges, traces and a population."""
    rng = np.random.default_rng(1)
    population = np.arange(SAMPLES) >= SAMPLES - 200
    keep = (rng.random((RUNS, SAMPLES)) < 0.5) & ~population
    logits = rng.normal(0, 2, (RUNS, SAMPLES, 4, 5)).astype(np.float32)
    labels = rng.integers(0, 5, SAMPLES).astype(np.int32)
    logits[:, np.arange(SAMPLES), :, labels] += 1.5 * keep.T[:, :, None] + rng.normal(0, 1, (SAMPLES, 1, 1))
    level = rng.gamma(1, 1, (SAMPLES, 1))
    lake = lake_of(
        keep,
        logits=logits,
        labels=labels,
        features=rng.normal(0, 1, (RUNS, SAMPLES, 12)).astype(np.float16),
        population=population,
        columns={"group": rng.choice(["a", "b", "c"], SAMPLES).tolist()},
        traces={"loss": level * rng.gamma(2, 1, (SAMPLES, 12)), "margin": rng.normal(0, 1, (SAMPLES, 12))},
        recorded=[("original", "flip", "crop:2:4")] * RUNS,
        roles=["target", "target", *["shadow"] * (RUNS - 2)],
        parents=[None, "run-0000", *[None] * (RUNS - 2)],
    )
    return Path(lake.files.root)


def test_everything_has_the_same_bytes(base: Path, tmp_path: Path) -> None:
    compacted = tmp_path / "compacted"
    shutil.copytree(base, compacted)
    compact(Lake.open(compacted), "tests")
    said = [
        everything(lake, tmp_path, threads, order)
        for lake, threads, order in (
            (base, 1, "forwards"),
            (compacted, 8, "backwards"),
        )
    ]
    assert len(said[0]) > 150
    assert any(line.startswith("report") for line in said[0])
    for other in said[1:]:
        apart = [(one, two) for one, two in zip(said[0], other, strict=True) if one != two]
        assert apart == []


def everything(lake: Path, folder: Path, threads: int, order: str) -> list[str]:
    """What a process of its own says of a copy of the lake, which always lies at the same place."""
    place = folder / "at" / "lake"
    shutil.rmtree(place.parent, ignore_errors=True)
    shutil.copytree(lake, place)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")
    environment = {
        **os.environ,
        **dict.fromkeys(names, str(threads)),
        "PYTHONPATH": str(ROOT.parent),
        "SOURCE_DATE_EPOCH": "1800000000",
    }
    command = [sys.executable, "-P", "-c", EVERYTHING, str(threads), order, str(place)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
