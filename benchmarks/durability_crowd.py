"""Many processes at one lake for a while: collectors, analyses, compaction and garbage collection, and crashes.

Every run that a collector was told is in the lake must be there, once, with that collector's rows; of several that write
one run all but one must be told that it exists; readers must see whole runs and never fail.

With two machines (`durability_machines`) their clocks are an hour apart, records are forgotten, all kinds of processes are
killed, and some are stopped for longer than a lease is waited for, as on a machine that sleeps: what they had written may be
collected then, and whoever commits it must be told that it is not there.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from durability_lake import Broken, collect, rows_for_polars
from durability_machines import any_machine, be_on, longest_silence
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.store.errors import (
    AlreadyExists,
    CorruptLake,
    ForgottenMeanwhile,
    InvalidInput,
    LosslakeError,
    NotEnoughData,
)
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.upkeep import gc
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.forget import forget
from losslake.store.upkeep.verify import verify
from losslake.store.write import leases
from zygote import Child, Zygote

EXPERIMENT = "crowd"
EPOCHS = 5
TRAINING = [
    *["--model", "mlp", "--widths", "16", "--epochs", "2", "--batch-size", "64"],
    "--queries",
    "original",
]
SHORTER = 150.0
"""What is waited for by time is so many times shorter with two machines: half an hour is 12 s."""

LATE = "missing or not whole|was lost"
"""What one is told whose machine slept while others went on."""

OTHERS = "another process"

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
    members[list(lake.experiment(EXPERIMENT).forgotten)] = False
    with lake.write_run(EXPERIMENT, run, members=members) as rows:
        for epoch in range(EPOCHS):
            rows.append_epoch("eval", epoch, ids, loss=marks)
        for query in (0, 1):
            rows.append_signals(ids, np.full(samples, query), None, loss=marks, phi=marks)
        rows.commit(RunInfo(role="shadow", seed=writer))


def collect_on(path: str, writer: int, began: float, end: float, pause: float) -> None:
    """Write runs of one's own, and runs that all the others try to write as well, until the moment ``end``.

    Prints what became of each as a line of JSON. Started again after a crash it leaves out what is in the lake.
    """
    lake, number = Lake.open(path), 0
    tried = set()
    while time.monotonic() < end:
        own, shared = f"c{writer}-{number}", f"shared-{int((time.monotonic() - began) / SHARED_SECONDS)}"
        if lake.has_run(EXPERIMENT, own) or _try(lake, own, writer):
            number += 1
        if shared not in tried:
            tried.add(shared)
            _try(lake, shared, writer)
        time.sleep(pause)


def _try(lake: Lake, run: str, writer: int) -> bool:
    """Write a run and say what became of it; whether it is there."""
    try:
        _write(lake, run, writer)
    except AlreadyExists:
        _tell(run, "told")
        return True
    except InvalidInput as error:
        if "was forgotten" not in str(error):
            raise
        return False
    except CorruptLake as error:
        if not re.search(LATE, str(error)):
            raise
        _tell(run, "late", longest_silence())
        return False
    _tell(run, "won", writer)
    return True


def train_on(path: str, writer: int, end: float) -> None:
    """Train models by the command line, one run after another."""
    from losslake.cli import cli

    number = 0
    while time.monotonic() < end:
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
    while time.monotonic() < end:
        lake = Lake.open(path)
        shown = lake.sql(RUNS_SEEN, experiment=EXPERIMENT)
        _check_whole(lake, shown)
        if gone := seen - set(shown["run"]):
            raise Broken(f"{gone} were there and are not any more")
        seen = set(shown["run"])
        # No shadow model is committed yet, or what was computed is not kept.
        with (
            contextlib.suppress(NotEnoughData, ForgottenMeanwhile),
            open_source(lake, EXPERIMENT, target) as source,
        ):
            for name in ("loss", "privacy-score") if number % 2 else ("lira", "calibrated"):
                run_analysis(source, find(name))
        if unseen := {("signals", EXPERIMENT, run) for run in seen} - rows_for_polars(lake).keys():
            raise Broken(f"Polars does not see {unseen}")
        found = lake.sql("select analysis, count(*) as n from scores group by analysis")
        known = lake.experiment(EXPERIMENT)
        least = known.samples - len(known.forgotten)
        if wrong := [row for row in found.rows() if not least <= row[1] <= known.samples]:
            raise Broken(f"scores of {wrong}")
        count += 1
    print(json.dumps({"reads": count}))


def keep_on(path: str, machine: str, end: float) -> None:
    """Compact and collect garbage all the time. Another one that compacts at the same moment keeps this one out."""
    counts: Counter[str] = Counter()
    while time.monotonic() < end:
        lake = Lake.open(path)
        try:
            done = compact(lake, EXPERIMENT, least=8)
            counts["compacted"] += done.files_before
            if done.left_out:
                raise Broken(f"compaction met {done.left_out}")
        except LosslakeError as error:
            if not re.search(f"{OTHERS}|{LATE}", str(error)):
                raise
            counts["kept out"] += 1
        counts["removed"] += len(_collect(lake, machine).removed)
        if damage := verify(lake).damage:
            raise Broken(f"damage: {damage}")
    print(json.dumps(counts))


def _collect(lake: Lake, machine: str, *, checkpoints: bool = False) -> gc.Collected:
    """Collect garbage; with several machines what they may be at work on has the time that it has."""
    if not machine:
        return collect(lake, checkpoints=checkpoints)
    return gc.collect_garbage(lake, older_than=timedelta(), checkpoints=checkpoints)


def forget_on(path: str, samples: int, pause: float, end: float) -> None:
    """Forget one record after another, from the last one on, half of them at most."""
    lake, count = Lake.open(path), 0
    while time.monotonic() < end:
        gone = lake.experiment(EXPERIMENT).forgotten
        if len(gone) < samples // 2:
            try:
                forget(lake, EXPERIMENT, [min(gone, default=samples) - 1])
                count += 1
            except LosslakeError as error:
                if not re.search(f"{OTHERS}|{LATE}", str(error)):
                    raise
        time.sleep(pause)
    print(json.dumps({"forgotten": count}))


def _tell(run: str, what: str, writer: float | None = None) -> None:
    print(json.dumps({"run": run, what: True, "writer": writer}), flush=True)


def _check_whole(lake: Lake, shown: pl.DataFrame, *, ended: bool = False) -> None:
    """Raises Broken where a run that a collector wrote is not whole, or has the rows of two.

    While somebody forgets, a run may have rows of records that are to go; once that has ``ended`` it has none.
    """
    known = lake.experiment(EXPERIMENT)
    most, least_rows = known.samples, known.samples - len(known.forgotten)
    if shown["run"].n_unique() != len(shown):
        raise Broken("a run is there twice")
    for run, seed, signals, least, greatest, traces, length in shown.rows():
        marked = run.startswith(("c", "shared"))
        queries = 2 if marked else 1
        whole = all(
            least_rows * each <= rows <= (least_rows if ended else most) * each
            for rows, each in ((signals or 0, queries), (traces or 0, 1))
        )
        if not whole or length != (EPOCHS if marked else 3):
            raise Broken(f"{run} has {signals} signals and {traces} traces of {length}")
        if marked and not least == greatest == seed:
            raise Broken(f"{run} of writer {seed} has rows of the writers {least} and {greatest}")


@dataclass(frozen=True)
class Crowd:
    """How it went: processes killed on purpose and stopped for a while, runs in the lake, tries of a run that another was faster
    with, and of runs whose files had gone when their writer went on, readings, files that were compacted and removed meanwhile,
    how often a compaction was kept out by another one, and records that were forgotten."""

    crashes: int
    stopped: int
    runs: int
    trained: int
    told: int
    late: int
    readings: int
    files_compacted: int
    files_removed: int
    compactions_kept_out: int
    forgotten: int


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
    machines: int = 1,
) -> Crowd:
    """Let them at one lake for so long, and look whether all is there. An eighth of the collectors, or one, train models.

    Now and then one of the collectors is killed and started again; with two machines any process is, or is stopped for a while,
    and somebody forgets records. Raises Broken.
    """
    folder.mkdir()
    chance = random.Random(seed)
    lake, logs = _begin(zygote, folder, samples, seed), itertools.count()
    began = time.monotonic()
    end = began + seconds

    def start(name: str, *arguments: Any) -> Child:
        log = folder / f"log-{next(logs):03d}"
        call, given = f"durability_crowd:{name}", [lake.path, *arguments]
        if machines == 1:
            return zygote.start(call, given, log)
        machine = any_machine(chance)
        return zygote.start("durability_machines:act", [machine, SHORTER, call, given], log)

    def collector(number: int) -> Child:
        if number < max(1, collectors // 8):
            return start("train_on", number, end)
        # So many runs that who looks after them gets to the end of it, on a small machine too.
        return start("collect_on", number, began, end, 1.0 if machines > 1 else 0.0)

    several = "several" if machines > 1 else ""
    begin = {("collector", number): partial(collector, number) for number in range(collectors)}
    killed = [*begin] * 3  # more often than those who take longer for what they do
    begin |= {("analyst", n): partial(start, "analyse_on", n, "trained-first", end) for n in range(analysts)}
    begin |= {("keeper", n): partial(start, "keep_on", several, end) for n in range(keepers)}
    if several:
        begin["forgetter", 0] = partial(start, "forget_on", samples, 15.0, end)
        killed += [who for who in begin if who[0] != "collector"]
    if ranks:
        meeting = str(folder / "meeting")
        begin |= {("rank", n): partial(start, "rank", "trained-ranks", meeting, n) for n in (0, 1)}
    at_work = {who: make() for who, make in begin.items()}
    asleep: dict[Child, float] = {}
    ended: list[Child] = []
    crashes = stopped = 0
    try:
        while time.monotonic() < end:
            time.sleep(min(chance.uniform(0.3, 1.5), max(0.0, end - time.monotonic())))
            for child in [child for child, until in asleep.items() if time.monotonic() > until]:
                os.kill(child.pid, signal.SIGCONT)
                del asleep[child]
            _see_that_none_failed(at_work.values())
            if time.monotonic() < end - 1:
                who = chance.choice(killed)
                child = at_work[who]
                if child.poll() is not None or child in asleep:
                    continue
                if several and chance.random() < 0.25 and who[0] in ("collector", "keeper", "forgetter"):
                    if who[1] >= max(1, collectors // 8) or who[0] != "collector":
                        os.kill(child.pid, signal.SIGSTOP)
                        asleep[child] = time.monotonic() + chance.uniform(0, 4200 / SHORTER)
                        stopped += 1
                    continue
                child.kill()
                child.wait()
                crashes += 1
                ended.append(child)
                at_work[who] = begin[who]()
    finally:
        for child in asleep:
            os.kill(child.pid, signal.SIGCONT)
    for child in at_work.values():
        child.wait()
    _see_that_none_failed(at_work.values())
    lines = [line for child in (*ended, *at_work.values()) for line in _lines(child)]
    counts = sum((Counter(line) for line in lines if "run" not in line), Counter())
    silent = leases.SILENT.total_seconds() / SHORTER
    if wrong := [line for line in lines if line.get("late") and line["writer"] < silent - 1]:
        raise Broken(f"files of writers were removed that had renewed their leases: {wrong}")
    if several:
        be_on("north", SHORTER)
        time.sleep(leases.STALE.total_seconds() + 1)  # no claim or lease of a killed one counts any more
        if lake.experiment(EXPERIMENT).forgettings:
            forget(lake, EXPERIMENT)
    return Crowd(
        crashes,
        stopped,
        *_check_end(lake, lines, several, ranks=ranks),
        counts["reads"],
        counts["compacted"],
        counts["removed"],
        counts["kept out"],
        len(lake.experiment(EXPERIMENT).forgotten),
    )


def _see_that_none_failed(children: Iterable[Child]) -> None:
    for child in children:
        if child.poll():
            raise Broken(f"a process has failed with {child.code}: {child.text()}")


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


def _check_end(
    lake: Lake, told: list[dict[str, Any]], machine: str, *, ranks: bool
) -> tuple[int, int, int, int]:
    """Runs in the lake, trained ones, and tries that were told of another's run, or were too late. Raises Broken."""
    shown = lake.sql(RUNS_SEEN, experiment=EXPERIMENT)
    _check_whole(lake, shown, ended=True)
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
    _collect(lake, machine, checkpoints=True)
    found = verify(lake)
    if found.damage or found.leftovers or found.remembered:
        raise Broken(f"left in the end: {found.damage or found.leftovers or found.remembered}")
    trained = sum(run.startswith("trained") for run in there)
    tries = [sum(what in line for line in told) for what in ("told", "late")]
    return len(there), trained, tries[0], tries[1]
