"""Many processes at one lake for a while: collectors, analyses, compaction and garbage collection, and crashes.

Every run that a collector was told is in the lake must be there, once, with that collector's rows; of several that write
one run all but one must be told that it exists; readers must see whole runs and never fail.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from durability_lake import Broken, collect, rows_for_polars
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.store.errors import AlreadyExists, LosslakeError, NotEnoughData
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.verify import verify
from zygote import Child, Zygote

EXPERIMENT = "crowd"
EPOCHS = 5
TRAINING = [
    *["--model", "mlp", "--widths", "16", "--epochs", "2", "--batch-size", "64"],
    "--queries",
    "original",
]
SHARED_SECONDS = 2.0
"""How long every collector tries the same run name, before the next one."""

# One row a run: rows of signals and traces, and the writer's mark in them, which must be one and the same.
RUNS_SEEN = """
with signal_rows as (
  select run, count(*) as signal_count, min(loss) as least, max(loss) as most from signals group by run
), trace_rows as (
  select run, count(*) as trace_count, min(len(loss)) as shortest from traces where source = 'eval' group by run
)
select runs.run, seed, signal_count, least, most, trace_count, shortest
from runs left join signal_rows on signal_rows.run = runs.run left join trace_rows on trace_rows.run = runs.run
order by runs.run
"""

# Two processes that train one model with the hook; the first of them writes the run.
RANK = """
import sys
import numpy as np, torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from losslake.collect.hook.start import start_run
from losslake.store.lake import Lake

