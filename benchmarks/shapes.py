"""Commands by the shape of a lake: many experiments, many runs, many samples, each at sizes that double.

    python benchmarks/shapes.py FOLDER [--experiments 25 50 100] [--runs 500 1000 2000] [--samples 500000 1000000 2000000]
        [--commands info verify ...]

Lakes are made in FOLDER where they are not there yet. Those of many experiments have two runs of 100 samples in each, and a
forgotten sample; those of many runs one experiment of 100 samples; those of many samples three runs. Each command is a fresh
process, the one that a user starts. Told are seconds of the processor, of the clock in brackets, and the largest resident
memory; last how much more of the processor the largest lake takes than the one before, start of Python taken off: twice as
much is linear.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from far import Taken, run

# Nothing of losslake: a process begins with the memory of the one that starts it.

MAKE = """
import sys
import numpy as np
import pyarrow as pa
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.upkeep.forget import forget

place, experiments, runs, samples = sys.argv[1], *map(int, sys.argv[2:5])
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
            writer.append_signals(
                ids, np.zeros(samples, np.int16), ids % 10, loss=np.logaddexp(0, -phi), phi=phi, correct=phi > 0
            )
            writer.commit(RunInfo(role="shadow" if r else "target"))
    if experiments > 1:
        forget(lake, name, [7])
"""

LOSSLAKE = (sys.executable, "-P", "-c", "from losslake.cli import cli; cli(prog_name='losslake')")

COMMANDS = {
    "info": ("lake", "info"),
    "runs": ("lake", "runs", "--experiment", "e0000"),
    "sql": ("sql", "select role, count(*) from runs group by role"),
    "verify": ("lake", "verify"),
    "gc": ("lake", "gc", "--dry-run"),
    "loss": ("analyze", "loss", "--experiment", "e0000", "--target", "target"),
    "lira": ("analyze", "lira", "--experiment", "e0000", "--target", "target"),
    "report": ("report", "--experiment", "e0000", "--out", "{out}"),
    "compact": ("lake", "compact", "--experiment", "e0000"),
    "forget": ("lake", "forget", "--experiment", "e0000", "--sample", "3"),
}
"""In this order; the last two change the lake, so they are told on a copy."""

CHANGING = ("compact", "forget")


def lake_of(folder: Path, shape: str, size: int) -> Path:
    """The lake of a shape, made where it is not there."""
    place = folder / f"{shape}-{size}"
    if not place.exists():
        sizes = {"experiments": (size, 2, 100), "runs": (1, size, 100), "samples": (1, 3, size)}[shape]
        making = folder / f"making-{os.getpid()}"
        shutil.rmtree(making, ignore_errors=True)
        subprocess.run([sys.executable, "-P", "-c", MAKE, str(making), *map(str, sizes)], check=True)
        making.rename(place)
    return place


def taken(lake: Path, command: str) -> Taken:
    """A command on a lake, in a process of its own."""
    words = [word.format(out=lake.parent / "report.html") for word in COMMANDS[command]]
    copy = lake.parent / "copy"
    if command in CHANGING:
        shutil.rmtree(copy, ignore_errors=True)
        lake = Path(shutil.copytree(lake, copy))
    try:
        return run([*LOSSLAKE, *words, "--lake", str(lake)], limit=0)
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def row(command: str, all_taken: Sequence[Taken], start: float) -> str:
    """A line of the table."""
    cells = [
        each.failure.splitlines()[-1][:60]
        if each.failure
        else f"{each.processor:.1f} ({each.seconds:.1f}) s, {each.peak:.2f} GB"
        for each in all_taken
    ]
    own = [max(each.processor - start, 0.05) for each in all_taken]
    growth = f"{own[-1] / own[-2]:.1f}x" if len(own) > 1 else ""
    return f"| {command} | {' | '.join(cells)} | {growth} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--experiments", type=int, nargs="*", default=[25, 50, 100])
    parser.add_argument("--runs", type=int, nargs="*", default=[500, 1000, 2000])
    parser.add_argument("--samples", type=int, nargs="*", default=[500_000, 1_000_000, 2_000_000])
    parser.add_argument("--commands", nargs="*", choices=COMMANDS, default=list(COMMANDS))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    start = run([*LOSSLAKE, "sql", "--help"], limit=0).processor
    for shape in ("experiments", "runs", "samples"):
        sizes = getattr(given, shape)
        if not sizes:
            continue
        lakes = [lake_of(given.folder, shape, size) for size in sizes]
        print(f"\n| command | {' | '.join(f'{size:,} {shape}' for size in sizes)} | growth |")
        print("| --- " * (len(sizes) + 2) + "|")
        for command in given.commands:
            print(row(command, [taken(lake, command) for lake in lakes], start), flush=True)


if __name__ == "__main__":
    main()
