"""The lake that faults strike, what is done in it meanwhile, and what it may show afterwards."""

from __future__ import annotations

import atexit
import functools
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from losslake.store.files import tokens
from losslake.store.format import manifest, paths
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.upkeep import gc
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.export import export
from losslake.store.upkeep.forget import forget
from losslake.store.upkeep.gc import collect_garbage
from losslake.store.upkeep.migrate import migrate
from losslake.store.upkeep.verify import verify
from losslake.store.write.checkpoints import CheckpointWriter, checkpoint_key, remove_checkpoints
from losslake.store.write.results import save_result

SAMPLES = 24
IDS = np.arange(SAMPLES)
E = "e"

State = Mapping[str, Any]
"""What each manifest says, by its path, less times and tokens; checksums of data files included."""


class Broken(Exception):
    """A lake shows what it must not, or no longer what it must, or an error that explains nothing."""


def make(root: Path) -> None:
    """A small lake with something of everything: its own files, shared files, results, a design."""
    lake = Lake.open(root, create=True)
    samples = pa.table({"label": IDS % 3, "group": [f"g{i % 2}" for i in IDS], "pool": ["audit"] * SAMPLES})
    pictures = pa.array([bytes([i]) * 40 for i in IDS])
    lake.create_experiment(E, samples, pictures=pictures, dataset={"name": "none"})
    for number in range(3):
        write_run(lake, f"packed-{number}", number)
    compact(lake, E, least=2)
    write_run(lake, "target", 7, role="target")
    write_run(lake, "shadow", 8)
    save(lake, 1.0)
    lake.add_design(E, "shadows", 0, {"seed": 1})
    tidy(lake)


def write_run(lake: Lake, run: str, seed: int, role: Any = "shadow") -> None:
    """A run with traces of both kinds, two queries of signals and logits; unless it is there."""
    if lake.has_run(E, run):
        return
    rng = np.random.default_rng(seed)
    members = rng.random(SAMPLES) < 0.5
    with lake.write_run(E, run, members=members) as writer:
        for epoch in range(2):
            writer.append_epoch("eval", epoch, IDS[::-1], loss=rng.random(SAMPLES))
        writer.append_traces("train", np.flatnonzero(members), loss=rng.random((members.sum(), 2)))
        for query in (0, 1):
            phi = rng.normal(0, 2, SAMPLES)
            logits = rng.normal(0, 1, (SAMPLES, 3)).astype(np.float16)
            writer.append_signals(
                IDS, np.full(SAMPLES, query), IDS % 3, loss=np.logaddexp(0, -phi), phi=phi, logits=logits
            )
        writer.commit(RunInfo(role=role, seed=seed, recipe={"lr": 0.1}))


def save(lake: Lake, factor: float) -> None:
    """A result with scores; of another factor it replaces the one before."""
    scores = pa.table({"sample_id": IDS, "member": IDS % 2 == 0, "score": IDS * factor})
    metrics = [{"metric": "auc", "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": SAMPLES}]
    save_result(lake, E, "loss", "target", "", options={}, notes=[], metrics=metrics, scores=scores)


def tidy(lake: Lake) -> None:
    """As if this process had ended long ago, and garbage had been collected since."""
    lake.files.delete(paths.lease(tokens.process_part(lake.path)))
    tokens.forget_process(lake.path)
    with patch.object(gc, "GRACE", timedelta()):
        collect_garbage(lake, older_than=timedelta())


# --- what is done --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Activity:
    """Something that writes: ``do(root)`` does it, or completes it. ``start(root)`` makes the lake that it finds."""

    do: Callable[[Path], object]
    start: Callable[[Path], object]


def _create(root: Path) -> None:
    lake = Lake.open(root, create=True)
    pictures = pa.array([bytes([i]) * 40 for i in IDS])
    lake.create_experiment(E, pa.table({"label": IDS % 3}), pictures=pictures)
    lake.add_design(E, "shadows", 0, {"seed": 1})


def _collect(root: Path) -> None:
    write_run(Lake.open(root), "new", 5)


def _checkpoint(root: Path) -> None:
    lake = Lake.open(root)
    if not lake.has_run(E, "resumed"):
        with lake.write_run(E, "resumed", members=IDS < 9) as writer:
            checkpoints = CheckpointWriter(lake.files, E, "resumed", writer.token)
            for epoch in range(3):
                writer.append_epoch("eval", epoch, IDS, loss=IDS / 3 + epoch)
                checkpoints.add_piece(b"piece" * 50)
                checkpoints.write(epoch, checkpoint_key({}), b"state" * 100, {})
            writer.commit(RunInfo(role="target"))
    remove_checkpoints(lake.files, E, "resumed")


def _import(root: Path) -> None:
    from losslake.collect.importers.arrays import import_arrays  # with torch, which takes seconds

    import_arrays(Lake.open(root), "imported", _arrays())


