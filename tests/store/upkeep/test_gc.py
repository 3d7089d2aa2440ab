"""Garbage collection removes what nobody will finish, and never what a writer or a reader still needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from losslake.analysis.attacks.logits import lists_of
from losslake.analysis.scoring.catalogue import open_source
from losslake.cli import cli
from losslake.store.errors import CorruptLake, InvalidOption
from losslake.store.files import local as local_files
from losslake.store.files import stable, tokens
from losslake.store.files.local import LocalFiles
from losslake.store.format import manifest, paths
from losslake.store.format.records import RunInfo
from losslake.store.format.text import age, parse_age, took
from losslake.store.lake import Lake
from losslake.store.read import changes
from losslake.store.read.catalogue import read_result, results
from losslake.store.read.changes import TRIES, read_again
from losslake.store.upkeep import gc
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.forget import forget
from losslake.store.upkeep.gc import collect_garbage
from losslake.store.upkeep.runs import running
from losslake.store.upkeep.verify import verify
from losslake.store.write import leases, processes
from losslake.store.write.checkpoints import CheckpointWriter
from losslake.store.write.results import save_result
from losslake.store.write.run_writer import RunWriter
from machines import one_by_one
from warm import STORE, warm_python

N = 8
IDS = np.arange(N)
NOW = timedelta()
SCORES = pa.table({"sample_id": IDS, "member": IDS > 3, "score": IDS / 2})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.open(tmp_path / "lake", create=True)
    lake.create_experiment("e", pa.table({"label": np.zeros(N, np.int32)}))
    return lake


def start(lake: Lake, run: str = "r") -> RunWriter:
    return lake.write_run("e", run, members=IDS % 2 == 0)


def fill(writer: RunWriter) -> None:
    for epoch in range(3):
        writer.append_epoch("eval", epoch, IDS, loss=IDS + epoch)
    writer.append_traces("train", IDS[::2], loss=np.ones((N // 2, 3)))
    for query in (0, 1):
        writer.append_signals(IDS, np.full(N, query), None, loss=IDS / 2, phi=IDS / 4)


def check_whole(lake: Lake, run: str = "r") -> None:
    where = {"run": run}
    assert lake.sql("select sum(loss), count(*) from signals where run = $run", where).row(0) == (28, 2 * N)
    points = "select source, sum(loss), count(*) from trace_points where run = $run group by source order by source"
    assert lake.sql(points, where).rows() == [("eval", 3 * 28 + 24, 24), ("train", 12, 12)]
    assert verify(lake).damage == ()


def write(lake: Lake, run: str = "r") -> None:
    with start(lake, run) as writer:
        fill(writer)
        writer.commit(RunInfo(role="target"))


def leave(lake: Lake, run: str = "r") -> RunWriter:
    """What a writer leaves that never ends: epochs, traces, and signals."""
    writer = start(lake, run)
    fill(writer)
    assert writer._signals is not None
    writer._signals.close()
    return writer


def keep(lake: Lake, **changed: Any) -> None:
    given: dict[str, Any] = {"options": {}, "notes": [], "metrics": [], "scores": SCORES} | changed
    save_result(lake, "e", "x", "r", "", **given)


def kill_writer(lake: Lake, **changed: object) -> None:
    """From now on this process counts as another one, and what it wrote so far as written by one that was killed."""
    path = paths.lease(tokens.process_part(lake.path))
    started = processes.start_time(os.getpid())
    content = manifest.load(lake.files, path) | {"started": (started or 1) - 1, **changed}
    lake.files.put(path, manifest.dump(content))
    tokens.forget_process(lake.path)


def end_writer(lake: Lake) -> None:
    """The same for one that ended and took its lease along."""
    lake.files.delete(paths.lease(tokens.process_part(lake.path)))
    tokens.forget_process(lake.path)


def grow_old(lake: Lake, seconds: float, pattern: str = "**/*") -> None:
    for path in Path(lake.path).glob(pattern):
        if path.is_file():
            os.utime(path, (time.time() - seconds,) * 2)


def files_below(lake: Lake) -> set[str]:
    root = Path(lake.path)
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


# --- killed writers ---------------------------------------------------------------------------------------

VICTIM = """
import os, sys
import numpy as np
from losslake.store.files import local as local_files
from losslake.store.lake import Lake
from losslake.store.format.records import RunInfo
from losslake.store.write.results import save_result
lake = Lake.open(sys.argv[1])
ids = np.arange(8)
def die(*_): os.kill(os.getpid(), 9)
where = sys.argv[2]
if where == "result":
    local_files.os.replace = lambda a, b: die() if "results" in b else os.rename(a, b)
    import pyarrow as pa
    scores = pa.table({"sample_id": ids, "member": ids > 3, "score": ids / 2})
    save_result(lake, "e", "x", "r", "", options={}, notes=[], metrics=[], scores=scores)
