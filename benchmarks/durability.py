"""Is anything lost: kills at random instants, and many processes at one lake.

    python benchmarks/durability.py kills [--kills 300] [--trainings 40] [--seed 0]
    python benchmarks/durability.py crowd [--seconds 180] [--seed 0] [--machines 2]

Ends with a table in Markdown and exit code 0, or with a sentence that says what a lake showed that it must not; the folder
with lakes and logs then stays. The seed fixes the commands and, as shares of their usual time, the instants.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from durability_crowd import crowd
from durability_kills import FORGET, MIGRATE, STEPS, Killing, prepare, season_of_kills
from durability_lake import Broken
from zygote import Zygote

EACH = 6
"""Kills of a step in a season; more seasons rather than more kills: each begins with an older lake, in another order."""


def kills(zygote: Zygote, folder: Path, given: argparse.Namespace) -> None:
    """Seasons of kills until there were as many as asked for."""
    prepared = prepare(zygote, folder, samples=given.samples, trainings=given.trainings > 0)
    began = time.monotonic()
    seasons: list[Killing] = []
    for number in itertools.count():
        done = sum(_kills(season) for season in seasons)
        if done >= given.kills:
            break
        left = given.trainings - sum(_trainings(season) for season in seasons)
        of_these = min(EACH, max(0, -(-left // 2)))
        seasons.append(
            season_of_kills(prepared, f"season-{number}", given.seed + number, each=EACH, trainings=of_these)
        )
        print(f"season {number}: {done + _kills(seasons[-1])} kills", file=sys.stderr, flush=True)
        shutil.rmtree(folder / f"season-{number}")
    _print_kills(seasons)
    others = {
        name: sum(getattr(season, name) for season in seasons)
        for name in ("left", "removed", "reads", "written", "resumed")
    }
    print(
        f"\n{len(seasons)} lakes, {sum(_kills(season) for season in seasons)} kills in {time.monotonic() - began:.0f} s. "
        f"{others['left']} leftovers listed after kills, {others['removed']} files removed by gc; beside them "
        f"{others['reads']} readings and {others['written']} runs of a writer at work; {others['resumed']} trainings resumed."
    )


def _kills(season: Killing) -> int:
    return sum(tally.kills for tally in season.tallies.values())


def _trainings(season: Killing) -> int:
    store = {MIGRATE.name, FORGET.name, *(step.name for step in STEPS)}
    return sum(tally.kills for name, tally in season.tallies.items() if name not in store)


def _print_kills(seasons: list[Killing]) -> None:
    print(
        "| command | killed | had ended before | let through | median time |\n| --- | --- | --- | --- | --- |"
    )
    for name in dict.fromkeys(name for season in seasons for name in season.tallies):
        tallies = [season.tallies[name] for season in seasons if name in season.tallies]
        count = sum((Counter(killed=t.kills, late=t.too_late, whole=t.whole) for t in tallies), Counter())
        usual = statistics.median(seconds for tally in tallies for seconds in tally.seconds)
        print(f"| {name} | {count['killed']} | {count['late']} | {count['whole']} | {usual:.2f} s |")


def many(zygote: Zygote, folder: Path, given: argparse.Namespace) -> None:
    """Sixteen collectors, four analyses, two that compact and collect garbage, two ranks of one training."""
    several = given.machines > 1  # ranks start anew, and would be on a third
    done = crowd(
        zygote,
        folder / "crowd",
        seconds=given.seconds,
        seed=given.seed,
        machines=given.machines,
        ranks=not several,
        collectors=8 if several else 16,
        samples=500 if several else 5000,
    )
    print("| what | how often |\n| --- | --- |")
    for name, count in asdict(done).items():
        print(f"| {name.replace('_', ' ')} | {count} |")


def main() -> None:
    """Do what is asked for, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["kills", "crowd"])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--trainings", type=int, default=40, help="of the kills")
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--machines", type=int, choices=[1, 2], default=1, help="of the crowd")
    parser.add_argument("--samples", type=int, default=500, help="records of the lakes for kills")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="losslake-durability-"))
    try:
        with Zygote("durability_lake", "durability_crowd", "durability_machines") as zygote:
            (kills if given.what == "kills" else many)(zygote, folder, given)
    except Broken as error:
        sys.exit(f"broken: {error}\nLakes and logs are in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