@functools.cache
def _arrays() -> Path:
    """A file to import, which everybody may read."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    rng = np.random.default_rng(3)
    keep, logits = rng.random((2, SAMPLES)) < 0.5, rng.normal(size=(2, SAMPLES, 1, 3))
    np.savez(folder / "arrays.npz", labels=IDS % 3, keep=keep, logits=logits)
    return folder / "arrays.npz"


def _result(root: Path) -> None:
    save(Lake.open(root), 2.0)


def _compact(root: Path) -> None:
    compact(Lake.open(root), E, least=2)


def _forget(root: Path) -> None:
    lake = Lake.open(root)
    forget(lake, E, [3, 4])


def _with_garbage(root: Path) -> None:
    make(root)
    lake = Lake.open(root)
    writer = lake.write_run(E, "left", members=IDS < 5)
    writer.append_epoch("eval", 0, IDS, loss=IDS * 1.0)
    save(lake, 3.0)
    save(lake, 1.0)
    lake.files.delete(paths.lease(tokens.process_part(lake.path)))
    tokens.forget_process(lake.path)


def _gc(root: Path) -> None:
    with patch.object(gc, "GRACE", timedelta()):
        collect_garbage(Lake.open(root), older_than=timedelta())


def _in_format_1(root: Path) -> None:
    """Manifests as they were before runs could share files; there are none here that do."""
    lake = Lake.open(root, create=True)
    lake.create_experiment(E, pa.table({"label": IDS % 3}))
    write_run(lake, "target", 7, role="target")
    save(lake, 1.0)
    tidy(lake)
    with patch.object(manifest, "FORMAT", 1):
        for path in root.rglob("*.json"):
            content = json.loads(path.read_bytes())
            del content["checksum"], content["format"]
            path.write_bytes(manifest.dump(content))


def _migrate(root: Path) -> None:
    migrate(Lake.open(root))


def _export(root: Path) -> None:
    export(Lake.open(root), root.parent / "out.duckdb", force=True)


def _nothing(root: Path) -> None:
    pass


ACTIVITIES: Mapping[str, Activity] = {
    "create": Activity(_create, _nothing),
    "collect": Activity(_collect, make),
    "checkpoint": Activity(_checkpoint, make),
    "import": Activity(_import, make),
    "result": Activity(_result, make),
    "compact": Activity(_compact, make),
    "forget": Activity(_forget, make),
    "gc": Activity(_gc, _with_garbage),
    "migrate": Activity(_migrate, _in_format_1),
    "export": Activity(_export, make),
}


# --- what is shown -------------------------------------------------------------------------------------------


def state(root: Path) -> State:
    """What a lake shows. Raises LosslakeError where a manifest is damaged."""
    found = {}
    for folder in ("lake.json", "experiments", "runs", "designs", "results"):
        place = root / folder
        for path in [place] if place.is_file() else place.rglob("*.json"):
            text = re.sub(r"[0-9a-f]{24}(?=[-.])", "TOKEN", path.read_text())
            content = manifest.upgraded(json.loads(text))
            content.pop("checksum")
            content.pop("created", None)
            for file in content.get("files", []):  # in which file rows lie is of no matter
                file |= {"path": None, "bytes": None, "shared": None}
            if path.parent.name == "experiments":
                forgotten = [each["samples"] for each in content.pop("forgotten", [])]
                content["forgets"] = sorted({sample for samples in forgotten for sample in samples})
            found[path.relative_to(root).as_posix()] = content
    return found


@dataclass
class Passage:
    """The way from one state to another. ``seen`` has what each manifest says at any moment when nothing disturbs it."""

    before: State
    after: State
    seen: dict[str, list[Any]] = field(default_factory=dict)

    def note(self, shown: State) -> None:
        """Add what is shown at one moment."""
        for path, content in shown.items():
            if content not in self.seen.setdefault(path, []):
                self.seen[path].append(content)

    def check(self, root: Path) -> None:
        """Raises Broken unless a lake somewhere on the way is whole and shows nothing else."""
        shown = state(root)
        if (root / "lake.json").exists() and (damage := verify(Lake.open(root)).damage):
            raise Broken(f"damage: {damage[0]}")
        for path, content in shown.items():
            if content not in self.seen.get(path, []):
                raise Broken(f"{path} says what it never should: {str(content)[:300]}")
        for path in self.before.keys() & self.after.keys():
            if path not in shown:
                raise Broken(f"{path} is gone")

    def check_done(self, root: Path) -> None:
        """Raises Broken unless a lake has arrived, is whole, and no garbage stays in it for good."""
        shown = state(root)
        wrong = [path for path in self.after.keys() | shown.keys() if shown.get(path) != self.after.get(path)]
        if wrong:
            raise Broken(f"{min(wrong)} is not as it is after an undisturbed end")
        tidy(Lake.open(root))
        found = verify(Lake.open(root))
        if found.damage or found.leftovers:
            raise Broken(f"at the end: {(*found.damage, *found.leftovers)[0]}")


def copy(root: Path, target: Path) -> Path:
    """Another lake like one; nothing where there is none."""
    shutil.rmtree(target, ignore_errors=True)
    if root.exists():
        shutil.copytree(root, target)
    return target
