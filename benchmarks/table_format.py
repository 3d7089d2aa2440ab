"""Delta Lake by deltalake in place of the lake's manifests: what docs/decisions/0001-table-format.md rests on.

    python benchmarks/table_format.py FOLDER [--parts commit crowd damage empty twice kept] [--runs 100] [--samples 100] [--writers 16]

The lake of the experiment has two Delta tables, signals and runs. A commit appends a run's rows to signals, then one row to runs: a run is
there when that row is. Seconds are the processor's, of all threads; the two kinds of lake take turns. FOLDER is emptied of what
was made there before; one on a file system in memory leaves the disk out of it.

commit: a run more, to a lake that grows to --runs. crowd: --writers processes, 12 runs each, in one experiment. damage: one bit
flipped, a reading, and the bit put back, 100 times. empty: the newest version has no byte. twice: two append the same run. kept: a
commit to a lake that is published with --keep.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from losslake.store.delta.publish import publish
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake

EXPERIMENT = "e"
EACH = 12
FLIPS = 100


def values(samples: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Signals of a run, and which samples it trained on."""
    member = rng.random(samples) < 0.5
    phi = (rng.normal(size=samples) + member).astype(np.float32)
    ids = np.arange(samples, dtype=np.int32)
    return {
        "sample_id": ids,
        "query": np.zeros(samples, np.int16),
        "member": member,
        "label": ids % 10,
        "loss": np.logaddexp(0, -phi).astype(np.float32),
        "phi": phi,
        "correct": phi > 0,
    }


def own_lake(path: Path, samples: int) -> Lake:
    lake = Lake.open(path, create=True)
    lake.create_experiment(EXPERIMENT, pa.table({"label": np.arange(samples) % 10}))
    return lake


def commit_own(lake: Lake, run: str, given: dict[str, np.ndarray]) -> None:
    with lake.write_run(EXPERIMENT, run, members=given["member"]) as writer:
        columns: dict[str, Any] = {name: column for name, column in given.items() if name != "member"}
        writer.append_signals(**columns)
        writer.commit(RunInfo(role="shadow"))


def row_of(run: str) -> pa.Table:
    """What stands for a run's manifest."""
    return pa.table({"experiment": [EXPERIMENT], "run": [run], "role": ["shadow"], "info": ["{}"]})


def commit_delta(root: Path, run: str, given: dict[str, np.ndarray]) -> None:
    names = {"experiment": EXPERIMENT, "run": run}
    rows = pa.table({name: [each] * len(given["phi"]) for name, each in names.items()} | given)
    for table, data in (("signals", rows), ("runs", row_of(run))):
        write_deltalake(root / table, data, mode="append", partition_by=["experiment"])


def seconds(act: Callable[[], object]) -> float:
    begun = time.process_time()
    act()
    return time.process_time() - begun


def commit(folder: Path, runs: int, samples: int) -> None:
    rng = np.random.default_rng(0)
    lake, root = own_lake(folder / "own", samples), folder / "delta"
    commit_delta(root, "first", values(samples, rng))
    took: dict[str, list[float]] = {"own manifests": [], "Delta": []}
    for number in range(runs):
        given, run = values(samples, rng), f"r{number:05d}"
        took["own manifests"].append(seconds(lambda: commit_own(lake, run, given)))  # noqa: B023
        took["Delta"].append(seconds(lambda: commit_delta(root, run, given)))  # noqa: B023
    for name, all_of in took.items():
        print(f"commit, {name}: median {1000 * float(np.median(all_of)):.1f} ms")


def write_many(kind: str, folder: Path, writer: int, samples: int, told: Any) -> None:
    """One process of the crowd."""
    rng, failed = np.random.default_rng(writer), 0
    lake = Lake.open(folder) if kind == "own" else None
    begun = time.process_time()
    for number in range(EACH):
        given, run = values(samples, rng), f"w{writer:02d}-{number:02d}"
        try:
            commit_own(lake, run, given) if lake else commit_delta(folder, run, given)
        except Exception:  # deltalake has no common one
            failed += 1
    told.put((time.process_time() - begun, failed))


