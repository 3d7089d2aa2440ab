"""The pool of worker processes: what a worker that dies leaves undone fails, and the rest is done by another."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from losslake.collect.fleet import pool as worker_pool
from losslake.collect.fleet.pool import run_in_workers
from losslake.store.errors import TrainingFailed

# Does the runs of a task one after another, and dies at the number it is told to.
WORKER = """
import json, os, sys

def tell(event, **facts):
    print(json.dumps({"event": event, **facts}), flush=True)

setup = json.loads(sys.stdin.readline())
if setup["never_ready"]:
    sys.exit(3)
tell("ready")
for line in sys.stdin:
    for number in json.loads(line)["numbers"]:
        if number == setup["dies_at"]:
            os._exit(5)
        tell("done", number=number)
"""


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "made_up_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(worker_pool, "_COMMAND", [sys.executable, "-P", "-m", "made_up_worker"])

    def run(tasks: list[list[int]], **setup: Any) -> dict[int, str]:
        told: list[dict[str, Any]] = []
        run_in_workers(
            {"dies_at": None, "never_ready": False, **setup},
            [{"numbers": numbers} for numbers in tasks],
            jobs=2,
            on_event=told.append,  # type: ignore[arg-type]
        )
        assert len({event["number"] for event in told}) == len(told)
        return {event["number"]: event.get("message", event["event"]) for event in told}

    return run


@pytest.mark.parametrize("tasks", [[[0], [1], [2], [3], [4]], [[0, 1, 2], [3, 4]], [[0, 1, 2, 3, 4]]])
def test_every_run_is_told_of_once(pool: Any, tasks: list[list[int]]) -> None:
    assert pool(tasks) == dict.fromkeys(range(5), "done")


def test_what_a_dead_worker_left_fails_and_nothing_else(pool: Any) -> None:
    said = pool([[0, 1, 2, 3], [4, 5], [6, 7], [8]], dies_at=1)
    dead = "its process ended with exit code 5"
    assert said == {**dict.fromkeys((0, 4, 5, 6, 7, 8), "done"), **dict.fromkeys((1, 2, 3), dead)}


def test_workers_that_cannot_start(pool: Any) -> None:
    with pytest.raises(TrainingFailed, match=r"ended before it could start \(exit code 3\)"):
        pool([[0], [1]], never_ready=True)
