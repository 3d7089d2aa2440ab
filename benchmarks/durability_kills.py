"""Killing whatever writes into a lake, at random instants, while others read and write: nothing may be lost by it.

A season is one lake. Commands are killed in it, again and again, until one is let through. After each kill the lake must
keep the promise (see `durability_lake`), verify must find no damage, and what the killed one left must be listed as that
of a killed writer, and be what garbage collection removes, beside a writer that is at work all the time.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from durability_lake import DIGESTS, MADE, Broken, Promise, collect, digests, make_experiment, read_digests
from losslake.store.files import tokens
from losslake.store.format import manifest, paths
from losslake.store.lake import Lake
from losslake.store.upkeep.leftovers import MANIFESTS
from losslake.store.upkeep.verify import verify
from zygote import Child, Zygote, children_of

BEFORE = 12
"""Runs of the lake of format 1 that a season begins with."""

_TRAINING = [
    "--model",
    "mlp",
    "--widths",
    "16",
    "--batch-size",
    "16",
    "--lr",
    "0.05",
    "--queries",
    "original",
]
_FORGET = ["lake", "forget", "--sample", "3", "--sample", "8"]
_DATA = ["--dataset", "digits", "--samples", "200", "--no-pictures"]


@dataclass(frozen=True)
class Step:
    """Something to kill. ``arguments(season)`` is the command, or what ``function`` is called with."""

    name: str
    arguments: Callable[[Season], list[Any]]
    function: str = ""
    worker: bool = False
    """Kill one of the processes that it starts, not itself."""


@dataclass
class Tally:
    """What happened to a step: kills, tries that ended before their kill, those let through, and their seconds."""

    kills: int = 0
    too_late: int = 0
    whole: int = 0
    seconds: list[float] = field(default_factory=list)


def _import(season: Season) -> list[str]:
    return _import_as(season, f"imported-{season.number}")


def _import_as(season: Season, experiment: str) -> list[str]:
    where = ["--lake", season.lake.path, "--experiment", experiment, "--target", "run-0000"]
    return ["collect", "import", "arrays", str(season.arrays), *where]


def _target(season: Season) -> list[str]:
    where = ["--lake", season.lake.path, "--experiment", f"trained-{season.number}"]
    return ["collect", "target", *where, *_DATA, *_TRAINING, "--epochs", "10", "--checkpoint-every", "1"]


def _shadows(jobs: int) -> Callable[[Season], list[str]]:
    def arguments(season: Season) -> list[str]:
        # Of the experiment of the target that was trained last.
        where = ["--lake", season.lake.path, "--experiment", f"trained-{season.last_target}"]
        return [
            "collect",
            "shadows",
            *where,
            "--count",
            "4",
            "--epochs",
            "4",
            "--traces",
            "--jobs",
            str(jobs),
        ]

    return arguments


IMPORT = Step("import", _import)
STEPS = (
    Step(
        "write",
        lambda season: [season.lake.path, [f"w-{season.number}{i}" for i in range(4)]],
        "durability_lake:write_runs",
    ),
    IMPORT,
    Step(
        "analyze",
        lambda season: ["analyze", "lira", "--lake", season.lake.path, "--experiment", "imported-0"],
    ),
    Step("compact", lambda season: ["lake", "compact", "--least", "2", "--lake", season.lake.path]),
    Step("gc", lambda season: [season.lake.path], "durability_lake:collect_now"),
    Step(
        "export",
        lambda season: ["lake", "export", str(season.exported), "--force", "--lake", season.lake.path],
    ),
)
TO_FORGET = Step("import to forget in", lambda season: _import_as(season, f"forgetting-{season.number}"))
FORGET = Step(
    "forget",
    lambda season: [*_FORGET, "--lake", season.lake.path, "--experiment", f"forgetting-{season.number}"],
)
MIGRATE = Step("migrate", lambda season: ["lake", "migrate", "--lake", season.lake.path])
TARGET = Step("target", _target)
FLEETS = (
    Step("fleet", _shadows(1)),
    Step("fleet of 2 workers", _shadows(2)),
    Step("fleet, a worker", _shadows(2), worker=True),
)


@dataclass
class Season:
    """One lake; ``folder`` has it and everything else of the season. The zygote starts the processes."""

    zygote: Zygote
    folder: Path
    arrays: Path
    lake: Lake
    number: int = 0
    last_target: int = 0
    logs: int = 0

    @property
    def exported(self) -> Path:
        """The database that export writes."""
        return self.folder / "exported.duckdb"

    def log(self) -> Path:
        """A file for what the next process prints."""
        self.logs += 1
        return self.folder / f"log-{self.logs:04d}"

    def start(self, step: Step) -> Child:
        """A process that does the step."""
        given = step.arguments(self)
        if step.function:
            return self.zygote.start(step.function, given, self.log())
        return self.zygote.command(given, self.log())

    def let_through(self, step: Step) -> float:
        """Do a step undisturbed: its seconds. Raises Broken where it fails."""
        began = time.monotonic()
        child = self.start(step)
        if child.wait() != 0:
            raise Broken(f"{step.name} failed with {child.code}: {child.text()}")
        if step is TARGET:
            self.last_target = self.number
        return time.monotonic() - began


@dataclass(frozen=True)
class Prepared:
    """What seasons begin with: the lake ``old`` of format 1 in ``folder``, and what is known of the steps."""

    zygote: Zygote
    folder: Path
    promise: Promise
    seconds: dict[str, float]

    @property
    def promised(self) -> Path:
        """Where the promise is stored."""
        return self.folder / "promise.json"


def prepare(zygote: Zygote, folder: Path, *, samples: int, trainings: bool) -> Prepared:
    """Do every step once, undisturbed."""
    arrays = folder / "arrays.npz"
    _make_arrays(arrays, samples)
    old, whole = (_new(zygote, folder / name, arrays, samples) for name in ("begin", "undisturbed"))
    names = [f"old-{number}" for number in range(BEFORE)]
    for season, runs in ((old, names), (whole, ["old-0", "live-0"])):
        if zygote.start("durability_lake:write_runs", [season.lake.path, runs], season.log()).wait() != 0:
            raise Broken("runs cannot be written")
        season.let_through(IMPORT)
    seconds = {}
    for step in STEPS:
        whole.number += 1
        seconds[step.name] = whole.let_through(step)
    for fleet in FLEETS[:2] if trainings else ():
        whole.number += 1
        seconds[TARGET.name] = whole.let_through(TARGET)
        seconds[fleet.name] = whole.let_through(fleet)
    promise = Promise({})
    promise.add(whole.lake)
    for step in (TO_FORGET, FORGET):
        seconds[step.name] = whole.let_through(step)
        promise.add(whole.lake, changed="forgetting")
    promise.save(folder / "promise.json")
    _age(old.lake)
    seconds[MIGRATE.name] = old.let_through(MIGRATE)
    _age(old.lake)
    shutil.move(old.lake.path, folder / "old")
    return Prepared(zygote, folder, promise, seconds)


def _new(zygote: Zygote, folder: Path, arrays: Path, samples: int) -> Season:
    folder.mkdir()
    lake = Lake.open(folder / "lake", create=True)
    make_experiment(lake, samples)
    return Season(zygote, folder, arrays, lake)


def _make_arrays(path: Path, samples: int) -> None:
    """The .npz file that is imported: a target and five shadow models."""
    rng = np.random.default_rng(0)
    keep = np.stack([rng.permutation(6) < 3 for _ in range(samples)], axis=1)
    phi = rng.normal(0, 2, keep.shape) + keep
    np.savez(path, labels=np.arange(samples) % 10, keep=keep, phi=phi, loss=np.logaddexp(0, -phi))


def _age(lake: Lake) -> None:
    """Turn a lake whose runs share no files into one of format 1, which is the same but for the number."""
    for path in [*(path for folder in MANIFESTS for path in lake.files.list(folder, ".json")), paths.LAKE]:
        lake.files.put(path, manifest.dump({**manifest.load(lake.files, path), "format": 1}))


class Killing:
    """One season of kills. ``tallies`` counts what happened, ``reads`` how often the lake was read by others meanwhile."""

    def __init__(self, prepared: Prepared, name: str, chance: random.Random) -> None:
        folder = prepared.folder / name
        folder.mkdir()
        shutil.copytree(prepared.folder / "old", folder / "lake")
        arrays = prepared.folder / "arrays.npz"
        self.season = Season(prepared.zygote, folder, arrays, Lake.open(folder / "lake"))
        self.prepared, self.chance = prepared, chance
        self.promise = Promise(prepared.promise.expected)
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)
        self.left = self.removed = self.reads = self.resumed = self.written = 0
        self._stop = folder / "stop"
        self._checked_export = 0
        self._writer: Child | None = None
        given = [self.season.lake.path, str(prepared.promised), "imported-0", str(self._stop)]
        self._reader = prepared.zygote.start("durability_lake:read_on", given, self.season.log())

    def step(self, step: Step, kills: int) -> None:
        """Kill a step so many times, then let it through, and look whether all is there."""
        season, tally = self.season, self.tallies[step.name]
        if step is not FORGET:
            season.number += 1
        for _ in range(kills):
            self._kill(step)
            self.check()
            if self.chance.random() < 0.25:
                self.collect_garbage()
        tally.seconds.append(season.let_through(step))
        tally.whole += 1
        self.check()
        self._check_done(step)
        if step is MIGRATE:  # nobody writes into an older lake
            given = [season.lake.path, "live", str(self._stop), 0.3]
            self._writer = season.zygote.start("durability_lake:write_on", given, season.log())

    def _kill(self, step: Step) -> None:
        tally = self.tallies[step.name]
        usual = tally.seconds or [
            self.prepared.seconds.get(step.name) or self.prepared.seconds[FLEETS[1].name]
        ]
        child = self.season.start(step)
        time.sleep(self.chance.uniform(0, sum(usual) / len(usual)))
        workers = children_of(child.pid)
        if step.worker and workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.chance.choice(workers), signal.SIGKILL)
        else:
            child.kill()
        code = child.wait()
        end = time.monotonic() + 1200
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            if time.monotonic() > end:
                raise Broken(f"{step.name}: workers outlive their parent")
            time.sleep(0.01)
        if code == 0:
            tally.too_late += 1
        elif code == -signal.SIGKILL or (
            step.worker and workers and re.search(r"signal 9|exit code -9", child.text())
        ):
            tally.kills += 1
        else:
            raise Broken(f"{step.name} ended with {code}: {child.text()}")

    def check(self) -> None:
        """Raises Broken where the lake breaks its promise, or somebody at work beside has failed."""
        for child in (self._reader, self._writer):
            if child is not None and child.poll():
                raise Broken(f"a process beside has failed: {child.text()}")
        self.promise.check(digests(self.season.lake))
        found = verify(self.season.lake)
        if found.damage:
            raise Broken(f"damage: {found.damage}")
        if odd := {state for state in found.writers.values() if state not in ("killed", "at work", "ended")}:
            raise Broken(f"leftovers of writers that are {odd}")
        self.left += sum(state == "killed" for state in found.writers.values())
        exported = self.season.exported
        if exported.exists() and exported.stat().st_ino != self._checked_export:
            self._checked_export = exported.stat().st_ino
            self._check_export()

    def _check_export(self) -> None:
        with duckdb.connect(str(self.season.exported), read_only=True) as connection:
            Promise(self.promise.expected).check(read_digests(connection.execute(DIGESTS).fetchall()))

    def _check_done(self, step: Step) -> None:
        lake, number = self.season.lake, self.season.number
        where = {
            "write": MADE,
            "import": f"imported-{number}",
            "target": f"trained-{number}",
        }.get(step.name, f"trained-{self.season.last_target}" if step in FLEETS else "")
        wanted = {
            "write": {f"w-{number}{i}" for i in range(4)},
            "target": {"target"},
        }.get(step.name, self.promise.runs_of(where))
        if step is FORGET and (left := self.promise.unfinished(f"forgetting-{number}")):
            raise Broken(f"{step.name} has ended and left {left}")
        if where and (missing := wanted - {run.run for run in lake.runs(where)}):
            raise Broken(f"{step.name} has ended without {missing} in {where}")

    def collect_garbage(self) -> None:
        """Raises Broken where anything of the killed is left, or anything of one at work is taken."""
        lake = self.season.lake
        before = verify(lake)
        gone = collect(lake)
        self.removed += len(gone.removed)
        killed = {path for path, state in before.writers.items() if state == "killed"}
        if left := killed - set(gone.removed):
            raise Broken(f"garbage collection leaves {left}")
        at_work = {tokens.process_part(lake.path)}
        at_work |= {
            tokens.writer_of(path) or "" for path, state in before.writers.items() if state == "at work"
        }
        if wrong := [
            path for path in gone.removed if path not in killed and tokens.writer_of(path) in at_work
        ]:
            raise Broken(f"garbage collection takes {wrong} of writers at work")

    def end(self) -> None:
        """Let reader and writer end; raises Broken unless the lake is whole, and all that was left is removed."""
        self._stop.touch()
        for child in (self._reader, self._writer):
            if child is not None and child.wait() != 0:
                raise Broken(f"a process beside has failed: {child.text()}")
        logs = (log.read_text(errors="replace") for log in self.season.folder.glob("log-*"))
        self.resumed = sum("resuming run" in text for text in logs)
        self.reads = json.loads(self._reader.text().splitlines()[-1])["reads"]
        if self._writer is not None:
            names = self._writer.text().split()
            self.written = len(names)
            if missing := set(names) - {run.run for run in self.season.lake.runs(MADE)}:
                raise Broken(f"{missing} were committed and are not there")
        self.check()
        self.collect_garbage()
        gone = collect(self.season.lake, checkpoints=True)
        left = verify(self.season.lake)
        if left.damage or left.leftovers:
            raise Broken(f"left in the end: {left.damage or left.leftovers}, kept: {dict(gone.kept)}")


def season_of_kills(prepared: Prepared, name: str, seed: int, *, each: int, trainings: int) -> Killing:
    """Kill every step ``each`` times, in random order, and trainings ``trainings`` times. Raises Broken."""
    chance = random.Random(seed)
    killing = Killing(prepared, name, chance)
    killing.step(MIGRATE, each)
    for step in chance.sample(STEPS, len(STEPS)):
        killing.step(step, each)
    killing.step(TO_FORGET, 0)
    killing.step(FORGET, each)
    if trainings:
        killing.step(TARGET, trainings)
        killing.step(FLEETS[seed % len(FLEETS)], trainings)
    killing.end()
    return killing
