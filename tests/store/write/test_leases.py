"""Leases tell a writer at work from one that was killed, through forks, zombies and numbers given out again."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from losslake.store.errors import LosslakeError
from losslake.store.files import tokens
from losslake.store.files.local import LocalFiles
from losslake.store.format import manifest, paths
from losslake.store.lake import Lake
from losslake.store.write import leases, processes
from warm import HANGS

N = 8


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.open(tmp_path / "lake", create=True)
    lake.create_experiment("e", pa.table({"label": np.zeros(N, np.int32)}))
    return lake


def own_lease(lake: Lake) -> str:
    return paths.lease(tokens.process_part(lake.files.root))


def lay_down(lake: Lake, writer: str, **changed: object) -> None:
    """A lease as this process writes it, with some of it changed."""
    content = manifest.load(lake.files, own_lease(lake)) | {"writer": writer} | changed
    lake.files.put(paths.lease(writer), manifest.dump(content))


def test_tokens_differ_and_name_their_writer() -> None:
    made = [tokens.new_token("/a") for _ in range(1000)]
    assert len(set(made)) == 1000
    assert {tokens.writer_of(f"signals/experiment=e/run=r/{token}.parquet") for token in made} == {
        tokens.process_part("/a")
    }
    assert tokens.process_part("/a") != tokens.process_part("/b")


@pytest.mark.parametrize(
    ("path", "writer", "leased"),
    [
        ("signals/experiment=e/run=r/0123456789abcdef00000001.parquet", "0123456789abcdef", True),
        ("traces/experiment=e/run=r/0123456789abcdef00000001-eval.parquet", "0123456789abcdef", True),
        ("packed/experiment=e/0123456789abcdef00000001-signals.parquet", "0123456789abcdef", True),
        ("staging/experiment=e/run=r/0123456789abcdef00000001/eval-000001.arrow", "0123456789abcdef", True),
        ("runs/experiment=e/.tmp-0123456789abcdef00000001", "0123456789abcdef", True),
        (".tmp-0123456789abcdef00000001", "0123456789abcdef", True),
        (".tmp-0123456789abcdef", "0123456789abcdef", False),
        ("signals/experiment=e/run=r/0123456789abcdef.parquet", "0123456789abcdef", False),
        ("signals/experiment=e/run=0123456789abcdef00000001/notes.txt", None, False),
        ("signals/experiment=0123456789abcdef00000001/run=r/notes.parquet", None, False),
        ("signals/experiment=e/run=r/0123456789abcdef0.parquet", None, False),
        ("staging/experiment=e/stray", None, False),
    ],
)
def test_writers_are_read_off_paths(path: str, writer: str | None, leased: bool) -> None:
    assert tokens.writer_of(path) == writer
    assert tokens.may_have_lease(path) == leased


def test_this_process_is_at_work_from_its_first_file_on(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    assert leases.states(lake.files) == {}
    lake.create_experiment("e", pa.table({"label": [0, 1]}))
    assert leases.states(lake.files) == {tokens.process_part(lake.path): "at work"}
    made = os.stat(f"{lake.path}/{own_lease(lake)}").st_mtime_ns
    lake.write_run("e", "r", members=np.ones(2, bool)).discard()
    assert os.stat(f"{lake.path}/{own_lease(lake)}").st_mtime_ns == made


def test_a_lake_made_again_in_its_old_place_has_a_lease_again(lake: Lake) -> None:
    lake.files.delete(own_lease(lake))
    lake.write_run("e", "r", members=np.ones(N, bool)).discard()
    assert list(leases.states(lake.files).values()) == ["at work"]


def test_threads_that_begin_together_share_one_lease(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    start = threading.Barrier(8)
    found = []

    def work() -> None:
        start.wait()
        found.append(leases.token(lake.files))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 8
    assert len({token[:16] for token in found}) == 1
    assert list(leases.states(lake.files).values()) == ["at work"]


def test_a_number_given_out_again_is_not_the_writer(lake: Lake) -> None:
    started = processes.start_time(os.getpid())
    assert started is not None
    lay_down(lake, "a" * 16, started=started - 1)
    lay_down(lake, "b" * 16, started=None)
    lay_down(lake, "c" * 16, pid=-1)
    found = leases.states(lake.files)
    assert [found[letter * 16] for letter in "abc"] == [
        "killed",
        "at work",
        "elsewhere",
    ]  # no process has a number under 0


def test_of_another_machine_nothing_is_known(lake: Lake) -> None:
    lay_down(lake, "a" * 16, host="elsewhere", pid=os.getpid())
    (Path(lake.path) / "writers" / f"{'b' * 16}.json").write_text("{")
    (Path(lake.path) / "writers" / f"{'c' * 16}.json").write_text(
        json.dumps(json.loads(lake.files.read(own_lease(lake))))
    )
    lay_down(lake, "d" * 16, pid="1")
    found = leases.states(lake.files)
    assert [found[letter * 16] for letter in "abcd"] == ["elsewhere"] * 4


def test_a_killed_process_counts_as_gone_before_its_parent_takes_notice() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = processes.start_time(child.pid)
    assert processes.runs(child.pid, started)
    child.send_signal(signal.SIGSTOP)
    assert processes.runs(child.pid, started)  # stopped is not killed
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie: it is not taken notice of
    assert not processes.runs(child.pid, started)
    child.wait()
    assert not processes.runs(child.pid, started)


def test_another_user_s_process_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(processes.os, "kill", refuse)
    assert processes.runs(12345, 1)


def test_without_proc_the_number_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_stat", lambda pid: [])
    assert processes.start_time(os.getpid()) is None
    assert processes.runs(os.getpid(), 5)


# --- processes --------------------------------------------------------------------------------------------

WRITES = """
import os, sys
import numpy as np
from losslake.store.lake import Lake
lake = Lake.open(sys.argv[1])
writer = lake.write_run("e", sys.argv[2], members=np.ones(8, bool))
writer.append_epoch("eval", 0, np.arange(8), loss=np.zeros(8))
"""


def run_code(lake: Lake, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WRITES + code, lake.path, "r"],
        capture_output=True,
        text=True,
        check=False,
    )


def others(lake: Lake) -> list[str]:
    """States of the writers that are not this process."""
    own = tokens.process_part(lake.files.root)
    return [state for writer, state in leases.states(lake.files).items() if writer != own]


@pytest.mark.parametrize(
    ("code", "left"),
    [
        ("", []),
        ("sys.exit(3)", []),
        ("raise ValueError", []),
        ("os._exit(0)", ["killed"]),
        ("os.kill(os.getpid(), 9)", ["killed"]),
        ("os.kill(os.getpid(), 15)", ["killed"]),
        # A fork that writes nothing does not take its parent's lease away.
        ("child = os.fork()\nif child: os.waitpid(child, 0); os._exit(0)\nsys.exit()", ["killed"]),
    ],
)
def test_a_lease_goes_with_its_process(lake: Lake, code: str, left: list[str]) -> None:
    run_code(lake, code)
    assert others(lake) == left


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_have_leases_of_their_own_and_return_them(lake: Lake, method: str) -> None:
    context = multiprocessing.get_context(method)
    # `exec`, because a spawned process cannot import this file.
    code = f"import sys; sys.argv = ['', {lake.path!r}, 'r']" + WRITES + "writer.discard()"
    workers = [context.Process(target=exec, args=(code,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert others(lake) == []
    assert list(leases.states(lake.files).values()) == ["at work"]


def test_a_fork_has_another_token(lake: Lake) -> None:
    out, into = os.pipe()
    parent = leases.token(lake.files)
    child = os.fork()
    if child == 0:
        os.write(into, leases.token(lake.files).encode())
        os._exit(0)
    os.waitpid(child, 0)
    of_child = os.read(out, 100).decode()
    os.close(out)
    os.close(into)
    assert of_child[:16] != parent[:16]
    assert others(lake) == ["killed"]
    assert leases.token(lake.files)[:16] == parent[:16]


def test_a_step_outlasts_the_loss_of_its_temporary_file(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    link, replace = os.link, os.replace
    lost = itertools.count()

    def lose_first(source: str) -> None:
        if source.startswith(f"{files.root}/") and next(lost) % 3 < 2:
            os.unlink(source)
            for folder in list(Path(source).parents)[:2]:
                if not any(folder.iterdir()):
                    folder.rmdir()

    def late_link(source: str, target: str) -> None:
        lose_first(source)
        link(source, target)

    def late_replace(source: str, target: str) -> None:
        lose_first(source)
        replace(source, target)

    files = LocalFiles(Path(lake.path))
    monkeypatch.setattr("losslake.store.files.local.os.link", late_link)
    monkeypatch.setattr("losslake.store.files.local.os.replace", late_replace)
    assert files.put_if_absent("runs/experiment=new/a.json", b"1")
    assert files.read("runs/experiment=new/a.json") == b"1"
    assert not files.put_if_absent("runs/experiment=new/a.json", b"2")
    files.put("results/experiment=new/b.json", b"3")
    assert files.read("results/experiment=new/b.json") == b"3"
    assert files.temporaries() == []


def test_looking_while_processes_come_and_go(lake: Lake) -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", WRITES + "writer.discard()", lake.path, f"r{i}"])
        for i in range(2)
    ]
    end = time.monotonic() + HANGS
    while any(child.poll() is None for child in children) and time.monotonic() < end:
        assert set(leases.states(lake.files).values()) <= {"at work"}
    assert [child.returncode for child in children] == [0, 0]


def test_a_lease_is_renewed_by_time_and_not_by_writes(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(leases, "RENEWED", timedelta(milliseconds=20))
    other = Lake.open(tmp_path / "other", create=True)
    leases.hold(other.files)
    path = Path(other.path) / own_lease(other)
    for _ in range(3):
        os.utime(path, (1, 1))
        wait_until(lambda: path.stat().st_mtime > 1)


def test_nothing_is_renewed_of_a_lake_that_has_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A service that audits in temporary lakes does not gather a thread a lake."""
    monkeypatch.setattr(leases, "RETRIED", timedelta(milliseconds=20))

    def renewing() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "losslake-lease"}

    def at_exit() -> list[str]:
        return [root for root, _ in leases._endings if root.startswith(str(tmp_path.resolve()))]

    before = renewing()
    for name in "abc":
        leases.hold(Lake.open(tmp_path / name, create=True).files)
    own = renewing() - before
    assert len(own) == 3
    shutil.rmtree(tmp_path / "a")
    for name in "bc":
        lake = Lake.open(tmp_path / name)
        (tmp_path / name / own_lease(lake)).unlink()
    wait_until(lambda: not renewing() & own)
    assert at_exit() == [], "nothing is left to do at exit either"
    # The next write has a lease again, which is renewed.
    leases.hold(lake.files)
    assert len(renewing() - before - own) == 1
    assert (tmp_path / "c" / own_lease(lake)).exists()