writer = lake.write_run("e", "r", members=ids % 2 == 0)
for epoch in range(3):
    writer.append_epoch("eval", epoch, ids, loss=ids + epoch)
if where == "epochs": die()
writer.append_signals(ids, ids * 0, None, loss=ids / 2, phi=ids / 4)
if where == "signals": die()
if where == "claim": local_files.os.link = die
if where == "commit": type(writer)._drop_staging = die
writer.commit(RunInfo(role="target"))
"""


@pytest.mark.parametrize("where", ["epochs", "signals", "claim", "commit", "result"])
def test_what_a_killed_writer_left_goes_at_once(lake: Lake, where: str) -> None:
    before = files_below(lake)
    done = subprocess.run([*warm_python(STORE), "-c", VICTIM, lake.path, where], check=False)
    assert done.returncode == -9
    committed = where == "commit"
    left = verify(lake)
    assert left.damage == ()
    assert {left.writers[path] for path in left.leftovers} == {"killed"}
    wanted = [] if committed or where == "result" else [f"killed, epoch 2{', signals' * (where != 'epochs')}"]
    assert [one.state for one in running(lake, ["e"])] == wanted
    # The same run can be collected without a collection of garbage as well.
    if where == "epochs":
        write(lake)
        check_whole(lake)
    done_ = collect_garbage(lake)
    assert sorted(done_.removed) == sorted(left.leftovers)
    assert done_.kept == {}
    assert verify(lake).leftovers == ()
    if not committed and where != "epochs":
        assert files_below(lake) == before
        write(lake)
        check_whole(lake)
    assert lake.has_run("e", "r")


def test_of_a_killed_and_a_living_writer_of_one_run_the_living_one_counts(lake: Lake) -> None:
    leave(lake)
    kill_writer(lake)
    assert [one.state for one in running(lake, ["e"])] == ["killed, epoch 2, signals"]
    second = start(lake)
    second.append_epoch("eval", 0, IDS, loss=IDS)
    grow_old(lake, 100, "staging/**/eval-000000.arrow")
    assert [one.state for one in running(lake, ["e"])] == ["collecting, epoch 0"]
    collect_garbage(lake)
    assert [one.state for one in running(lake, ["e"])] == ["collecting, epoch 0"]
    second.discard()
    assert running(lake, ["e"]) == []


# --- writers at work --------------------------------------------------------------------------------------


@contextmanager
def collecting_all_the_time(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, most: int = 100_000
) -> Iterator[list[gc.Collected]]:
    """Collect garbage before everything that touches the disk, ``most`` times."""
    done: list[gc.Collected] = []
    busy: set[int] = (
        set()
    )  # threads: one that collects for long, as it is not let run, keeps no other from it
    others = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}

    def collect() -> None:
        me = threading.get_ident()
        if me in others:  # it renews the lease of another lake
            return
        if me not in busy and len(done) < most:
            busy.add(me)
            try:
                done.append(collect_garbage(lake, older_than=NOW))
            finally:
                busy.discard(me)

    class Watched:
        """The os module, as the file system's module sees it."""

        def __getattr__(self, name: str) -> Any:
            real = getattr(os, name)
            if name not in ("open", "fsync", "link", "replace", "unlink", "mkdir", "rmdir"):
                return real

            def call(*args: Any) -> Any:
                collect()
                return real(*args)

            return call

    with monkeypatch.context() as patch:
        patch.setattr(local_files, "os", Watched())
        patch.setattr(stable, "os", Watched())
        patch.setattr(stable, "AT_ONCE", 1)  # who syncs is who collects
        yield done


