"""Every JSON file of a lake: what is not as its kind says is refused where it is read, named by verify, and costs itself alone."""

from __future__ import annotations

import copy
import random
import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from losslake.store.errors import CorruptLake, InvalidInput, LosslakeError
from losslake.store.files.tokens import new_token
from losslake.store.format import manifest, paths
from losslake.store.format.contents import DEEPEST, place_of
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.read.catalogue import results
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.forget import forget
from losslake.store.upkeep.gc import collect_garbage
from losslake.store.upkeep.verify import verify
from losslake.store.write import leases, processes
from losslake.store.write.checkpoints import CheckpointWriter, find_checkpoints
from losslake.store.write.results import save_result

N = 6
NOW = manifest.now()


def make(lake: Lake, name: str) -> None:
    labels = pa.table({"label": np.arange(N)})
    told = {"spec": "digits", "name": "digits", "classes": [*"abcdef"]}
    lake.create_experiment(name, labels, dataset=told, pictures=pa.array([b"png"] * N))
    extra = {
        "recording": {"queries": [[0]]},
        "design": {"design": "bernoulli", "probability": 0.5, "count": 2, "first": 0, "seed": 1},
        "dp": {"epsilon": 1.0, "delta": 1e-5},
        "loss": "cross-entropy",
        "sample_id": 3,
        "mine": {"anything": 1},
    }
    for run in ("a", "b"):
        with lake.write_run(name, run, members=np.arange(N) % 2 == 0) as writer:
            ids = np.arange(N)
            writer.append_signals(ids, ids * 0, ids, loss=np.ones(N), phi=np.ones(N))
            writer.append_epoch("eval", 0, ids, loss=np.ones(N))
            writer.commit(
                RunInfo(
                    role="shadow",
                    seed=1,
                    epochs=2,
                    train_accuracy=0.5,
                    seconds=1.5,
                    recipe={"lr": 0.1},
                    extra=extra,
                )
            )
    scores = pa.table({"sample_id": ids, "member": ids > 3, "score": np.ones(N)})
    metrics = [{"metric": "auc", "value": 0.5, "ci_low": 0.1, "ci_high": 0.9, "n": 6, "fpr": 0.1}]
    save_result(lake, name, "x", "a", "v=1", options={"v": 1}, notes=["n"], metrics=metrics, scores=scores)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with a JSON file of every kind."""
    lake = Lake.open(tmp_path_factory.mktemp("everything") / "lake", create=True)
    for name in ("bad", "good"):
        make(lake, name)
    forget(lake, "bad", [5])
    compact(lake, "bad", least=2)
    save_result(lake, "bad", "x", "a", "v=1", options={"v": 1}, notes=["n"], metrics=[], scores=None)
    lake.add_design("bad", "shadow", 0, {"design": "paired", "count": 2, "first": 0, "seed": 1})
    put = lake.files.put
    put(paths.removal("gone"), manifest.dump({"kind": "removal", "experiment": "gone", "begun": NOW}))
    writer = "ab" * 8  # of a process that has ended
    where = {"host": processes.host_identity(), "pid": 1 << 30, "started": 1}
    lease = {"kind": "writer", "writer": writer, "created": NOW}
    put(paths.lease(writer), manifest.dump({**lease, **where}))
    claim = {"kind": "claim", "what": "experiment=bad", "created": NOW}
    put(f"claims/experiment=bad/{writer}00000001.json", manifest.dump({**claim, **where}))
    put(f"claims/clock/{writer}00000002.json", manifest.dump({"kind": "clock"}))
    begun = {"kind": "begun", "experiment": "bad", "run": "c"}
    put(paths.begun_file("bad", "c", f"{writer}00000003"), manifest.dump(begun))
    checkpoints = CheckpointWriter(lake.files, "bad", "c", new_token(lake.path))
    checkpoints.add_piece(b"piece")
    checkpoints.write(2, "key", b"state", {"epoch": 2})
    return Path(lake.path)


KINDS = (
    "lake",
    "experiment",
    "run",
    "result",
    "design",
    "removal",
    "writer",
    "claim",
    "clock",
    "begun",
    "checkpoint",
)
ALONE = ("result", "design", "removal", "writer", "claim", "clock", "begun", "checkpoint")
"""What costs itself when it is bad, and stops nothing else."""


def file_of(root: Path, kind: str) -> str:
    """The first file of a kind; of experiments and runs one of the experiment called bad."""
    found = sorted(str(path.relative_to(root)) for path in root.rglob("*.json"))
    own = tokenless(root)
    return next(
        path for path in found if place_of(path)[0] == kind and path not in own and "good" not in path
    )


def tokenless(root: Path) -> set[str]:
    """The lease of this process, which is at work."""
    return {str(path.relative_to(root)) for path in root.glob("writers/*.json") if "abab" not in path.name}


def spots_in(content: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield (*at, key)
            yield from spots_in(content[key], (*at, key))


def forged(content: dict[str, Any], spot: tuple[Any, ...], value: Any) -> dict[str, Any]:
    content = copy.deepcopy(content)
    inside: Any = content
    for key in spot[:-1]:
        inside = inside[key]
    inside[spot[-1]] = value
    return content


FREE = {
    ("info", "recipe"), ("info", "versions"), ("info", "extra", "mine"), ("options",), ("dataset", "spec"), ("facts",),
    ("info", "extra", "recording", "queries"), ("metrics", "fpr"),
}  # fmt: skip
"""Below these anything may stand: they are the collector's, the trainer's and the caller's own."""

