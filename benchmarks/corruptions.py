"""Random corruptions of a lake's files: does `verify` find each, and what do readers do that meet it?"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from fault_lake import IDS, E, make
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.store.errors import LosslakeError
from losslake.store.lake import Lake
from losslake.store.read.catalogue import results
from losslake.store.upkeep.verify import verify
from losslake.store.write.checkpoints import (
    CheckpointWriter,
    checkpoint_key,
    find_checkpoints,
    read_checked,
)


def whole_lake(root: Path) -> None:
    """The lake of the other faults, with a run besides that was stopped after two checkpoints."""
    make(root)
    lake = Lake.open(root)
    writer = lake.write_run(E, "resumed", members=IDS < 9)
    checkpoints = CheckpointWriter(lake.files, E, "resumed", writer.token)
    for epoch in range(2):
        checkpoints.add_piece(b"piece" * 50)
        checkpoints.write(epoch, checkpoint_key({}), b"state" * 100, {})


Change = Callable[[Path, list[Path], random.Random], None]


def _on_bytes(change: Callable[[bytearray, random.Random], object]) -> Change:
    def on_file(victim: Path, others: list[Path], chance: random.Random) -> None:
        data = bytearray(victim.read_bytes())
        change(data, chance)
        victim.write_bytes(data)

    return on_file


def _flip(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _byte(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    data[at] = (data[at] + chance.randrange(1, 256)) % 256


def _block(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    end = min(len(data), at + 64)
    data[at:end] = bytes(x ^ 255 for x in data[at:end])


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def _garbage(data: bytearray, chance: random.Random) -> None:
    data += chance.randbytes(chance.randrange(1, 99))


def _like(victim: Path, others: list[Path], chance: random.Random) -> bytes:
    """The bytes of another file of the same kind that are not the same, else bytes of no kind."""
    kind = [
        path for path in others if path.suffix == victim.suffix and path.parts[-3:-1] != victim.parts[-3:-1]
    ]
    found = [path.read_bytes() for path in kind or others]
    return chance.choice([data for data in found if data != victim.read_bytes()])


def _replaced(victim: Path, others: list[Path], chance: random.Random) -> None:
    victim.write_bytes(_like(victim, others, chance))


def _swapped(victim: Path, others: list[Path], chance: random.Random) -> None:
    data = _like(victim, others, chance)
    other = next(path for path in others if path.read_bytes() == data)
    other.write_bytes(victim.read_bytes())
    victim.write_bytes(data)


def _removed(victim: Path, others: list[Path], chance: random.Random) -> None:
    victim.unlink()


def _folder(victim: Path, others: list[Path], chance: random.Random) -> None:
    victim.unlink()
    victim.mkdir()


CHANGES: Mapping[str, Change] = {
    "a bit flipped": _on_bytes(_flip),
    "a byte changed": _on_bytes(_byte),
    "64 bytes inverted": _on_bytes(_block),
    "cut off": _on_bytes(_cut),
    "trailing garbage": _on_bytes(_garbage),
    "emptied": _on_bytes(lambda data, chance: data.clear()),
    "another file's bytes": _replaced,
    "swapped with another": _swapped,
    "removed": _removed,
    "a folder in its place": _folder,
}
"""Ways to corrupt a file, with the others there are. Of a manifest that is removed nothing can tell that it was there."""


def readers(lake: Lake) -> dict[str, Callable[[], Any]]:
    """What reads the lake, each in a way of its own; equal answers mean equal rows."""

    def in_sql() -> list[Any]:
        with lake.connect(E) as connection:
            views = ("samples", "runs", "signals", "traces", "trace_points", "scores", "metrics")
            return [sorted(map(repr, connection.sql(f"from {view}").fetchall())) for view in views]

    def in_polars() -> list[Any]:
        return [sorted(map(repr, lake.scan(view, E).collect().rows())) for view in ("signals", "traces")]

    def in_arrow() -> list[Any]:
        tables = [lake.samples(E), *(table for run in lake.runs(E) for table in lake.run_rows(run))]
        tables += [lake.read_file(each.file) for each in results(lake, E) if each.file]
        return [repr(pl.DataFrame(table).rows()) for table in tables]

    def analysis() -> Any:
        with open_source(lake, E, "target") as source:
            loss, lira = find("loss").compute(source), find("lira").compute(source)
            # Engines add up in any order.
            return [
                each.frame.sort("sample_id").with_columns(pl.col(pl.Float64).round(9)).rows()
                for each in (loss, lira)
            ]

    def a_checkpoint() -> Any:
        found, damage = find_checkpoints(lake.files, E, "resumed")
        for sentence in damage:
            raise LosslakeError(sentence)
        return [read_checked(lake.files, file) for each in found for file in (each.state, *each.pieces)]

    return {
        "SQL (DuckDB)": in_sql,
        "scan (Polars)": in_polars,
        "tables (Arrow)": in_arrow,
        "analyses": analysis,
        "pictures": lambda: lake.pictures(E, IDS.tolist()),
        "designs": lambda: lake.designs(E, "shadows"),
        "checkpoints": a_checkpoint,
    }


@dataclass
class Found:
    """Corruptions, those that verify found, and for each reader: same rows, an error, other rows, no clear error."""

    corruptions: int = 0
    found: int = 0
    missed: list[str] = field(default_factory=list)
    reads: dict[str, Counter[str]] = field(default_factory=dict)
    silent: list[str] = field(default_factory=list)
    by_way: dict[str, Counter[str]] = field(default_factory=dict)


def corrupt(whole: Path, root: Path, count: int, seed: int, *, keep_times: bool = False) -> Found:
    """Corrupt copies of a lake ``count`` times. ``keep_times``: as a failing disk does, that sets no time of change."""
    chance = random.Random(seed)
    shutil.copytree(whole, root)  # with its times
    wanted = {name: read() for name, read in readers(Lake.open(root)).items()}
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    found = Found()
    for number in range(count):
        victim = root / files[number % len(files)]
        ways = [way for way in CHANGES if not (victim.suffix == ".json" and way == "removed")]
        if keep_times:
            ways = ways[:3]
        way = chance.choice(ways)
        before = victim.stat()
        CHANGES[way](victim, [root / path for path in files if root / path != victim], chance)
        if keep_times:
            os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
        _judge(found, f"{victim.relative_to(root)}: {way}", way, root, wanted)
        shutil.rmtree(root)
        shutil.copytree(whole, root)
    return found


def _judge(found: Found, case: str, way: str, root: Path, wanted: Mapping[str, Any]) -> None:
    found.corruptions += 1
    try:
        damaged = bool(verify(Lake.open(root)).damage) or _checkpoint_damaged(root)
    except LosslakeError:
        damaged = True
    found.found += damaged
    if not damaged:
        found.missed.append(case)
    for name in wanted:
        try:
            answer = readers(Lake.open(root))[name]()
            what = "same" if answer == wanted[name] else "other rows"
        except LosslakeError as error:
            what = (
                "error"
                if root.name in str(error) or "=" in str(error) or ".json" in str(error)
                else "unclear"
            )
            if what == "unclear":
                found.silent.append(f"{case}, {name}: {str(error)[:200]}")
        except (Exception, pl.exceptions.PanicException) as error:  # the latter is no Exception
            what = "unclear"
            found.silent.append(f"{case}, {name}: {type(error).__name__} {str(error)[:200]}")
        if what == "other rows":
            found.silent.append(f"{case}, {name}: other rows")
        found.reads.setdefault(name, Counter())[what] += 1
        found.by_way.setdefault(way, Counter())[what] += 1


def _checkpoint_damaged(root: Path) -> bool:
    try:
        readers(Lake.open(root))["checkpoints"]()
    except LosslakeError:
        return True
    return False