@pytest.mark.parametrize("clock", [0, -1e9, 1e9])
def test_a_writer_at_work_keeps_everything_at_every_moment(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, clock: float
) -> None:
    real = time.time
    monkeypatch.setattr(gc.time, "time", lambda: real() + clock)
    with collecting_all_the_time(lake, monkeypatch) as done:
        write(lake)
        keep(lake)
        lake.add_design("e", "shadows", 0, {})
        with start(lake, "left") as writer:
            fill(writer)
    assert len(done) > 30
    assert {path for each in done for path in each.removed} == set()
    check_whole(lake)
    assert verify(lake).leftovers == ()


def test_a_lake_is_made_and_first_written_to_while_garbage_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    monkeypatch.setattr(gc, "GRACE", NOW)
    with collecting_all_the_time(lake, monkeypatch, most=20) as done:
        lake.create_experiment("e", pa.table({"label": np.zeros(N, np.int32)}))
        write(lake)
    # Before the lease is there nothing says whose its own temporary file is: it went, and was written again.
    gone = [path for each in done for path in each.removed]
    assert len(gone) >= 3
    assert all(path.startswith("writers/.tmp-") for path in gone)
    check_whole(lake)


COLLECTOR = """
import sys
from datetime import timedelta
from losslake.store.upkeep.gc import collect_garbage
from losslake.store.lake import Lake
lake = Lake.open(sys.argv[1])
print("ready", flush=True)
while True:
    collect_garbage(lake, older_than=timedelta())
"""


