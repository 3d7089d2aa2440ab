"""Commands by the shape of a lake: many experiments, many runs, many samples, each at two sizes or more.

    python benchmarks/shapes.py FOLDER [--quick] [--shapes runs forgotten ...] [--commands info verify ...]

Lakes are made in FOLDER where they are not there yet. Each command is a fresh process, the one that a user starts; one that
changes the lake is told on a copy. What was measured is kept in FOLDER/taken.jsonl and not measured again, so that a run that was
stopped goes on; what a line there says of a command goes with the line. ``--quick`` takes lakes of a tenth: minutes in all.

A table a shape tells of each size seconds of the processor, of the clock in brackets, the start of Python included, and the
largest resident memory; last how much more of the processor the largest lake takes than the one before, start of Python taken
off: sizes double, so that 2 is linear. Below the tables stands what missed a bar: more than twice the processor and a half,
more than 3 s where the answer is small, more than 2 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from far import Taken, run

# Nothing of losslake: a process begins with the memory of the one that starts it.

MAKE = """
import os
import sys
import numpy as np
import pyarrow as pa
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.upkeep.forget import forget

os.fsync = lambda handle: None  # what is measured comes later
place, experiments, runs, samples, forgotten = sys.argv[1], *map(int, sys.argv[2:6])
rng = np.random.default_rng(0)
lake = Lake.open(place, create=True)
ids = np.arange(samples)
for e in range(experiments):
    name = f"e{e:04d}"
    lake.create_experiment(name, pa.table({"label": rng.integers(0, 10, samples)}))
    for r in range(runs):
        run = "target" if r == 0 else f"shadow-{r:04d}"
        member = rng.random(samples) < 0.5
        with lake.write_run(name, run, members=member) as writer:
            phi = rng.normal(size=samples) + member
            loss = np.logaddexp(0, -phi)
            writer.append_signals(ids, np.zeros(samples, np.int16), ids % 10, loss=loss, phi=phi, correct=phi > 0)
            for epoch in range(4 if r == 0 else 0):
                writer.append_epoch("eval", epoch, ids, loss=(loss * (2 - epoch / 3)).astype(np.float32))
            writer.commit(RunInfo(role="shadow" if r else "target"))
    if forgotten:
        forget(lake, name, [7])
