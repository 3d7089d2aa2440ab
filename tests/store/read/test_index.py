"""The index of runs spares reading manifests, and is never believed over them."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from losslake.store.errors import LosslakeError
from losslake.store.files.local import LocalFiles
from losslake.store.format import manifest, paths
from losslake.store.format.records import Run, RunInfo
from losslake.store.format.schema import FORMAT
from losslake.store.lake import Lake
from losslake.store.read import catalogue
from losslake.store.upkeep import forget as forgetting
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.forget import forget
from losslake.store.upkeep.gc import collect_garbage
from losslake.store.upkeep.remove import remove
from losslake.store.upkeep.verify import verify
from losslake.store.write import index, results, run_writer
from losslake.store.write.index import write_index
from losslake.store.write.results import save_result

N, RUNS = 8, 12
INDEX = "index/experiment=e/runs.json"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few runs are enough for an index, and it need not wait for the disk's clock; nobody writes one unasked."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(catalogue, "LEAST", 4)
    monkeypatch.setattr(index, "LEAST", 4)
    monkeypatch.setattr(index, "SETTLED", -0.1)
    for module in (run_writer, results):
        monkeypatch.setattr(module, "index_if_worth", lambda *_: None)


def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes into the lake writes the index where it is worth it, as always."""
    monkeypatch.setattr(index, "_AGAIN", 0.0)
    for module in (run_writer, results):
        monkeypatch.setattr(module, "index_if_worth", index.index_if_worth)


def add_runs(lake: Lake, *runs: str, signals: bool = True) -> None:
    ids = np.arange(N)
    for number, run in enumerate(runs):
        with lake.write_run("e", run, members=ids % 2 == number % 2) as writer:
            writer.append_traces("eval", ids, loss=np.full((N, 3), number, np.float32))
            if signals:
                writer.append_signals(ids, ids * 0, ids % 3, loss=np.ones(N), phi=np.ones(N) * number)
            extra = {"distilled_on": {"pool": "audit", "samples": "VQ=="}} if run == "run-02" else {}
            writer.commit(RunInfo(role="shadow", seed=number, recipe={"lr": 0.1}, extra=extra))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Lake.open(tmp_path_factory.mktemp("made") / "lake", create=True)
    samples = pa.table({"label": np.arange(N) % 3, "key": [f"key {i}" for i in range(N)]})
    made.create_experiment("e", samples, dataset={"classes": ["one", "two", "three"]})
    add_runs(made, *(f"run-{r:02d}" for r in range(RUNS)))
    return Path(made.path)


@pytest.fixture
def lake(tmp_path: Path, made: Path) -> Lake:
    shutil.copytree(made, tmp_path / "lake", ignore=shutil.ignore_patterns("writers"))
    return Lake.open(tmp_path / "lake")


def by_manifests(lake: Lake) -> list[Run]:
    """The runs as the manifests say, whatever else lies there."""
    folder = Path(lake.path) / "runs/experiment=e"
    return [lake.run("e", path.stem) for path in sorted(folder.glob("*.json"))]


def reads(monkeypatch: pytest.MonkeyPatch, lake: Lake) -> Counter[str]:
    """Which manifests of runs are read when the runs are asked for."""
    seen: Counter[str] = Counter()
    real = LocalFiles.read

    def read(self: LocalFiles, path: str) -> bytes:
        seen[path] += 1
        return real(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFiles, "read", read)
        found = lake.runs("e")
    assert found == by_manifests(lake)
    return Counter({path: count for path, count in seen.items() if path.startswith("runs/")})


def rewritten(lake: Lake, change: Callable[[dict[str, Any]], object]) -> None:
    """Put an index with a right checksum that says something else."""
    content = manifest.load_as_written(lake.files, INDEX)
    change(content)
    body = json.dumps({**content, "checksum": manifest._checksum(content)}, indent=1, sort_keys=True)
    (Path(lake.path) / INDEX).write_text(body)


def entry_of(content: dict[str, Any], of: str, **change: object) -> None:
    entry = content["runs"][of]
    entry["manifest"] = json.dumps({**json.loads(entry["manifest"]), **change})


# --- what it spares -------------------------------------------------------------------------------------------