def test_a_lease_that_is_given_back_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While it is renewed as often as can be: a lake that is removed right after it stays removed."""
    monkeypatch.setattr(leases, "RENEWED", timedelta(milliseconds=1))
    leases.hold(Lake.open(tmp_path / "first", create=True).files)
    threads, at_exit = set(threading.enumerate()), atexit._ncallbacks()

    def renewing() -> set[threading.Thread]:
        return {each for each in threading.enumerate() if each.name == "losslake-lease"} - threads

    def of_this_test() -> tuple[list[str], list[str]]:  # leases of other tests may end meanwhile
        here = str(tmp_path.resolve())
        ending = [root for root, _ in leases._endings if root.startswith(here)]
        return ending, [root for root in tokens._processes if root.startswith(here)]

    known = of_this_test()
    assert known == ([str(tmp_path / "first")],) * 2
    for number in range(20):
        lake = Lake.open(tmp_path / str(number), create=True)
        leases.hold(lake.files)
        time.sleep(0.003)
        leases.give_back(lake.files)
        shutil.rmtree(lake.path)
    wait_until(lambda: not renewing())
    assert [path.name for path in tmp_path.iterdir()] == ["first"]
    assert of_this_test() == known
    assert atexit._ncallbacks() == at_exit
    again = Lake.open(tmp_path / "1", create=True)
    leases.hold(again.files)
    assert list(leases.states(again.files).values()) == ["at work"]
    leases.give_back(again.files)
    assert list(leases.states(again.files)) == []
    leases.give_back(again.files)  # where there is none, nothing happens


def test_a_fork_does_not_wait_for_a_lock_of_its_parent_s_threads(lake: Lake) -> None:
    """A thread that looks whether a lake has gone, as an object store answers slowly, is not in the fork to unlock anything."""
    locked, done = threading.Event(), threading.Event()

    def look() -> None:
        with leases._renewing:
            locked.set()
            done.wait()

    thread = threading.Thread(target=look)
    thread.start()
    locked.wait()
    pid = os.fork()
    if pid == 0:
        signal.alarm(int(HANGS))
        with contextlib.suppress(BaseException):
            leases.hold(lake.files)
            os._exit(0)
        os._exit(1)
    done.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0


def test_a_claim_of_an_ended_process_keeps_nobody_out(lake: Lake) -> None:
    path = Path(lake.path) / "claims/experiment=e" / f"{'a' * 16}00000001.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(manifest.dump({"kind": "claim", "what": "experiment=e"}))
    with pytest.raises(LosslakeError, match="another process"), leases.claim(lake.files, "experiment=e"):
        pass
    ago = time.time() - 2 * leases.SHOWN.total_seconds()
    os.utime(path, (ago, ago))
    with leases.claim(lake.files, "experiment=e"):
        assert not path.exists()


CANNOT_REMOVE = """
import sys
from losslake.store.errors import LosslakeError
from losslake.store.files.local import LocalFiles
from losslake.store.lake import Lake
from losslake.store.write import leases
lake = Lake.open(sys.argv[1])
delete = LocalFiles.delete
def failing(files, path):
    if path.startswith("claims/experiment"):
        raise LosslakeError("no answer")
    delete(files, path)