"""

LOSSLAKE = (sys.executable, "-P", "-c", "from losslake.cli import cli; cli(prog_name='losslake')")

FIRST = ("--experiment", "e0000")
ANALYSES = {
    "loss": ("loss",),
    "lira": ("lira",),
    "lt-iqr": ("lt-iqr",),
    "compare": ("compare", "lt-iqr", "--against", "loss"),
    "likeness": ("likeness",),
    "tail": ("tail",),
    "gate": ("gate", "--score", "loss", "--max-auc", "1"),
}
COMMANDS = {
    "info": ("lake", "info"),
    "runs": ("lake", "runs", *FIRST),
    "sql": ("sql", "select role, count(*) from runs group by role"),
    "sql, rows": ("sql", "select count(*) from signals"),
    "verify": ("lake", "verify"),
    "gc": ("lake", "gc", "--dry-run"),
    **{name: ("analyze", *words, *FIRST, "--target", "target") for name, words in ANALYSES.items()},
    "report": ("report", *FIRST, "--out", "{out}.html"),
    "report, JSON": ("report", *FIRST, "--out", "{out}.json"),
    "export": ("lake", "export", "{out}.duckdb", *FIRST, "--force"),
    "compact": ("lake", "compact", *FIRST),
    "forget": ("lake", "forget", *FIRST, "--sample", "3"),
    "remove": ("lake", "remove", *FIRST, "--run", "shadow-0001", "--yes"),
    "remove all": ("lake", "remove", *FIRST, "--yes"),
}
"""In this order; the analyses before the report, so that their scores are kept when it is made."""

CHANGING = ("compact", "forget", "remove", "remove all")
WITH_SHADOWS = ("lira", "likeness", "remove")
FEW_RUNS = ("experiments", "forgotten")

SHAPES = {
    "runs": "{} runs of 100 samples",
    "experiments": "{} experiments of a run",
    "forgotten": "{} experiments of two runs and a forgotten sample",
    "samples": "3 runs of {} samples",
    "both": "{} runs of 50,000 samples",
}
SIZES = {
    "runs": (1000, 2000),
    "experiments": (1000, 2000),
    "forgotten": (75, 150),
    "samples": (1_500_000, 3_000_000),
    "both": (32, 64),
}
QUICK = {
    "runs": (100, 200),
    "experiments": (100, 200),
    "forgotten": (10, 20),
    "samples": (50_000, 100_000),
    "both": (4, 8),
}

LINEAR, SMALL, MOST = 2.5, 3.0, 2.0
"""How much more of the processor twice the lake may take; seconds where the answer is small; gigabytes."""

SMALL_ANSWERS = ("info", "runs", "sql", "sql, rows", "gc", "tail", "gate")


def lake_of(folder: Path, shape: str, size: int) -> Path:
    """The lake of a shape, made where it is not there."""
    place = folder / f"{shape}-{size}"
    if not place.exists():
        sizes = {
            "runs": (1, size, 100, 0),
            "experiments": (size, 1, 100, 0),
            "forgotten": (size, 2, 100, 1),
            "samples": (1, 3, size, 0),
            "both": (1, size, 50_000, 0),
        }[shape]
        making = folder / f"making-{os.getpid()}"
        shutil.rmtree(making, ignore_errors=True)
        subprocess.run([sys.executable, "-P", "-c", MAKE, str(making), *map(str, sizes)], check=True)
        making.rename(place)
    return place


def taken(lake: Path, command: str) -> Taken:
    """A command on a lake, in a process of its own."""
    words = [word.format(out=lake.parent / "out") for word in COMMANDS[command]]
    copy = lake.parent / "copy"
    if command in CHANGING:
        shutil.rmtree(copy, ignore_errors=True)
        lake = Path(shutil.copytree(lake, copy))
    try:
        return replace(run([*LOSSLAKE, *words, "--lake", str(lake)], limit=0), answer="")
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def measured(folder: Path, shape: str, size: int, command: str) -> Taken:
    """What a command took, as it was kept, or now."""
    kept, name = folder / "taken.jsonl", [shape, size, command]
    for line in kept.read_text().splitlines() if kept.exists() else []:
        if (each := json.loads(line))["of"] == name:
            return Taken(**each["taken"])
    now = taken(lake_of(folder, shape, size), command)
    with kept.open("a") as lines:
        lines.write(json.dumps({"of": name, "taken": asdict(now)}) + "\n")
    return now


def cell(each: Taken) -> str:
    """What one command took, or why it failed."""
    if each.failure:
        return each.failure.splitlines()[-1][:60]
    return f"{each.processor:.1f} ({each.seconds:.1f}) s, {each.peak:.2f} GB"


def growth(all_taken: Sequence[Taken], start: float) -> float:
    """How much more of the processor the last took than the one before; the start of Python, and a tenth of a second of scatter, taken off."""
    own = [max(each.processor - start, 0.1) for each in all_taken]
    return own[-1] / own[-2] if len(own) > 1 else 1.0


def missed(command: str, all_taken: Sequence[Taken], start: float) -> list[str]:
    """The bars that a command missed."""
    last = all_taken[-1]
    if last.failure:
        return ["failed"]
    more = growth(all_taken, start)
    found = [f"{more:.1f} times for twice the lake"] if more > LINEAR else []
    if command in SMALL_ANSWERS and last.processor > SMALL:
        found.append(f"{last.processor:.1f} s for a small answer")
    return found + ([f"{last.peak:.2f} GB"] if last.peak > MOST else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--commands", nargs="*", choices=COMMANDS, default=list(COMMANDS))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    start = run([*LOSSLAKE, "sql", "--help"], limit=0).processor
    bars = []
    for shape in given.shapes:
        sizes = (QUICK if given.quick else SIZES)[shape]
        print(f"\n| command | {' | '.join(SHAPES[shape].format(f'{size:,}') for size in sizes)} | growth |")
        print("| --- " * (len(sizes) + 2) + "|")
        for command in given.commands:
            if shape in FEW_RUNS and command in WITH_SHADOWS:
                continue
            all_taken = [measured(given.folder, shape, size, command) for size in sizes]
            more = f"{growth(all_taken, start):.1f}x"
            print(f"| {command} | {' | '.join(map(cell, all_taken))} | {more} |", flush=True)
            bars += [
                f"{command}, {SHAPES[shape].format(f'{sizes[-1]:,}')}: {bar}"
                for bar in missed(command, all_taken, start)
            ]
    print("\nBars missed: " + ("; ".join(bars) or "none") + ".")


if __name__ == "__main__":
    main()