def test_what_is_indexed_is_not_read_and_all_else_is(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(reads(monkeypatch, lake)) == RUNS
    assert write_index(lake.files, "e") == RUNS
    assert reads(monkeypatch, lake) == {}
    add_runs(lake, "late")
    assert list(reads(monkeypatch, lake)) == ["runs/experiment=e/late.json"]
    add_runs(lake, "bare", signals=False)
    write_index(lake.files, "e")
    with lake.write_signals(lake.run("e", "bare"), members=np.arange(N) % 2 == 0) as writer:
        writer.append_signals(np.arange(N), np.zeros(N, int), None, loss=np.ones(N), phi=np.ones(N))
        writer.commit(RunInfo(role="reference"))
    assert list(reads(monkeypatch, lake)) == ["runs/experiment=e/bare.json"]
    assert lake.runs("e", "reference") == [lake.run("e", "bare")]
    compact(lake, "e", least=2)  # writes it anew
    assert reads(monkeypatch, lake) == {}
    assert all(file.shared for run in lake.runs("e") for file in run.files)
    with lake.connect() as connection:
        assert connection.sql("select count(*) from signals").fetchall() == [((RUNS + 2) * N,)]
    assert verify(lake).damage == ()


def test_equal_manifests_give_equal_bytes_and_many_may_write_it(lake: Lake, tmp_path: Path) -> None:
    write_index(lake.files, "e")
    place = Path(lake.path) / INDEX
    first = place.read_bytes()
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    assert write_index(lake.files, "e") == 0  # as it was
    lake.files.delete(INDEX)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: write_index(Lake.open(lake.path).files, "e"), range(24)))
    assert place.read_bytes() == first
    shutil.copytree(lake.path, tmp_path / "copy")  # with the times of files
    copied = Lake.open(tmp_path / "copy")
    assert write_index(copied.files, "e") == 0