LocalFiles.delete = failing
with leases.claim(lake.files, "experiment=e"):
    pass
"""


def test_a_claim_that_its_process_never_removed_counts_no_more(lake: Lake) -> None:
    """The process has ended, and its lease is gone: the claim says itself whose it is."""
    assert run_code(lake, CANNOT_REMOVE).returncode == 0
    assert len(lake.files.list("claims")) == 1
    assert others(lake) == []
    with leases.claim(lake.files, "experiment=e"):
        assert len(lake.files.list("claims")) == 1
    assert lake.files.list("claims") == []


def test_a_claim_of_another_that_cannot_be_removed_counts_no_more_either(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_code(lake, CANNOT_REMOVE).returncode == 0
    (theirs,) = lake.files.list("claims")
    delete = LocalFiles.delete

    def failing(files: LocalFiles, path: str) -> None:
        if path == theirs:
            raise LosslakeError("no answer")
        delete(files, path)

    monkeypatch.setattr(LocalFiles, "delete", failing)
    with leases.claim(lake.files, "experiment=e"):
        assert theirs in lake.files.list("claims")


def test_a_claim_of_a_process_at_work_counts_without_its_lease(lake: Lake) -> None:
    content = {
        "kind": "claim",
        "what": "experiment=e",
        "created": manifest.now(),
        "host": processes.host_identity(),
    }
    here = {"pid": os.getpid(), "started": processes.start_time(os.getpid())}
    path = f"claims/experiment=e/{'c' * 16}00000001.json"
    lake.files.put(path, manifest.dump(content | here))
    os.utime(Path(lake.path) / path, (1, 1))
    with pytest.raises(LosslakeError, match="another process"), leases.claim(lake.files, "experiment=e"):
        pass
    lake.files.put(path, manifest.dump(content | here | {"pid": "none"}))  # it says nothing: its age counts
    with pytest.raises(LosslakeError, match="another process"), leases.claim(lake.files, "experiment=e"):
        pass
    os.utime(Path(lake.path) / path, (1, 1))
    with leases.claim(lake.files, "experiment=e"):
        pass


@pytest.mark.parametrize("cause", ["a new claim", "the lease", "the end"])
def test_a_claim_that_could_not_be_removed_goes_later(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cause: str
) -> None:
    """Its process is at work still, on something else: to others it would have the claim until it ends."""
    delete = LocalFiles.delete

    def failing(files: LocalFiles, path: str) -> None:
        if path.startswith("claims/experiment"):
            raise LosslakeError("no answer")
        delete(files, path)

    if cause == "the lease":
        monkeypatch.setattr(leases, "RETRIED", timedelta(seconds=0.05))
        lake = Lake.open(tmp_path / "other", create=True)
    if cause == "the end":
        code = (
            CANNOT_REMOVE
            + """