@contextmanager
def beside(code: str, lake: Lake, *arguments: str) -> Iterator[None]:
    child = subprocess.Popen(
        [*warm_python(STORE), "-c", code, lake.path, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    try:
        yield
        assert child.poll() is None, child.communicate()[1]
    finally:
        child.kill()
        assert child.communicate()[1] == ""


def test_runs_are_written_beside_another_process_that_collects_garbage(lake: Lake) -> None:
    with beside(COLLECTOR, lake), beside(COLLECTOR, lake):
        for number in range(6):
            write(lake, f"run-{number}")
            keep(lake)
    for number in range(6):
        check_whole(lake, f"run-{number}")


# --- writers of whom less is known ------------------------------------------------------------------------


def test_of_writers_elsewhere_the_last_write_counts(lake: Lake) -> None:
    leave(lake)
    left = set(verify(lake).leftovers)
    kill_writer(lake, host="elsewhere")
    grow_old(lake, 7200)
    grow_old(lake, 2400, "staging/**/eval-000001.arrow")
    day = collect_garbage(lake, older_than=timedelta(minutes=50))
    assert day.removed == ()
    assert day.kept == {"of writers on other machines, written less than 50 min ago": len(left) + 1}
    assert verify(lake).writers[min(left)] == "elsewhere"
    assert [one.state for one in running(lake, ["e"])] == ["collecting, epoch 2, signals"]
    assert left < set(collect_garbage(lake, older_than=timedelta(minutes=5)).removed)
    assert verify(lake).leftovers == ()


def test_without_a_lease_there_is_a_short_grace(lake: Lake) -> None:
    leave(lake)
    end_writer(lake)
    assert set(verify(lake).writers.values()) == {"ended"}
    assert collect_garbage(lake, older_than=NOW).removed == ()
    grow_old(lake, 700)
    assert collect_garbage(lake).kept == {}
    assert verify(lake).leftovers == ()


def test_files_from_before_there_were_leases_go_by_their_age(lake: Lake) -> None:
    old = Path(lake.path) / "signals" / "experiment=e" / "run=r" / "0123456789abcdef.parquet"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"")
    (old.parent / "notes.txt").write_bytes(b"")
    assert collect_garbage(lake).removed == ()
    grow_old(lake, 90_000)
    done = collect_garbage(lake)
    assert done.removed == ("signals/experiment=e/run=r/0123456789abcdef.parquet",)
    assert done.kept == {"not named as losslake names its files": 1}


def test_files_from_the_future_stay(lake: Lake) -> None:
    start(lake).append_epoch("eval", 0, IDS, loss=IDS)
    end_writer(lake)
    grow_old(lake, -1e6)
    assert collect_garbage(lake).removed == ()


# --- what was replaced ------------------------------------------------------------------------------------


def test_scores_of_replaced_results_go_after_a_while(lake: Lake) -> None:
    write(lake)
    keep(lake)
    (first,) = lake.files.list("scores")
    keep(lake)
    assert collect_garbage(lake, older_than=NOW).kept == {"of writers at work": 1}
    end_writer(lake)
    grow_old(lake, 7200)
    keep(lake)  # replaces the second file now, the first went long ago: which is which cannot be told
    second, third = sorted(set(lake.files.list("scores")) - {first})
    kept = collect_garbage(lake)
    assert kept.removed == ()
    assert kept.kept == {"replaced less than 1 d ago, as far as one can tell": 2}
    grow_old(lake, 90_000)
    done = collect_garbage(lake)
    assert len(done.removed) == 2
    assert done.bytes > 0
    assert lake.sql("select sum(score) from scores").item() == 14
    assert verify(lake).damage == ()
    assert {second, third} & set(lake.files.list("scores"))


def test_signals_of_a_run_that_was_compacted_go_after_a_while(lake: Lake) -> None:
    write(lake)
    before = set(files_below(lake))
    rewrite(lake, "r")
    end_writer(lake)
    grow_old(lake, 1000, "signals/**/*")
    grow_old(lake, 1000, "traces/**/*")
    assert collect_garbage(lake).removed == ()
    done = collect_garbage(lake, older_than=NOW)
    assert set(done.removed) == {path for path in before if path.startswith(("signals/", "traces/"))}
    check_whole(lake)


def test_garbage_is_collected_after_a_compaction_and_what_is_left_verifies(lake: Lake) -> None:
    for run in ("a", "b", "c"):
        write(lake, run)
    before = {path for path in files_below(lake) if path.startswith(("signals/", "traces/"))}
    assert compact(lake, "e", least=2).files_after == 3
    end_writer(lake)
    grow_old(lake, 1000, "signals/**/*")
    grow_old(lake, 1000, "traces/**/*")
    assert collect_garbage(lake).removed == ()
    assert set(collect_garbage(lake, older_than=NOW).removed) == before
    for run in ("a", "b", "c"):
        check_whole(lake, run)
    found = verify(lake)
    assert found.leftovers == ()
    assert found.files == 4
    assert found.bytes == sum(path.stat().st_size for path in Path(lake.path).rglob("*.parquet"))
    for path in sorted(Path(lake.path).glob("packed/**/*.parquet")):
        data = path.read_bytes()
        path.write_bytes(data[:-1])
        assert len(verify(lake).damage) == 1
        path.write_bytes(data[:99] + bytes([data[99] ^ 1]) + data[100:])
        assert len(verify(lake).damage) == 1
        path.write_bytes(data)
    assert verify(lake).damage == ()


@pytest.mark.parametrize("name", ["first_row", "first_group", "groups"])
def test_a_part_of_a_shared_file_that_is_not_there_is_damage(lake: Lake, name: str) -> None:
    for run in ("a", "b", "c"):
        write(lake, run)
    compact(lake, "e", least=2)
    path = paths.run_manifest("e", "b")
    content = manifest.load(lake.files, path)
    content["files"][0]["shared"][name] += 1
    lake.files.put(path, manifest.dump(content))
    (sentence,) = verify(lake).damage
    assert sentence.startswith(content["files"][0]["path"])
    assert "which a manifest lists" in sentence


def test_nothing_goes_beside_a_damaged_manifest(lake: Lake) -> None:
    leave(lake, "b")
    for run in ("a", "b", "c"):
        write(lake, run)
    end_writer(lake)
    root = Path(lake.path) / "runs" / "experiment=e"
    (root / "a.json").write_bytes((root / "a.json").read_bytes()[:-9])
    (root / "b.json").rename(root / "d.json")
    grow_old(lake, 1e6)
    before = files_below(lake)
    done = collect_garbage(lake)
    # Of b is known what its manifest listed; what its second writer left may go.
    assert all(
        path.startswith(("staging/", "signals/experiment=e/run=b/", "traces/")) for path in done.removed
    )
    assert len(done.removed) == 6  # what says that it had begun is one of them
    assert len(done.damaged) == 2
    assert done.kept["beside a damaged manifest"] == 6
    assert files_below(lake) == before - set(done.removed)
    (root / "a.json").unlink()
    (root / "d.json").rename(root / "b.json")
    check_whole(lake, "b")
    check_whole(lake, "c")


def test_checkpoints_that_a_run_can_go_on_from_stay(lake: Lake) -> None:
    writer = start(lake)
    checkpoints = CheckpointWriter(lake.files, "e", "r", writer.token)
    checkpoints.write(1, "key", b"state", {})
    with lake.files.create(
        f"{paths.checkpoint_folder('e', 'r', writer.token)}/epoch-000002.safetensors"
    ) as file:
        file.write(b"half")
    kill_writer(lake)
    kept = {path for path in files_below(lake) if "epoch-000001" in path}
    done = collect_garbage(lake)
    assert [path.rpartition("/")[2] for path in done.removed if "checkpoints" in path] == [
        "epoch-000002.safetensors"
    ]
    assert kept <= files_below(lake)


# --- the command ------------------------------------------------------------------------------------------


def command(lake: Lake, *arguments: str) -> str:
    done = CliRunner().invoke(cli, ["lake", *arguments, "--lake", lake.path])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_commands_say_whose_leftovers_there_are_and_remove_them(lake: Lake) -> None:
    write(lake, "done")
    start(lake, "killed").append_epoch("eval", 7, IDS, loss=IDS)
    kill_writer(lake)
    writer = start(lake, "alive")
    writer.append_epoch("eval", 0, IDS, loss=IDS)
    epochs = [path for path in verify(lake).leftovers if path.endswith(".arrow")]
    killed, alive = sorted(epochs, key=lambda path: "alive" in path)
    told = command(lake, "verify")
    assert f"leftover: {killed} (its writer: killed)\n" in told
    assert f"leftover: {alive} (its writer: at work)\n" in told
    assert told.endswith(
        "0 damaged, 5 leftovers\nnote: losslake lake gc removes what killed writers left\n"
    )  # with what says that each has begun
    states = json.loads(command(lake, "runs", "--format", "json"))
    assert [row["state"] for row in states] == ["committed", "collecting, epoch 0", "killed, epoch 7"]
    before = files_below(lake)
    told = command(lake, "gc", "--dry-run")
    assert f"would remove: {killed}\n" in told
    assert files_below(lake) == before
    told = command(lake, "gc", "--older-than", "0")
    assert f"removed: {killed}" in told.splitlines()[:2]
    assert told.splitlines()[3] == "kept: 2 of writers at work"
    assert told.splitlines()[4].startswith("3 files, ")
    assert not (Path(lake.path) / killed).exists()
    assert command(lake, "gc").splitlines() == ["kept: 2 of writers at work", "0 files, 0 B"]
    writer.discard()
    assert command(lake, "gc").splitlines() == ["0 files, 0 B"]


def test_ages_in_words() -> None:
    for seconds, words in ((-5, "0 s"), (59.9, "59 s"), (60, "1 min"), (7300, "2 h"), (200_000, "2 d")):
        assert age(timedelta(seconds=seconds)) == words
    for took_seconds, words in (
        (0.44, "0.4 s"),
        (9.96, "10.0 s"),
        (45.2, "45 s"),
        (59.7, "1 min"),
        (200, "3 min 20 s"),
        (7501, "2 h 5 min"),
        (190_900, "2 d 5 h"),
    ):
        assert took(took_seconds) == words
    for text, seconds in (("0", 0), (" 90 s ", 90), ("30min", 1800), ("12h", 43_200), ("1d", 86_400)):
        assert parse_age(text) == timedelta(seconds=seconds)
    for text in ("", "1", "d", "-1d", "1 week", "1d 2h", "1e3s"):
        with pytest.raises(InvalidOption, match="no length of time"):
            parse_age(text)


# --- readers ----------------------------------------------------------------------------------------------


def rewrite(lake: Lake, run: str) -> None:
    """Replace a run's manifest by one that lists copies of its files, as compacting it would."""
    path = paths.run_manifest("e", run)
    content = manifest.load(lake.files, path)
    for file in content["files"]:
        old, token = file["path"], leases.token(lake.files)
        name = old.rpartition("/")[2][len(token) :]
        file["path"] = f"{old.rpartition('/')[0]}/{token}{name}"
        with lake.files.create(file["path"], durable=False) as copy:
            copy.write(lake.files.read(old))
    lake.files.put(path, manifest.dump(content))


REPLACER = """
import sys
import time
from datetime import timedelta
import numpy as np
import pyarrow as pa
from losslake.store.format import manifest, paths
from losslake.store.write import leases
from losslake.store.upkeep.gc import collect_garbage
from losslake.store.lake import Lake
from losslake.store.write.results import save_result
lake = Lake.open(sys.argv[1])
ids = np.arange(8)
scores = pa.table({"sample_id": ids, "member": ids > 3, "score": ids / 2})
def rewrite(run):
    path = paths.run_manifest("e", run)
    content = manifest.load(lake.files, path)
    replaced = []
    for file in content["files"]:
        old, token = file["path"], leases.token(lake.files)
        replaced.append(old)
        file["path"] = old.rpartition("/")[0] + "/" + token + old.rpartition("/")[2][len(token):]
        with lake.files.create(file["path"], durable=False) as copy:
            copy.write(lake.files.read(old))
    lake.files.put(path, manifest.dump(content))
    return replaced
print("ready", flush=True)
while True:
    time.sleep(float(sys.argv[2]))
    old = [path for run in ("r", "s") for path in rewrite(run)] + lake.files.list("scores")
    save_result(lake, "e", "x", "r", "", options={}, notes=[], metrics=[], scores=scores)
    for path in old:  # as a collection of garbage in another process would
        lake.files.delete(path)
    collect_garbage(lake, older_than=timedelta())
"""


def test_readers_beside_one_who_replaces_and_removes_what_they_read(lake: Lake) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(N, 3)).astype(np.float16)
    for run, role in (("r", "target"), ("s", "shadow")):
        with start(lake, run) as writer:
            fill(writer)
            writer.commit(RunInfo(role=role))  # type: ignore[arg-type]
    with start(lake, "logits") as writer:
        writer.append_signals(IDS, IDS * 0, None, loss=IDS / 2, phi=IDS / 4, logits=logits)
        writer.commit(RunInfo(role="shadow"))
    keep(lake)
    run = lake.run("e", "r")
    (result,) = results(lake, "e")
    first = {file.path for file in run.files}
    began = time.monotonic()
    lake.sql("from signals")
    pause = 2 * (time.monotonic() - began)  # so that a query has a chance, on a busy machine as well
    with open_source(lake, "e") as source, beside(REPLACER, lake, str(pause)):
        source.provide("mine", pa.table({"x": [1, 2]}))
        end = time.monotonic() + 2
        rounds = 0
        while time.monotonic() < end or rounds < 5:
            rounds += 1
            assert lake.sql("select sum(loss) from signals where run <> 'logits'").item() == 2 * 28
            assert lake.sql("select sum(score) from scores", arrow=True).num_rows == 1
            assert sum(lake.arrow("traces", "e")["member"].to_pylist()) == 2 * N
            assert [len(rows) for rows in lake.run_rows(run, "signals", columns=["phi"])] == [2 * N]
            assert source.sql("select count(*) from signals, mine where run = 'r'").item() == 4 * N
            frames = source.rows_of_each(source.runs, "signals", ["loss"])
            assert [len(frame) for frame in frames] == [N, 2 * N, 2 * N]
            assert source.rows(run, "traces", ["sample_id"]).height == N + N // 2
            assert read_result(lake, result)[1]["score"].to_pylist() == list(IDS / 2)
            assert list(lists_of(source, run, "logits")) == []
    assert first.isdisjoint(file.path for file in lake.run("e", "r").files)