def test_a_manifest_of_this_moment_is_left_out(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time may be that of what replaces it within the same tick of the disk's clock."""
    monkeypatch.setattr(index, "SETTLED", 300.0)
    folder = Path(lake.path) / "runs/experiment=e"
    for place in folder.glob("*.json"):
        os.utime(place)
    assert write_index(lake.files, "e") == 0
    for place in sorted(folder.glob("*.json"))[:9]:
        os.utime(place, (place.stat().st_atime, place.stat().st_mtime - 301))
    assert write_index(lake.files, "e") == 9
    assert sorted(reads(monkeypatch, lake)) == [f"runs/experiment=e/run-{r:02d}.json" for r in (9, 10, 11)]


def test_commits_write_few_entries_and_leave_few_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unasked(monkeypatch)
    made = Lake.open(tmp_path / "lake", create=True)
    made.create_experiment("e", pa.table({"label": np.zeros(N, int)}))
    written = []
    real = LocalFiles.put

    def put(self: LocalFiles, path: str, data: bytes, **given: Any) -> None:
        if path == INDEX:
            written.append(json.loads(data)["count"])
        real(self, path, data, **given)

    monkeypatch.setattr(LocalFiles, "put", put)
    total = 100
    for r in range(total):
        add_runs(made, f"run-{r:03d}", signals=False)
        made.runs("e")
        assert made.not_indexed["e"] <= max(4, r // index.PART) + 1
    assert written == sorted(set(written))
    assert sum(written) <= (index.PART + 2) * total


def test_who_keeps_a_result_writes_what_was_lacking(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    unasked(monkeypatch)
    scores = pa.table({"sample_id": np.arange(N), "member": np.arange(N) > 3, "score": np.arange(N) / 2})
    lake.runs("e")
    save_result(lake, "e", "loss", "run-00", "", options={}, notes=[], metrics=[], scores=scores)
    assert reads(monkeypatch, lake) == {}


# --- what it is worth where it is not as it should be ---------------------------------------------------------


def _other_format(content: dict[str, Any]) -> None:
    content["format"] = FORMAT + 1


BAD: dict[str, Callable[[Lake], object]] = {
    "gone": lambda lake: lake.files.delete(INDEX),
    "empty": lambda lake: (Path(lake.path) / INDEX).write_bytes(b""),
    "cut off": lambda lake: (Path(lake.path) / INDEX).write_bytes(lake.files.read(INDEX)[:-100]),
    "one byte": lambda lake: (Path(lake.path) / INDEX).write_bytes(
        lake.files.read(INDEX).replace(b"shadow", b"target", 1)
    ),
    "no JSON": lambda lake: (Path(lake.path) / INDEX).write_bytes(b"\x00" * 500),
    "deep": lambda lake: (Path(lake.path) / INDEX).write_bytes(b"[" * 200_000),
    "newer": lambda lake: rewritten(lake, _other_format),
    "of another": lambda lake: rewritten(lake, lambda content: content.update(experiment="f")),
    "no runs": lambda lake: rewritten(lake, lambda content: content.update(runs=[])),
    "no stamp": lambda lake: rewritten(lake, lambda content: content["runs"]["run-03"].pop("stamp")),
    "text": lambda lake: rewritten(lake, lambda content: content["runs"]["run-03"].update(manifest="{")),
    "deep text": lambda lake: rewritten(
        lake, lambda content: content["runs"]["run-03"].update(manifest="[" * 100_000)
    ),
    "a list": lambda lake: rewritten(lake, lambda content: content["runs"]["run-03"].update(manifest="[]")),
    "another run": lambda lake: rewritten(lake, lambda content: entry_of(content, "run-03", run="run-04")),
    "no members": lambda lake: rewritten(lake, lambda content: entry_of(content, "run-03", members=-1)),
    "a file elsewhere": lambda lake: rewritten(
        lake,
        lambda content: entry_of(
            content,
            "run-03",
            files=[
                {"table": "signals", "path": "../secret.parquet", "rows": 1, "bytes": 1, "sha256": "0" * 64}
            ],
        ),
    ),
    "more runs": lambda lake: rewritten(
        lake, lambda content: content["runs"].update({"more": content["runs"]["run-03"]})
    ),
    "the parent": lambda lake: rewritten(
        lake, lambda content: content["runs"].update({"../../lake": content["runs"]["run-03"]})
    ),
    "old": lambda lake: rewritten(
        lake,
        lambda content: (
            content["runs"]["run-03"].update(stamp="7 7"),
            entry_of(content, "run-03", members=99),
        ),
    ),
    "no stamps": lambda lake: rewritten(
        lake,
        lambda content: (content["runs"]["run-03"].update(stamp=""), entry_of(content, "run-03", members=99)),
    ),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=list(BAD))
def test_a_bad_index_changes_nothing(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, bad: Callable[[Lake], object]
) -> None:
    write_index(lake.files, "e")
    bad(lake)
    reads(monkeypatch, lake)
    add_runs(lake, "late")
    assert len(lake.sql("from runs")) == RUNS + 1
    forget(lake, "e", [1])
    remove(lake, "e", ["run-00"])
    collect_garbage(lake)
    assert len(lake.runs("e")) == RUNS
    write_index(lake.files, "e")
    assert reads(monkeypatch, lake) == {}
    assert (verify(lake).damage, verify(lake).remembered) == ((), ())


def test_a_folder_in_its_place_changes_nothing(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    (Path(lake.path) / INDEX).mkdir(parents=True)
    assert len(reads(monkeypatch, lake)) == RUNS
    unasked(monkeypatch)
    add_runs(lake, "late")
    assert len(lake.sql("from runs")) == RUNS + 1
    assert INDEX in verify(lake).damage[0]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cut off", f"{INDEX} in "),
        ("newer", f"{INDEX} in "),
        ("text", "says of runs/experiment=e/run-03.json what is not so"),
        ("a file elsewhere", "says of runs/experiment=e/run-03.json what is not so"),
    ],
)
def test_verify_names_a_bad_index(lake: Lake, name: str, told: str) -> None:
    write_index(lake.files, "e")
    BAD[name](lake)
    (sentence,) = verify(lake).damage
    assert INDEX in sentence
    assert told in sentence


def test_an_index_of_a_run_that_is_gone_is_no_damage_and_goes_with_gc(lake: Lake) -> None:
    """Whoever removed the run, or wrote the index beside, was killed: nobody reads what it says, and it has to go."""
    write_index(lake.files, "e")
    BAD["more runs"](lake)
    found = verify(lake)
    assert found.damage == ()
    assert "speaks of runs/experiment=e/more.json, which is not there any more" in found.remembered[0]
    assert collect_garbage(lake).removed == (INDEX,)
    assert (verify(lake).damage, verify(lake).remembered) == ((), ())


def test_verify_names_a_forged_role_and_deleting_the_index_mends_it(lake: Lake) -> None:
    write_index(lake.files, "e")
    told = json.loads(json.loads(lake.files.read(INDEX))["runs"]["run-03"]["manifest"])["info"]
    rewritten(lake, lambda content: entry_of(content, "run-03", info={**told, "role": "target"}))
    assert "says of runs/experiment=e/run-03.json what is not so; delete it" in verify(lake).damage[0]
    lake.files.delete(INDEX)
    assert {run.info.role for run in lake.runs("e")} == {"shadow"}


def test_a_lake_that_cannot_be_written_opens_and_a_commit_stands(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    unasked(monkeypatch)
    real = LocalFiles.put

    def put(self: LocalFiles, path: str, data: bytes, **given: Any) -> None:
        if path == INDEX:
            raise LosslakeError("no room")
        real(self, path, data, **given)

    monkeypatch.setattr(LocalFiles, "put", put)
    add_runs(lake, "late")
    assert len(lake.runs("e")) == RUNS + 1
    assert not lake.files.exists(INDEX)


# --- what must not stay in it ---------------------------------------------------------------------------------


def meanwhile(
    monkeypatch: pytest.MonkeyPatch, lake: Lake, act: Callable[[], object], before: str = "put"
) -> None:
    """Write the index while something else is done: before or after it is put."""
    real, done = LocalFiles.put, []

    def put(self: LocalFiles, path: str, data: bytes, **given: Any) -> None:
        first = path == INDEX and not done
        if first:
            done.append(path)
        if first and before == "put":
            act()
        real(self, path, data, **given)
        if first and before != "put":
            act()

    with monkeypatch.context() as patch:
        patch.setattr(LocalFiles, "put", put)
        write_index(lake.files, "e")
    assert done


ACTS: dict[str, Callable[[Lake], object]] = {
    "forget": lambda lake: forget(lake, "e", [1]),
    "remove a run": lambda lake: remove(lake, "e", ["run-03"]),
    "remove all": lambda lake: remove(lake, "e"),
}


@pytest.mark.parametrize("when", ["before", "put", "after"])
@pytest.mark.parametrize("name", list(ACTS))
def test_nothing_stays_of_what_was_forgotten_or_removed(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, name: str, when: str
) -> None:
    if when == "before":
        write_index(lake.files, "e")
        ACTS[name](lake)
    else:
        meanwhile(monkeypatch, lake, lambda: ACTS[name](lake), before=when)
    if (name, when) == ("forget", "before"):  # who forgets writes it anew
        assert json.loads(lake.files.read(INDEX))["forgotten"] == [1]
        assert lake.runs("e") == by_manifests(lake)
        assert lake.not_indexed["e"] == 0
    else:
        assert not lake.files.exists(INDEX)
    assert (verify(lake).damage, verify(lake).remembered) == ((), ())


@pytest.mark.parametrize("name", list(ACTS))
def test_what_a_killed_writer_left_in_it_is_named_and_goes(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def killed(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(index, "_holds", killed)
        patch.setattr(forgetting, "write_index", lambda *given, **named: 0)  # the killed one puts it last
        with pytest.raises(KeyboardInterrupt):
            meanwhile(monkeypatch, lake, lambda: ACTS[name](lake))
    assert lake.files.exists(INDEX)
    found = verify(lake)
    assert any(INDEX in sentence for sentence in (*found.damage, *found.remembered))
    if name != "remove all":
        assert lake.runs("e") == by_manifests(lake)
    if name == "forget":
        forget(lake, "e")
    elif name == "remove a run":
        remove(lake, "e", ["run-04"])
    else:
        assert paths.index("e") in collect_garbage(lake, older_than=timedelta(0)).removed
    assert not lake.files.exists(INDEX)
    assert (verify(lake).damage, verify(lake).remembered) == ((), ())


def test_keys_and_class_names_are_in_no_index(lake: Lake) -> None:
    write_index(lake.files, "e")
    told = lake.files.read(INDEX)
    assert not any(word in told for word in (b"key 1", b"three"))
    with_set = b"distilled_on"
    assert with_set in told  # what runs tell of samples is there as in their manifests, and goes with them
    forget(lake, "e", [1])
    write_index(lake.files, "e")
    content = json.loads(json.loads(lake.files.read(INDEX))["runs"]["run-02"]["manifest"])
    assert content == manifest.load(lake.files, "runs/experiment=e/run-02.json")