LocalFiles.delete = delete
assert lake.files.list("claims")
"""
        )
        assert run_code(lake, code).returncode == 0
    else:
        with monkeypatch.context() as patch:
            patch.setattr(LocalFiles, "delete", failing)
            with leases.claim(lake.files, "experiment=e"):
                pass
            assert lake.files.list("claims") != []
        if cause == "a new claim":
            with leases.claim(lake.files, "experiment=e"):
                assert len(lake.files.list("claims")) == 1
        else:
            wait_until(lambda: lake.files.list("claims") == [])
    assert lake.files.list("claims") == []


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_claim_elsewhere_counts_by_the_clock_of_the_files(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    writer = "b" * 16
    lay_down(lake, writer, host="elsewhere")
    path = f"claims/experiment=e/{writer}00000001.json"
    lake.files.put(path, manifest.dump({"kind": "claim", "what": "experiment=e"}))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
    with pytest.raises(LosslakeError, match="another process"), leases.claim(lake.files, "experiment=e"):
        pass
    os.utime(Path(lake.path) / path, (1, 1))
    with pytest.raises(LosslakeError, match="another process"), leases.claim(lake.files, "experiment=e"):
        pass  # its process renews its lease
    os.utime(Path(lake.path) / paths.lease(writer), (1, 1))
    with leases.claim(lake.files, "experiment=e"):
        pass


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + HANGS
    while time.monotonic() < until:
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come about")