def crowd(folder: Path, writers: int, samples: int) -> None:
    own_lake(folder / "own", samples)
    commit_delta(folder / "delta", "first", values(samples, np.random.default_rng(0)))
    context = multiprocessing.get_context("spawn")
    for kind in ("own", "delta"):
        told = context.Queue()
        each = [
            context.Process(target=write_many, args=(kind, folder / kind, writer, samples, told))
            for writer in range(writers)
        ]
        for process in each:
            process.start()
        found = [told.get() for _ in each]
        for process in each:
            process.join()
        ms = 1000 * sum(took for took, _ in found) / (writers * EACH)
        print(f"crowd, {kind}: {ms:.1f} ms a run, {sum(failed for _, failed in found)} failed")
    tried = 0
    for version in (folder / "delta" / "signals" / "_delta_log").glob("*.json"):
        about = json.loads(version.read_text().splitlines()[0])["commitInfo"]
        tried += about["operationMetrics"].get("num_retries", 0)
    print(f"crowd, delta: {tried} tries more for signals")


def read_delta(root: Path) -> str:
    """All rows of signals, in order, as text."""
    rows = DeltaTable(root / "signals").to_pyarrow_table()
    return repr(rows.sort_by([("run", "ascending"), ("sample_id", "ascending")]).to_pydict())


def damage(folder: Path, samples: int) -> None:
    root, rng, chosen = folder / "delta", np.random.default_rng(0), random.Random(0)
    for number in range(9):
        commit_delta(root, f"r{number}", values(samples, rng))
    before, found = read_delta(root), Counter[str]()
    files = [path for path in (root / "signals").rglob("*") if path.is_file()]
    for _ in range(FLIPS):
        [path] = chosen.choices(files, [each.stat().st_size for each in files])
        whole = path.read_bytes()
        bent = bytearray(whole)
        bent[chosen.randrange(len(bent))] ^= 1 << chosen.randrange(8)
        path.write_bytes(bent)
        try:
            found["the same" if read_delta(root) == before else "other numbers"] += 1
        except KeyboardInterrupt:
            raise
        except BaseException:  # a panic of deltalake's is no Exception
            found["an error"] += 1
        path.write_bytes(whole)
    print("damage, of", FLIPS, "flipped bits:", dict(found))


def empty(folder: Path, samples: int) -> None:
    root, rng = folder / "delta", np.random.default_rng(0)
    for number in range(5):
        commit_delta(root, f"r{number}", values(samples, rng))
    (root / "runs" / "_delta_log" / f"{4:020d}.json").write_bytes(b"")
    table = DeltaTable(root / "runs")
    print("empty: opens at version", table.version(), "with", table.to_pyarrow_table().num_rows, "of 5 runs")


def twice(folder: Path, samples: int) -> None:
    root = folder / "delta"
    commit_delta(root, "first", values(samples, np.random.default_rng(0)))
    for name, properties in (
        ("appends", None),
        ("with a transaction", CommitProperties(app_transactions=[Transaction("run", 1)])),
    ):
        tables = [DeltaTable(root / "runs"), DeltaTable(root / "runs")]
        told = []
        for number in range(3):
            table = tables[number] if number < 2 else DeltaTable(root / "runs")
            try:
                write_deltalake(table, row_of(name), mode="append", commit_properties=properties)
                told.append("accepted")
            except Exception as error:
                told.append(f"refused ({str(error).splitlines()[0]})")
        print(f"twice, {name}: two at once and one later:", ", ".join(told))


def kept(folder: Path, runs: int, samples: int) -> None:
    rng = np.random.default_rng(0)
    lake = own_lake(folder / "own", samples)
    for number in range(runs):
        commit_own(lake, f"r{number:05d}", values(samples, rng))
    print(f"kept: publishing {1000 * seconds(lambda: publish(lake, keep=True)):.0f} ms")
    given = values(samples, rng)
    took = [seconds(lambda: commit_own(lake, f"k{number}", given)) for number in range(10)]  # noqa: B023
    print(f"kept, a commit at {runs} runs: median {1000 * float(np.median(took)):.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--writers", type=int, default=16)
    parts: dict[str, Callable[[Path, argparse.Namespace], None]] = {
        "commit": lambda at, given: commit(at, given.runs, given.samples),
        "crowd": lambda at, given: crowd(at, given.writers, given.samples),
        "damage": lambda at, given: damage(at, given.samples),
        "empty": lambda at, given: empty(at, given.samples),
        "twice": lambda at, given: twice(at, given.samples),
        "kept": lambda at, given: kept(at, given.runs, given.samples),
    }
    parser.add_argument("--parts", nargs="*", choices=list(parts), default=list(parts))
    given = parser.parse_args()
    for name in given.parts:
        at = given.folder / name
        shutil.rmtree(at, ignore_errors=True)
        at.mkdir(parents=True)
        parts[name](at, given)


if __name__ == "__main__":
    main()