def test_a_file_that_is_really_missing_is_named_at_once(lake: Lake) -> None:
    write(lake)
    keep(lake)
    (result,) = results(lake, "e")
    with open_source(lake, "e") as source:
        for path in (*lake.files.list("signals"), *lake.files.list("scores")):
            lake.files.delete(path)
        run = lake.run("e", "r")
        calls: list[Callable[[], object]] = [
            lambda: lake.sql("from signals"),
            lambda: lake.arrow("signals"),
            lambda: lake.run_rows(run),
            lambda: source.sql("from signals"),
            lambda: source.rows(run, "signals", ["phi"]),
            lambda: list(lists_of(source, run, "logits")),
        ]
        for call in calls:
            with pytest.raises(CorruptLake, match=r"signals/experiment=e/run=r/\w+\.parquet"):
                call()
        with pytest.raises(CorruptLake, match="scores/experiment=e"):
            read_result(lake, result)


def test_looking_again_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By tries and by time: a reader waits for who forgets in many runs, and is told what keeps it waiting."""
    looks: list[int] = []
    clock = SimpleNamespace(monotonic=lambda: clock.now, sleep=lambda s: setattr(clock, "now", clock.now + s))
    clock.now = 0.0
    monkeypatch.setattr(changes, "time", clock)

    def fail() -> None:
        raise CorruptLake("x is missing")

    with pytest.raises(CorruptLake, match="x is missing"):
        read_again(fail, lambda: looks.append(0))
    assert len(looks) == 2
    with pytest.raises(CorruptLake, match="x is missing"):
        read_again(fail, lambda: looks.append(0) or len(looks))
    assert TRIES < len(looks) < 50
    assert changes.PATIENCE <= clock.now < changes.PATIENCE + 5
    monkeypatch.setattr(changes, "PATIENCE", 0.0)
    looks.clear()
    with pytest.raises(CorruptLake, match="others replace what is read again and again"):
        read_again(fail, lambda: looks.append(0) or len(looks))
    assert len(looks) == TRIES


# --- two machines -----------------------------------------------------------------------------------------


def test_a_lease_just_renewed_keeps_old_files_whatever_the_age_asked_for(lake: Lake) -> None:
    leave(lake)
    process = tokens.process_part(lake.path)
    kill_writer(lake, host="elsewhere")
    grow_old(lake, 30 * 86400)
    os.utime(Path(lake.path) / paths.lease(process))
    done = collect_garbage(lake, older_than=NOW)
    assert done.removed == ()
    assert set(done.kept) == {"of writers on other machines, heard of less than 30 min ago"}


@pytest.mark.parametrize("hours", [-25, -1, 1, 25, 24 * 365])
def test_the_clock_of_the_machine_that_collects_says_nothing(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    writer = leave(lake)
    left = files_below(lake)
    kill_writer(lake, host="elsewhere")
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + 3600 * hours)
        assert collect_garbage(lake).removed == ()
    assert left <= files_below(lake)
    grow_old(lake, 2 * 86400)
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + 3600 * hours)
        assert collect_garbage(lake).removed != ()
    writer._open = False


def test_a_writer_whose_files_were_collected_fails_and_leaves_no_run(lake: Lake) -> None:
    writer = start(lake)
    writer.append_traces("train", IDS[::2], loss=np.ones((N // 2, 3)))
    kill_writer(lake, host="elsewhere")  # and cut off: its lease was not renewed either
    grow_old(lake, 2 * 86400)
    assert collect_garbage(lake).removed != ()
    writer.append_signals(IDS, np.zeros(N, int), None, loss=IDS / 2, phi=IDS / 4)
    with pytest.raises(CorruptLake, match=r"is not committed: traces/.* missing or not whole"):
        writer.commit(RunInfo(role="target"))
    assert lake.runs("e") == []
    assert list(Path(lake.path).glob("signals/**/*.parquet")), "what is left stays until it is collected"
    assert verify(lake).damage == ()
    write(lake)
    check_whole(lake)


@pytest.mark.parametrize("harm", ["removed", "cut short"])
def test_a_file_that_goes_as_the_manifest_is_written_takes_it_back(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    put = type(lake.files).put_if_absent

    def late(files: Any, path: str, data: bytes) -> bool:
        if path == paths.run_manifest("e", "r"):
            file = next(Path(lake.path).glob("traces/**/*.parquet"))
            file.unlink() if harm == "removed" else os.truncate(file, 10)
        return put(files, path, data)

    with start(lake) as writer:
        fill(writer)
        with monkeypatch.context() as patch:
            patch.setattr(type(lake.files), "put_if_absent", late)
            with pytest.raises(CorruptLake, match="is not committed"):
                writer.commit(RunInfo(role="target"))
    assert lake.runs("e") == []
    assert verify(lake).damage == ()


def make_experiment(lake: Lake) -> None:
    lake.create_experiment("late", pa.table({"label": [0] * 5}), pictures=pa.array([b"png"] * 5))


def keep_result(lake: Lake) -> None:
    scores = pa.table({"sample_id": IDS, "member": IDS > 2, "score": IDS / 2})
    save_result(lake, "e", "loss", "a", "", options={}, notes=[], metrics=[], scores=scores)


def share_files(lake: Lake) -> None:
    compact(lake, "e", least=2)


def forget_some(lake: Lake) -> None:
    forget(lake, "e", [1])


REPLACING = {each.__name__: each for each in (make_experiment, keep_result, share_files, forget_some)}


@pytest.mark.parametrize("harm", ["removed", "cut short"])
@pytest.mark.parametrize("late", [False, True], ids=["before the manifest", "after it"])
@pytest.mark.parametrize("act", REPLACING)
def test_whatever_puts_a_manifest_checks_its_files(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, act: str, late: bool, harm: str
) -> None:
    """A new file goes, before or after each manifest that lists it is put: no manifest lists what is not there."""
    for name in "ab":
        with start(lake, name) as writer:
            fill(writer)
            writer.commit(RunInfo(role="target" if name == "a" else "shadow"))
    kept = lake.path + "-kept"
    shutil.copytree(lake.path, kept)
    seen, failed = 0, 0
    for step in range(20):
        shutil.rmtree(lake.path)
        shutil.copytree(kept, lake.path)
        own = Lake.open(lake.path)
        at = [step]

        def harming(original: Callable[..., Any], at: list[int] = at) -> Callable[..., Any]:
            def put(files: Any, path: str, data: bytes, **given: Any) -> Any:
                manifests = [data, (Path(lake.path) / path).read_bytes() if files.exists(path) else b"{}"]
                listed, before = (
                    {file["path"] for file in json.loads(each).get("files", [])} for each in manifests
                )
                new = [Path(lake.path) / each for each in sorted(listed - before)]
                now = bool(new) and at[0] == 0
                at[0] -= bool(new)
                answer = original(files, path, data, **given) if late else None
                if now:
                    new[0].unlink() if harm == "removed" else os.truncate(new[0], 10)
                return answer if late else original(files, path, data, **given)

            return put

        with monkeypatch.context() as patch:
            for name in ("put", "put_if_absent"):
                patch.setattr(LocalFiles, name, harming(getattr(LocalFiles, name)))
            patch.setattr(LocalFiles, "put_all", one_by_one)
            try:
                REPLACING[act](own)
            except CorruptLake as error:
                assert "missing or not whole" in str(error)  # noqa: PT017
                failed += 1
        assert verify(own).damage == (), step
        assert {run.run for run in own.runs("e")} == {"a", "b"}
        if at[0] >= 0:  # there were no more manifests to put
            break
        seen += 1
        if act == "make_experiment":
            assert own.experiments() == ["e"]
        REPLACING[act](own)  # and it can be done again
        assert verify(own).damage == ()
    assert (seen, failed) == (seen, seen)
    assert seen >= {"make_experiment": 1, "keep_result": 1, "share_files": 2, "forget_some": 3}[act]


def test_what_is_committed_elsewhere_after_the_inventory_stays(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = leave(lake)
    writer._signals = None
    writer.discard()
    writer = start(lake)
    fill(writer)
    kill_writer(lake, host="elsewhere")
    grow_old(lake, 2 * 86400)
    inventory = gc.take_inventory

    def then_commit(*given: Any, **named: Any) -> Any:
        found = inventory(*given, **named)
        writer.commit(RunInfo(role="target"))
        return found

    grow_old(lake, 2 * 86400)
    monkeypatch.setattr(gc, "take_inventory", then_commit)
    monkeypatch.setattr(
        gc, "_last_writes", lambda files, found: dict.fromkeys(map(gc._owner, found.leftovers), 0.0)
    )
    monkeypatch.setattr(gc, "_replaced", lambda files, found: {})
    assert collect_garbage(lake).kept["committed meanwhile"] >= 1
    check_whole(lake)