path, run, meeting, rank = sys.argv[1:4] + [int(sys.argv[4])]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
lake = Lake.open(path)
y = torch.from_numpy(lake.samples("crowd")["label"].to_numpy().astype(np.int64))
n, x = len(y), torch.randn(len(y), 5)
model = DistributedDataParallel(nn.Linear(5, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
sampler = DistributedSampler(range(n // 2))
with start_run(lake, "crowd", members=np.arange(n // 2), role="shadow", run=run) as recorded:
    loader = recorded.watch_loader(
        DataLoader(TensorDataset(x[: n // 2], y[: n // 2], torch.arange(n // 2)), batch_size=64, sampler=sampler)
    )
    criterion = recorded.watch_criterion(nn.CrossEntropyLoss())
    recorded.trace_eval(model, (x, y))
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for a, b, _ in loader:
            optimizer.zero_grad()
            criterion(model(a), b).backward()
            optimizer.step()
        recorded.trace_eval(model, (x, y))
    recorded.evaluate(model, (x, y))
distributed.destroy_process_group()
"""


def rank(path: str, run: str, meeting: str, number: int) -> None:
    """One of two processes that train a model together, with libraries of its own: gloo does not survive a fork."""
    os.execv(sys.executable, [sys.executable, "-c", RANK, path, run, meeting, str(number)])


def _write(lake: Lake, run: str, writer: int) -> None:
    """Write a run whose every loss is its writer's number."""
    samples = lake.experiment(EXPERIMENT).samples
    ids = np.arange(samples)
    marks = np.full(samples, float(writer))
    members = np.random.default_rng(writer).random(samples) < 0.5
    with lake.write_run(EXPERIMENT, run, members=members) as rows:
        for epoch in range(EPOCHS):
            rows.append_epoch("eval", epoch, ids, loss=marks)
        for query in (0, 1):
            rows.append_signals(ids, np.full(samples, query), None, loss=marks, phi=marks)
        rows.commit(RunInfo(role="shadow", seed=writer))


def collect_on(path: str, writer: int, began: float, end: float) -> None:
    """Write runs of one's own, and runs that all the others try to write as well, until the moment ``end``.

    Prints what became of each as a line of JSON. Started again after a crash it leaves out what is in the lake.
    """
    lake, number = Lake.open(path), 0
    tried = set()
    while time.time() < end:
        own, shared = f"c{writer}-{number}", f"shared-{int((time.time() - began) / SHARED_SECONDS)}"
        if not lake.has_run(EXPERIMENT, own):
            _write(lake, own, writer)
            _tell(own, "won", writer)
        number += 1
        if shared not in tried:
            tried.add(shared)
            try:
                _write(lake, shared, writer)
                _tell(shared, "won", writer)
            except AlreadyExists:
                _tell(shared, "told")


def train_on(path: str, writer: int, end: float) -> None:
    """Train models by the command line, one run after another."""
    from losslake.cli import cli

    number = 0
    while time.time() < end:
        run = f"trained-{writer}-{number}"
        where = ["--lake", path, "--experiment", EXPERIMENT, "--run", run]
        if not Lake.open(path).has_run(EXPERIMENT, run):
            cli.main(["collect", "target", *where, *TRAINING], standalone_mode=False)
            _tell(run, "won")
        number += 1


def analyse_on(path: str, number: int, target: str, end: float) -> None:
    """Read in all ways, and keep what analyses find; raises Broken where a run shows in part."""
    seen: set[str] = set()
    count = 0
    while time.time() < end:
        lake = Lake.open(path)
        shown = lake.sql(RUNS_SEEN, experiment=EXPERIMENT)
        _check_whole(lake, shown)
        if gone := seen - set(shown["run"]):
            raise Broken(f"{gone} were there and are not any more")
        seen = set(shown["run"])
        with open_source(lake, EXPERIMENT, target) as source:
            for name in ("loss", "privacy-score") if number % 2 else ("lira", "calibrated"):
                with contextlib.suppress(NotEnoughData):  # no shadow model is committed yet
                    run_analysis(source, find(name))
        if gone := {("signals", EXPERIMENT, run) for run in seen} - rows_for_polars(lake).keys():
            raise Broken(f"Polars does not see {gone}")
        found = lake.sql("select analysis, count(*) as n from scores group by analysis")
        if wrong := [row for row in found.rows() if row[1] != lake.experiment(EXPERIMENT).samples]:
            raise Broken(f"scores of {wrong}")
        count += 1
    print(json.dumps({"reads": count}))


def keep_on(path: str, end: float) -> None:
    """Compact and collect garbage all the time. Another one that compacts at the same moment keeps this one out."""
    counts: Counter[str] = Counter()
    while time.time() < end:
        lake = Lake.open(path)
        try:
            done = compact(lake, EXPERIMENT, least=8)
            counts["compacted"] += done.files_before
            if done.left_out:
                raise Broken(f"compaction met {done.left_out}")
        except LosslakeError as error:
            if "another process" not in str(error):
                raise
            counts["kept out"] += 1
        counts["removed"] += len(collect(lake).removed)
        if damage := verify(lake).damage:
            raise Broken(f"damage: {damage}")
    print(json.dumps(counts))


def _tell(run: str, what: str, writer: int | None = None) -> None:
    print(json.dumps({"run": run, what: True, "writer": writer}), flush=True)


def _check_whole(lake: Lake, shown: pl.DataFrame) -> None:
    """Raises Broken where a run that a collector wrote is not whole, or has the rows of two."""
    samples = lake.experiment(EXPERIMENT).samples
    if shown["run"].n_unique() != len(shown):
        raise Broken("a run is there twice")
    for run, seed, signals, least, most, traces, length in shown.rows():
        marked = run.startswith(("c", "shared"))
        if (signals, traces) != ((2 if marked else 1) * samples, samples) or length != (
            EPOCHS if marked else 3
        ):
            raise Broken(f"{run} has {signals} signals and {traces} traces of {length}")
        if marked and not least == most == seed:
            raise Broken(f"{run} of writer {seed} has rows of the writers {least} and {most}")


@dataclass(frozen=True)
class Crowd:
    """How it went: collectors killed on purpose, runs in the lake, tries of a run that another was faster with, readings,
    files that were compacted and removed meanwhile, and how often a compaction was kept out by another one."""

    crashes: int
    runs: int
    trained: int
    told: int
    readings: int
    files_compacted: int
    files_removed: int
    compactions_kept_out: int


def crowd(
    zygote: Zygote,
    folder: Path,
    *,
    seconds: float,
    seed: int,
    collectors: int = 16,
    analysts: int = 4,
    keepers: int = 2,
    samples: int = 5000,
    ranks: bool = True,
) -> Crowd:
    """Let them at one lake for so long, and look whether all is there. An eighth of the collectors, or one, train models.

    Now and then one of the collectors is killed and started again. Raises Broken.
    """
    folder.mkdir()
    chance = random.Random(seed)
    lake, logs = _begin(zygote, folder, samples, seed), itertools.count()
    began = time.time()
    end = began + seconds

    def start(name: str, *arguments: Any) -> Child:
        log = folder / f"log-{next(logs):03d}"
        return zygote.start(f"durability_crowd:{name}", [lake.path, *arguments], log)

    def collector(number: int) -> Child:
        if number < max(1, collectors // 8):
            return start("train_on", number, end)
        return start("collect_on", number, began, end)

    at_work = {number: collector(number) for number in range(collectors)}
    others = [start("analyse_on", number, "trained-first", end) for number in range(analysts)]
    others += [start("keep_on", end) for _ in range(keepers)]
    if ranks:
        others += [start("rank", "trained-ranks", str(folder / "meeting"), number) for number in (0, 1)]
    ended, crashes = [], 0
    while time.time() < end:
        time.sleep(min(chance.uniform(0.3, 1.5), max(0.0, end - time.time())))
        if failed := [child for child in (*others, *at_work.values()) if child.poll()]:
            raise Broken(f"a process has failed with {failed[0].code}: {failed[0].text()}")
        if time.time() < end - 1:
            number = chance.randrange(collectors)
            if at_work[number].poll() is None:
                at_work[number].kill()
                at_work[number].wait()
                crashes += 1
                ended.append(at_work[number])
                at_work[number] = collector(number)
    for child in (*others, *at_work.values()):
        if child.wait() != 0:
            raise Broken(f"a process has failed with {child.code}: {child.text()}")
    told = [line for child in (*ended, *at_work.values()) for line in _lines(child)]
    counts = sum((Counter(line) for child in others for line in _lines(child)), Counter())
    return Crowd(
        crashes,
        *_check_end(lake, told, ranks=ranks),
        counts["reads"],
        counts["compacted"],
        counts["removed"],
        counts["kept out"],
    )


def _begin(zygote: Zygote, folder: Path, samples: int, seed: int) -> Lake:
    """A lake with an experiment and its first run."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (samples, 5)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=np.arange(samples) % 10)
    where = ["--lake", str(folder / "lake"), "--experiment", EXPERIMENT, "--run", "trained-first"]
    begin = zygote.command(
        ["collect", "target", *where, "--dataset", str(folder / "data.npz"), *TRAINING], folder / "log"
    )
    if begin.wait() != 0:
        raise Broken(begin.text())
    return Lake.open(folder / "lake")


def _lines(child: Child) -> list[dict[str, Any]]:
    """What a process said in JSON. A killed one may have said half a line at last."""
    found = []
    for line in child.text().splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict)]


def _check_end(lake: Lake, told: list[dict[str, Any]], *, ranks: bool) -> tuple[int, int, int]:
    """Runs in the lake, trained ones, and tries that were told of another's run. Raises Broken."""
    shown = lake.sql(RUNS_SEEN, experiment=EXPERIMENT)
    _check_whole(lake, shown)
    there = set(shown["run"])
    won = Counter(line["run"] for line in told if line.get("won"))
    if twice := [run for run, count in won.items() if count > 1]:
        raise Broken(f"several writers were told that theirs is the run {twice}")
    if missing := (won.keys() | ({"trained-ranks"} if ranks else set())) - there:
        raise Broken(f"{missing} were committed and are not there")
    # Only a collector that was killed between its commit and its word may have left out to say so.
    writers = dict(zip(shown["run"], shown["seed"], strict=True))
    if wrong := [
        line for line in told if line.get("won") and line["writer"] not in (None, writers[line["run"]])
    ]:
        raise Broken(f"the run of another was taken for one's own: {wrong}")
    collect(lake, checkpoints=True)
    found = verify(lake)
    if found.damage or found.leftovers:
        raise Broken(f"left in the end: {found.damage or found.leftovers}")
    trained = sum(run.startswith("trained") for run in there)
    return len(there), trained, sum("told" in line for line in told)