NULL = {
    *((f"info.{name}") for name in ("seed", "epochs", "parent", "train_accuracy", "test_accuracy", "seconds")),
    *(f"info.extra.{name}" for name in ("recording", "design", "dp", "loss", "sample_id", "dp.epsilon")),
    *(f"info.extra.design.{name}" for name in ("design", "probability", "count", "first", "seed")),
    *(f"metrics.{name}" for name in ("value", "ci_low", "ci_high", "n")),
    "dataset.name", "dataset.classes", "started", "forgotten.finished",
    *(f"design.{name}" for name in ("design", "count", "first", "seed")),
}  # fmt: skip
"""What may be null, by name without the numbers of lists. Of a list of names of classes each may."""


def named(spot: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(key for key in spot if isinstance(key, str))


def is_free(spot: tuple[Any, ...]) -> bool:
    return any(named(spot)[: len(free)] == free for free in FREE)


def wrong_for(value: Any, spot: tuple[Any, ...]) -> list[Any]:
    """Values of other types than a value that is right, and of its own that none may have."""
    nullable = ".".join(named(spot)) in NULL or (named(spot) == ("dataset", "classes") and len(spot) == 3)
    wrong: list[Any] = [True, [[]], *([] if nullable or value is None else [None])]
    if isinstance(value, str):
        wrong += [{}]
        wrong += [5] if named(spot) != ("dataset", "classes") else []
        wrong += ["\ud800"] if spot[0] != "dataset" else []  # which reports show as they can
    elif isinstance(value, int):
        wrong += [2**70, "1", -(2**70)]
    elif isinstance(value, float):
        wrong += [10**400, "1", {}]
    elif isinstance(value, list | dict):
        wrong += ["x", 5, 1.5]
    return wrong


def rewrite(root: Path, path: str, content: dict[str, Any]) -> None:
    content = {name: value for name, value in content.items() if name != "checksum"}
    (root / path).chmod(0o600)
    (root / path).write_bytes(manifest.dump(content))


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_of_another_kind_is_refused_anywhere(everything: Path, tmp_path: Path, kind: str) -> None:
    root = Path(shutil.copytree(everything, tmp_path / "lake"))
    path = file_of(root, kind)
    files = Lake.open(everything).files
    good = manifest.load(files, path)
    lake_files = Lake.open(root).files
    tried = 0
    for spot in spots_in(good):
        if is_free(spot) or spot == ("format",):
            continue
        inside: Any = good
        for key in spot:
            inside = inside[key]
        for value in wrong_for(inside, spot):
            rewrite(root, path, forged(good, spot, value))
            try:
                manifest.load(lake_files, path)
            except CorruptLake as error:
                told = str(error)
            else:
                pytest.fail(f"{spot} may be {value!r}")
            assert path in told
            tried += 1
    assert tried > 3
    if kind in ("experiment", "run", "result", "checkpoint"):
        assert tried > 60


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_out_is_missed(everything: Path, tmp_path: Path, kind: str) -> None:
    root = Path(shutil.copytree(everything, tmp_path / "lake"))
    path = file_of(root, kind)
    good = manifest.load(Lake.open(everything).files, path)
    may = (
        {"forgotten", "created"}
        if kind in ("experiment", "result", "checkpoint", "writer", "lake")
        else set()
    )
    may |= {"host", "pid", "started"} if kind == "claim" else set()
    if kind in ("experiment", "checkpoint"):
        may.remove("created")
    files = Lake.open(root).files
    for name in set(good) - may - {"format"}:
        rewrite(root, path, {key: value for key, value in good.items() if key != name})
        with pytest.raises(CorruptLake):
            manifest.load(files, path)


RAW = {
    "nothing": b"", "no JSON": b"{", "NUL": b"\0" * 100, "not UTF-8": b"\xff\xfe", "list": b"[]", "null": b"null",
    "deep": b'{"format":2,"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "huge number": b'{"format":2,"a":' + b"9" * 100_000 + b"}", "no checksum": b'{"format":2,"kind":"run"}',
}  # fmt: skip

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**70, 10**400, 1e400, float("nan"), "", "x", "\0", "../../etc/passwd", "a" * 100_000, [], {}, [None],
    {"a": 1}, [[[]]], "e\ud800", "a\nb", ["x"], [2**70], {"a": {"b": [[]]}},
)  # fmt: skip


def deep(times: int) -> Any:
    value: Any = 1
    for _ in range(times):
        value = [value]
    return value


def look_at_everything(lake: Lake) -> None:
    """All that reads the small files of a lake, in an experiment that has them."""
    assert lake.sql("select count(*) from runs").item() == 4
    assert lake.sql("select count(*) from metrics where experiment = 'good'").item() == 1
    assert [len(lake.runs(name)) for name in lake.experiments()] == [2, 2]
    results(lake, "bad")
    find_checkpoints(lake.files, "bad", "c")
    leases.states(lake.files)
    collect_garbage(lake, older_than=timedelta(hours=1), dry_run=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_file_costs_itself_and_is_named(everything: Path, tmp_path: Path, kind: str) -> None:
    root = Path(shutil.copytree(everything, tmp_path / "lake"))
    path = file_of(root, kind)
    good = (root / path).read_bytes()
    content = manifest.load(Lake.open(everything).files, path)
    rng = random.Random(7)
    forgeries: list[bytes] = [*RAW.values()]
    spots = [spot for spot in spots_in(content) if spot != ("format",)]
    tries = [(spot, value) for spot in spots for value in (*rng.sample(VALUES, 2), deep(60))]
    tries = rng.sample(tries, min(len(tries), 4))
    forgeries += [manifest.dump(forged(content, spot, value)) for spot, value in tries]
    refused = 0
    until = time.monotonic() + 60
    for data in forgeries:
        (root / path).chmod(0o600)
        (root / path).write_bytes(data)
        try:
            lake = Lake.open(root)
        except LosslakeError:
            assert kind == "lake"
            refused += 1
            continue
        try:
            manifest.load(lake.files, path)
            bad = False
        except CorruptLake:
            bad = True
        refused += bad
        told = verify(lake)
        # A sign in staging/ may be lost in a failure of power.
        assert any(path in one for one in told.damage) == (bad and not (kind == "begun" and data == b"")), (
            data[:300]
        )
        if kind in ALONE or not bad:
            look_at_everything(lake)
        else:
            for read in (lambda: look_at_everything(lake), lambda: lake.sql("from runs")):  # noqa: B023
                with pytest.raises(LosslakeError, match=path.rpartition("/")[2]):
                    read()
            with lake.connect("good") as connection:  # another experiment stands
                assert connection.sql("select count(*) from runs").fetchall() == [(2,)]
            assert len(lake.runs("good")) == 2
        assert time.monotonic() < until
    assert refused >= len(RAW)
    (root / path).write_bytes(good)
    assert verify(Lake.open(root)).damage == verify(Lake.open(everything)).damage


def test_a_bad_result_or_lease_or_claim_or_mark_keeps_nobody_from_forgetting(
    everything: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(everything, tmp_path / "lake"))
    for kind in ALONE:
        path = root / file_of(root, kind)
        path.chmod(0o600)
        path.write_bytes(b'{"format": 2, "kind": 7}')
    bad = {one.split()[0] for one in verify(Lake.open(root)).damage}
    assert len(bad) >= len(ALONE)
    lake = Lake.open(root)
    claim = next(root.glob("claims/experiment=bad/*.json"))
    claim.unlink()  # of which nobody can tell whose it is, so it counts for a while
    assert forget(lake, "bad", [1]).rows["samples"] == 1


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    labels = pa.table({"label": [0, 1]})
    for told in ({"classes": 5}, {"name": ["x"]}, {"a": deep(DEEPEST)}):
        with pytest.raises(InvalidInput, match="cannot be stored"):
            lake.create_experiment("e", labels, dataset=told)
    assert lake.experiments() == []
    lake.create_experiment("e", labels)
    members = np.array([True, False])
    extras: tuple[dict[str, Any], ...] = (
        {"loss": 3},
        {"design": "mine"},
        {"dp": {"epsilon": "x"}},
        {"a": deep(DEEPEST)},
    )
    for extra in extras:
        with lake.write_run("e", "r", members=members) as writer:
            writer.append_epoch("eval", 0, [0, 1], loss=[1.0, 2.0])
            with pytest.raises(InvalidInput, match="cannot be stored"):
                writer.commit(RunInfo(role="target", extra=extra))
    assert lake.runs("e") == []
    with pytest.raises(InvalidInput, match="cannot be stored"):
        lake.add_design("e", "shadow", 0, {"first": "x"})
    assert lake.designs("e", "shadow") == []


def test_every_json_file_of_a_lake_has_a_kind(everything: Path) -> None:
    kinds = {place_of(str(path.relative_to(everything)))[0] for path in everything.rglob("*.json")}
    assert kinds == set(KINDS)
