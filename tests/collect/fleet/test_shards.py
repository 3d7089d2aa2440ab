"""Fleets in parts: the parts together are the whole fleet, bit for bit, whenever and wherever each is trained."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from losslake.cli import _run
from losslake.collect.experiment.prepare import Prepared, prepare_experiment
from losslake.collect.fleet.design import Shard, parse_shard
from losslake.collect.fleet.distilled import collect_distilled
from losslake.collect.fleet.leave_one_out import collect_leave_one_out
from losslake.collect.fleet.references import collect_references
from losslake.collect.fleet.setup import members_of
from losslake.collect.fleet.target_and_shadows import collect_shadows
from losslake.collect.recipe import Recipe
from losslake.store.errors import InvalidOption
from losslake.store.lake import Lake
from trainer_data import lake_with_target
from warm import HANGS

RECIPE = Recipe(model="mlp", model_options={"widths": (8,)}, epochs=2, batch_size=32, lr=0.05)
HERE: dict[str, Any] = {"device": "cpu", "jobs": 1}
COLLECTORS: dict[str, Any] = {
    "shadow": lambda lake, **options: collect_shadows(lake, "e", count=5, **options),
    "reference": lambda lake, **options: collect_references(lake, "e", count=5, **options),
    "distilled": lambda lake, **options: collect_distilled(lake, "e", count=5, **options),
    "leave_one_out": lambda lake, **options: collect_leave_one_out(
        lake, "e", samples=_audit(lake)[:2], repeats=2, **options
    ),
}

pytestmark = pytest.mark.usefixtures("one_thread")


def _audit(lake: Lake) -> list[int]:
    return [int(n) for n in np.flatnonzero(np.array(lake.samples("e")["pool"].to_pylist()) == "audit")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "lake"
    lake_with_target(path, 60, RECIPE)
    return path


@pytest.fixture(scope="module")
def prepared(made: Path) -> Prepared:
    return prepare_experiment(Lake.open(made), "e")


def copied(made: Path, where: Path) -> Lake:
    return Lake.open(shutil.copytree(made, where))


def facts(lake: Lake, role: str) -> tuple[list[Any], pl.DataFrame]:
    """What the lake holds of a fleet, but for times."""
    runs = lake.runs("e", role=role)
    told = [(run.run, run.info.seed, run.info.extra, members_of(lake, run).tolist()) for run in runs]
    query = "select s.* from signals s join runs r using (experiment, run) where r.role = $role order by all"
    return told, lake.sql(query, {"role": role})


def test_shards_part_the_runs() -> None:
    for runs in range(12):
        for count in range(1, 6):
            parts = [list(Shard(number, count).of(runs)) for number in range(1, count + 1)]
            assert sorted(chain(*parts)) == list(range(runs))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
            assert all(number % count == part for part, numbers in enumerate(parts) for number in numbers)
    assert parse_shard(" 3/16 ") == Shard(3, 16)
    assert str(Shard(3, 16)) == "3/16"


@pytest.mark.parametrize(
    "text", ["0/4", "5/4", "1/0", "0/0", "3", "a/b", "-1/2", "1/2/3", "1.0/2", "", "/", "١/٢", "1/9999999999"]
)
def test_shards_that_are_none(made: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidOption, match=r"shard is .*; it must be I/N with I from 1 to N"):
        parse_shard(text)
    lake = ["--lake", str(made), "--experiment", "unheard-of"]  # is refused before any data is looked for
    assert _run(["collect", "shadows", *lake, "--count", "1", "--shard", text], debug=False) == 2
    assert "it must be I/N with I from 1 to N" in capsys.readouterr().err


@pytest.mark.parametrize("role", COLLECTORS)
def test_the_shards_together_are_the_fleet(made: Path, prepared: Prepared, tmp_path: Path, role: str) -> None:
    whole, parts = copied(made, tmp_path / "whole"), copied(made, tmp_path / "parts")
    collect = COLLECTORS[role]
    names = [run.run for run in collect(whole, prepared=replace(prepared, lake=whole), **HERE)]
    for number in (3, 1, 2, 1):
        some = collect(parts, prepared=replace(prepared, lake=parts), shard=Shard(number, 3), **HERE)
        assert [run.run for run in some] == names[number - 1 :: 3]
        assert {run.run for run in some} <= {run.run for run in parts.runs("e", role=role)}
    told, rows = facts(parts, role)
    expected, expected_rows = facts(whole, role)
    assert told == expected
    assert rows.equals(expected_rows)
    # Whoever asks for all of them has no more to train.
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert [run.run for run in collect(parts, prepared=replace(prepared, lake=parts), **HERE)] == names
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_shard_of_a_larger_fleet_keeps_its_runs(made: Path, prepared: Prepared, tmp_path: Path) -> None:
    lake = copied(made, tmp_path / "lake")
    here = {**HERE, "prepared": replace(prepared, lake=lake), "shard": Shard(2, 2)}
    first = collect_shadows(lake, "e", count=3, **here)
    more = collect_shadows(lake, "e", count=6, **here)
    assert [run.run for run in first] == ["shadow-0001"]
    assert [run.run for run in more] == ["shadow-0001", "shadow-0003", "shadow-0005"]
    assert more[0].created == first[0].created
    assert collect_references(lake, "e", count=1, **here) == []


def test_what_the_commands_say_of_a_shard(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = copied(made, tmp_path / "lake")
    where = ["--lake", lake.path, "--experiment", "e", "--jobs", "1", "--device", "cpu"]
    said = []
    for shard in ("1/2", "2/2"):
        assert _run(["collect", "references", *where, "--count", "1", "--shard", shard], debug=False) == 0
        said.append(capsys.readouterr().out.partition(" in ")[0])
    assert said == [
        "1 reference runs of shard 1/2, 1 of all shards",
        "0 reference runs of shard 2/2, 1 of all shards",
    ]
    chosen = ["--sample", str(_audit(lake)[0]), "--repeats", "2", "--shard", "1/2"]
    assert _run(["collect", "leave-one-out", *where, *chosen], debug=False) == 0
    assert capsys.readouterr().out.startswith("1 leave-one-out runs of shard 1/2, 1 of all shards in ")


SCRIPT = """
import sys
import torch
from losslake.cli import _run
import losslake.collect.fleet.target_and_shadows
print("ready", flush=True)
sys.stdin.readline()
sys.exit(_run(sys.argv[1:], debug=False))
"""


def test_shards_that_start_at_the_same_instant(made: Path, prepared: Prepared, tmp_path: Path) -> None:
    whole, parts = copied(made, tmp_path / "whole"), copied(made, tmp_path / "parts")
    collect_shadows(whole, "e", count=4, prepared=replace(prepared, lake=whole), **HERE)
    flags = ["--lake", parts.path, "--experiment", "e", "--jobs", "1", "--device", "cpu", "--count", "4"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, "collect", "shadows", *flags, "--shard", shard],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for shard in ("1/2", "2/2")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process, shard in zip(processes, ("1/2", "2/2"), strict=True):
        said, _ = process.communicate(timeout=HANGS)
        assert process.returncode == 0
        assert said.startswith(f"2 shadow runs of shard {shard}, ")
    assert len(parts.designs("e", "shadow")) == 1
    told, rows = facts(parts, "shadow")
    expected, expected_rows = facts(whole, "shadow")
    assert told == expected
    assert rows.equals(expected_rows)
