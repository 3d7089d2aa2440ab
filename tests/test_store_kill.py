"""A writer killed at any instant: readers never notice, and the same command completes afterwards."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from losslake.store.gc import collect_garbage
from losslake.store.lake import Lake
from losslake.store.verify import verify

KILLS = 12
ENDLESS = 1_000_000
"""Runs asked of a writer that is to be killed: more than any machine writes in time."""

N = 3000

# Writes run-0000, run-0001, ... and leaves out what is committed, as `collect shadows` does.
WRITER = """
import sys
import numpy as np
from losslake.store.lake import Lake
from losslake.store.records import RunInfo

lake = Lake.open(sys.argv[1])
runs, samples = int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
for number in range(runs):
    name = f"run-{number:04d}"
    if lake.has_run("e", name):
        continue
    ids = np.arange(samples)
    with lake.write_run("e", name, members=ids % 2 == 0) as writer:
        for epoch in range(4):
            writer.append_epoch("eval", epoch, ids[::-1], loss=np.full(samples, number + epoch / 8))
        for query in (0, 1):
            rows = np.full(samples, float(number))
            writer.append_signals(ids, np.full(samples, query), None, loss=rows, phi=rows)
        writer.commit(RunInfo(role="shadow", seed=number))
"""

# Every run that shows is whole: all of its rows, and each with the value that belongs to the run.
WHOLE = """
with signal_rows as (
  select run, count(*) as rows, min(phi) as low, max(phi) as high from signals group by run
), trace_rows as (
  select run, count(*) as rows, min(loss) as low, max(loss) as high from traces group by run
)
select runs.run, seed, s.rows, s.low, s.high, t.rows, t.low, t.high
from runs left join signal_rows s using (run) left join trace_rows t using (run)
"""


def start(lake: Lake, runs: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, lake.path, str(runs), str(N)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def read(lake: Lake) -> int:
    """Runs to be seen, each checked."""
    rows = lake.sql(WHOLE).rows()
    for run, seed, signals, low, high, traces, first, last in rows:
        trace = [seed + epoch / 8 for epoch in range(4)]
        assert (signals, low, high, traces, first, last) == (2 * N, seed, seed, N, trace, trace), run
    return len(rows)


def test_kills_lose_nothing_and_show_nothing_half_done(tmp_path: Path) -> None:
    chance = random.Random(1)
    lake = Lake.open(tmp_path / "lake", create=True)
    lake.create_experiment("e", pa.table({"label": np.zeros(N, np.int32)}))
    seen = reads = 0
    for _ in range(KILLS):
        process = start(lake, ENDLESS)
        end = time.monotonic() + chance.uniform(0.0, 0.25)
        while time.monotonic() < end:
            now = read(lake)
            assert now >= seen
            seen, reads = now, reads + 1
        assert process.poll() is None
        process.kill()
        assert process.communicate()[1] == ""
        now = read(lake)
        assert now >= seen
        seen = now
        assert verify(lake).damage == ()
    assert reads >= KILLS
    left = verify(lake).leftovers
    wanted = seen + 5
    process = start(lake, wanted)
    while process.poll() is None:
        seen, before = read(lake), seen
        assert seen >= before
    assert process.communicate()[1] == ""
    assert process.returncode == 0
    assert read(lake) == wanted
    result = verify(lake)
    assert result.damage == ()
    assert set(result.leftovers) == set(left)  # nothing more than what the killed ones left
    assert set(result.writers.values()) <= {"killed"}
    collect_garbage(lake, older_than=timedelta())
    assert verify(lake).leftovers == ()
    assert read(lake) == wanted
