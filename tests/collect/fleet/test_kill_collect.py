"""Killing a fleet at any moment: only whole runs are visible, workers go too, and the same call completes it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from losslake.collect.experiment.prepare import prepare_experiment
from losslake.collect.fleet.target_and_shadows import collect_shadows
from losslake.collect.recipe import Recipe
from losslake.store.errors import TrainingFailed
from losslake.store.format.records import Run
from losslake.store.lake import Lake
from losslake.store.write import leases
from losslake.store.write.processes import runs
from warm import HANGS, warm_python
from zygote import children_of

COUNT = 12
RECIPE: dict[str, Any] = {
    "model": "mlp",
    "model_options": {"widths": [16]},
    "epochs": 6,
    "batch_size": 16,
    "lr": 0.05,
}
SCRIPT = (
    f"COUNT, RECIPE = {COUNT}, {RECIPE}"
    + """
import os, sys
from losslake.collect.experiment.prepare import prepare_experiment
from losslake.collect.fleet.target_and_shadows import collect_shadows
from losslake.collect.recipe import Recipe
from losslake.store.lake import Lake
from losslake.store.write import leases

class Tell:
    def start(self, total, unit): print("start", flush=True)
    def advance(self, n, note): print(note, flush=True)
    def finish(self): print("finish", flush=True)

print("process", os.getpid(), flush=True)
lake = Lake.open(sys.argv[1], create=True)
prepared = prepare_experiment(lake, "e", dataset="digits", samples=200)
collect_shadows(lake, "e", count=COUNT, recipe=Recipe(**RECIPE), prepared=prepared, jobs=2, device="cpu", traces=True, progress=Tell())
"""
)


pytestmark = pytest.mark.usefixtures("one_thread", "warm_workers")


def start(lake: Path, temporary: Path) -> subprocess.Popen[str]:
    # A script without a main guard: workers must not run it again.
    return subprocess.Popen(
        [*warm_python(), "-c", SCRIPT, str(lake)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
        cwd=temporary,
    )


def wait_for(process: subprocess.Popen[str], words: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return line
    raise AssertionError(f"never said {words!r}: {process.stderr.read() if process.stderr else ''}")


def check_visible(lake: Lake) -> list[str]:
    """Every run that can be seen is whole; their names."""
    if "e" not in lake.experiments():
        return []
    runs = lake.runs("e")
    for run in runs:
        assert run.tables() == {"signals", "traces"}
        for file in run.files:
            assert lake.files.size(file.path) == file.bytes
            assert pq.read_table(lake.files.location(file.path)).num_rows == file.rows
    rows = lake.sql("select run, count(*) as n, count(loss) as whole from signals group by run order by run")
    assert rows["run"].to_list() == [run.run for run in runs]
    assert set(rows["n"]) | set(rows["whole"]) <= {400}  # 200 samples, 2 queries
    return [run.run for run in runs]


def gone(processes: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(runs(process, None) and not _zombie(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _zombie(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_killed_and_completed(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    path = tmp_path / "lake"
    seen: list[str] = []
    for sent, moment in (
        (signal.SIGKILL, "epoch 3/6"),
        (signal.SIGKILL, "is in the lake"),
        (signal.SIGTERM, "epoch 2/6"),
    ):
        process = start(path, temporary)
        itself = int(wait_for(process, "process").split()[1])
        wait_for(process, moment)
        workers = children_of(itself)
        assert len(workers) == 2
        os.kill(itself, sent)
        process.wait(HANGS)
        assert gone(workers, HANGS), "workers outlive their parent"
        lake = Lake.open(path)
        found = check_visible(lake)
        assert set(seen) <= set(found)
        assert len(found) < COUNT
        seen = found
        if sent == signal.SIGTERM:
            assert process.returncode == 128 + signal.SIGTERM
            assert list(temporary.glob("losslake-fleet-*")) == [], (
                "the next one removes what a killed one left"
            )
        # Workers have discarded what they were at. One that had just committed may have had no time to tidy up, and one that had just
        # said that it begins none to take that back.
        at_work = [
            file
            for file in lake.files.list("staging")
            if file.split("run=")[1].split("/")[0] not in found and not file.endswith("/begun.json")
        ]
        assert at_work == []

    before = {run.run: run.created for run in lake.runs("e")}
    collect_shadows(lake, "e", count=COUNT, recipe=Recipe(**RECIPE), jobs=1, device="cpu", traces=True)
    assert check_visible(lake) == [f"shadow-{number:04d}" for number in range(COUNT)]
    after = {run.run: run.created for run in lake.runs("e")}
    assert {run: after[run] for run in before} == before, "a committed run was made again"
    members = lake.sql("select run, member from signals where query = 0 order by run, sample_id")[
        "member"
    ].to_numpy()
    assert set(members.reshape(COUNT, 200).sum(0)) == {COUNT // 2}, "balanced, as laid down by the first try"


DYING = """
import os, signal
from pathlib import Path
from losslake.collect.models.build import build_model

def build(input_shape, classes, marker):
    try:
        Path(marker).unlink()
    except FileNotFoundError:
        return build_model("mlp", input_shape=input_shape, classes=classes, options={"widths": (16,)})
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_that_dies_fails_its_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    monkeypatch.syspath_prepend(tmp_path)
    marker = tmp_path / "marker"
    marker.touch()
    lake = Lake.open(tmp_path / "lake", create=True)
    prepared = prepare_experiment(lake, "e", dataset="digits", samples=200)
    recipe = Recipe(
        model="dying:build", model_options={"marker": str(marker)}, epochs=2, batch_size=16, lr=0.05
    )

    def collect(jobs: int) -> list[Run]:
        return collect_shadows(
            lake, "e", count=4, recipe=recipe, prepared=prepared, jobs=jobs, device="cpu", traces=True
        )

    with pytest.raises(
        TrainingFailed, match=r"1 of 4 runs failed; the others are in the lake: shadow-000\d: .*out of memory"
    ):
        collect(jobs=2)
    assert len(check_visible(lake)) == 3
    # Those that ended by themselves take their leases along: only the one that was killed may be told of as such.
    assert list(leases.states(lake.files).values()).count("killed") <= 1
    assert len(collect(jobs=1)) == 4
    assert len(check_visible(lake)) == 4
