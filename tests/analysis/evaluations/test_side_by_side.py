"""All analyses in several processes: the same results and the same text as in one, and one clear error where a process fails or ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from losslake.analysis.evaluations import side_by_side
from losslake.analysis.evaluations.catalogue import EVALUATIONS, Told, run_all
from losslake.analysis.scoring.catalogue import ANALYSES, open_source
from losslake.analysis.scoring.stored import fresh_results
from losslake.cli import _run
from losslake.store.errors import CorruptLake
from losslake.store.lake import Lake
from losslake.store.write.leases import states
from places import ROOT
from warm import HANGS

MakeLake = Callable[..., Lake]
FPRS = (0.01, 0.1)


def small(lake_of: MakeLake, **more: Any) -> Lake:
    """A target, seven shadow runs, logits and a trace; no features, views, ranges or texts."""
    rng = np.random.default_rng(2)
    keep = rng.random((8, 120)) < 0.5
    return lake_of(
        keep,
        logits=rng.normal(0, 2, (8, 120, 3)).astype(np.float16),
        traces={"loss": rng.random((120, 6))},
        **more,
    )


def results(lake: Path) -> dict[str, dict[str, Any]]:
    """Every kept result by its place, less when it was made and what its file is called; with the bytes of the scores as a sum."""
    found = {}
    for manifest in sorted((lake / "results").rglob("*.json")):
        content = json.loads(manifest.read_text())
        files = [file["sha256"] for file in content.pop("files", ())]
        own = {key: value for key, value in content.items() if key not in ("created", "checksum")}
        found[str(manifest.relative_to(lake))] = {**own, "scores": files}
    return found


def test_several_processes_keep_and_tell_the_same(
    everything: Lake, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "lake"
    said = []
    for jobs in (1, 3):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(everything.path, place)
        shutil.rmtree(place / "results", ignore_errors=True)
        code = _run(
            ["analyze", "all", "--lake", str(place), "--experiment", "tests", "--jobs", str(jobs)], False
        )
        said.append((code, *capfd.readouterr(), results(place)))
        # Processes that are done take their leases along; what is left is of this one.
        assert set(states(Lake.open(place).files).values()) <= {"at work"}
    assert said[0][0] == 0
    assert len(said[0][1].splitlines()) > 30
    assert "left out" in said[0][2]
    assert len(said[0][3]) > 30
    for other in said[1:]:
        for one, two in zip(said[0], other, strict=True):
            assert one == two


def test_one_that_fails_ends_the_command_after_what_comes_before_it(
    lake_of: MakeLake, capfd: pytest.CaptureFixture[str]
) -> None:
    lake = small(lake_of)
    file = next(file for file in lake.run("tests", "run-0003").files if file.table == "signals")
    path = Path(lake.path, file.path)
    data, written = bytearray(path.read_bytes()), path.stat().st_mtime_ns
    data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)  # the columns, and not the footer
    path.write_bytes(data)
    os.utime(path, ns=(written, written))  # else it is noticed when the lake is opened
    said = []
    for jobs in (1, 2):  # of two processes both meet it, in analyses that come later as well
        code = _run(["analyze", "all", "--lake", str(lake.path), "--jobs", str(jobs)], False)
        said.append((code, *capfd.readouterr()))
    assert said[0] == said[1]
    code, out, err = said[0]
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()] == ["lt-iqr", "free", "trace"]
    (failed,) = (line for line in err.splitlines() if line.startswith("losslake: "))
    assert file.path in failed
    assert failed.endswith("run 'losslake lake verify'")  # in one line, whatever the engine says
    assert "Traceback" not in err


ORDER = [analysis.name for analysis in ANALYSES]
ORDER += ["compare", *(each.name for each in EVALUATIONS if each.default_scores)]


def test_one_that_is_killed_is_named_and_runs_committed_since_are_not_looked_at(
    lake_of: MakeLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, send = small(lake_of), side_by_side.send
    killed = []

    def sent(process: Any, content: dict[str, Any]) -> None:
        if content.get("name") == "kde":
            process.kill()
            killed.append(process.pid)
        send(process, content)

    with open_source(lake, "tests") as source:
        lake_of(np.ones((1, 120), bool), np.zeros((1, 120)), lake=lake, names=["late"], roles=["shadow"])
        monkeypatch.setattr(side_by_side, "send", sent)
        told: list[Told] = []
        with pytest.raises(side_by_side.WorkerDied, match=r"computed kde was killed \(signal 9\)"):
            told.extend(until_it_fails(side_by_side.run_side_by_side(source, FPRS, 2), told))
        assert len(killed) == 1
        fresh = {name for name, _ in fresh_results(source)}
        alone = run_all(source, FPRS)
        before = [next(alone) for _ in range(ORDER.index("kde"))]
    assert told == before
    assert {"lira", "lt-iqr", "loss", "trajectory"} <= fresh
    assert "kde" not in fresh


def until_it_fails(parts: Iterator[Told], told: list[Told]) -> list[Told]:
    for each in parts:
        told.append(each)
    return []


def test_ctrl_c_ends_every_process(lake_of: MakeLake) -> None:
    lake = small(lake_of)
    command = [sys.executable, "-P", "-m", "losslake.cli", "analyze", "all", "--jobs", "2", "--lake"]
    process = subprocess.Popen(
        [*command, str(lake.path)],
        env={**os.environ, "PYTHONPATH": str(ROOT.parent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = wait_for(lambda: children(process.pid)[1:] and children(process.pid))
    wait_for(lambda: list(Path(lake.path, "results").rglob("*.json")))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=HANGS)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "losslake: stopped"
    assert "Traceback" not in err
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert 0 < len(results(Path(lake.path))) < len(ORDER)


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(look: Callable[[], Any]) -> Any:
    until = time.monotonic() + HANGS
    while not (found := look()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found


def test_errors_keep_their_names_and_say_where() -> None:
    error = side_by_side._error("CorruptLake", "x.parquet is damaged", "Traceback ... line 3")
    assert isinstance(error, CorruptLake)
    assert str(error) == "x.parquet is damaged"
    assert "line 3" in error.__notes__[0]
    assert isinstance(side_by_side._error("ValueError", "no", ""), ValueError)
    unknown = side_by_side._error("ComputeError", "overflow", "")
    assert (type(unknown).__name__, str(unknown)) == ("ComputeError", "overflow")
    assert str(side_by_side._error("UnicodeDecodeError", "bad byte", "")) == "bad byte"


def test_what_is_named_is_there() -> None:
    names = [*side_by_side.LONG, *side_by_side.AFTER, *side_by_side.AFTER.values()]
    assert set(names) <= set(ORDER)
    assert len(set(ORDER)) == len(ORDER)  # parts go by their names


def test_small_lakes_and_small_machines_are_left_to_one_process(
    lake_of: MakeLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "_cores", lambda: 16)
    with open_source(small(lake_of), "tests") as source:
        assert side_by_side.jobs_for(source) == 1
        monkeypatch.setattr(side_by_side, "WORTH_ROWS", 1000)
        assert side_by_side.jobs_for(source) == side_by_side.MOST_JOBS
        monkeypatch.setattr(side_by_side, "_memory", lambda: 2 << 30)
        assert side_by_side.jobs_for(source) == 2
        monkeypatch.setattr(side_by_side, "_memory", lambda: 0)
        assert side_by_side.jobs_for(source) == 1
