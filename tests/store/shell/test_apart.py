"""Queries of the command line and the shell run in a process of their own, which may die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.shell import apart
from warm import HANGS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

DEEP = "repeat('[', 60000) || '\"INT\"' || repeat(']', 60000)"
FATAL = (
    f"select json_transform('1', {DEEP})",
    f"select from_json('1', {DEEP})",
    "select (repeat('[', 60000) || repeat(']', 60000))::json::variant",
)
"""Texts that overflow the stack of DuckDB 1.5: one that is mended there answers instead."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    lake = Lake.open(tmp_path_factory.mktemp("apart") / "lake", create=True)
    lake.create_experiment("e", pa.table({"label": [0, 1, 1]}))
    with lake.write_run("e", "r", members=np.array([True, False, True])) as writer:
        ids = np.arange(3)
        writer.append_signals(ids, ids * 0, ids % 2, loss=ids / 4, phi=ids - 1)
        writer.commit(RunInfo(role="target"))
    return lake.path


def start(path: str, *words: str, temporary: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "losslake.cli", "sql", "--lake", path, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | ({"TMPDIR": str(temporary)} if temporary else {}),
    )


def run(path: str, *words: str, given: str = "", temporary: Path | None = None) -> tuple[int, str, str]:
    process = start(path, *words, temporary=temporary)
    out, said = process.communicate(given, timeout=HANGS)
    return process.returncode, out, said


def test_a_query_ends_as_it_did_in_one_process(path: str) -> None:
    assert run(path, "--format", "csv", "select count(*) as n from signals") == (0, "n\n3\n", "")
    code, out, said = run(path, "from nowhere")
    assert (code, out) == (1, "")
    assert "nowhere" in said
    code, out, said = run(f"{path}-not", "from runs")
    assert (code, out) == (1, "")
    assert "there is no lake at" in said


def test_a_shell_keeps_its_settings_and_its_exit_code(path: str) -> None:
    given = ".format csv\nselect 1 as a;\nfrom nowhere;\nselect 2 as b; select 3 as c;\n.format\n"
    code, out, said = run(path, given=given)
    assert (code, out) == (1, "a\n1\nb\n2\nc\n3\ncsv\n")
    assert said.count("error:") == 1
    assert run(path, given="select 1;\n.quit\nfrom nowhere;")[0] == 0


def test_a_query_that_ends_its_process_is_told_and_the_shell_goes_on(path: str, tmp_path: Path) -> None:
    code, out, said = run(path, FATAL[0], temporary=tmp_path)
    if code == 0:
        pytest.skip("this DuckDB survives it")
    assert (code, out) == (1, "")
    assert said.startswith("losslake: the process of the query ended (SIG")
    given = "".join(f"{text};\nselect 'after {number}' as said;\n" for number, text in enumerate(FATAL))
    code, out, said = run(path, given=f".format csv\n{given}", temporary=tmp_path)
    assert code == 1
    for number in range(len(FATAL)):
        assert f"said\nafter {number}\n" in out
    assert said.count("error: the process of the query ended (SIG") >= 1
    assert list(tmp_path.iterdir()) == []  # the folders of the dead are cleared away


SLOW = "select count(*) from range(1000000) a, range(1000000) b where a.range * b.range % 7 = 3"


def test_ctrl_c_and_an_end_from_outside(path: str) -> None:
    # As it starts, as it opens the lake, in the query: wherever it is.
    for seconds in (0, 0.2, 0.45, 2):
        process = start(path, SLOW)
        wait_until(lambda process=process: _children(process.pid), process)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=HANGS)
        assert (process.returncode, said.strip().endswith("losslake: stopped")) == (130, True), said
    process = start(path, SLOW)
    wait_until(lambda: _children(process.pid), process)
    (child,) = _children(process.pid)
    process.kill()
    process.wait(HANGS)
    wait_until(lambda: not _runs(child), process)  # nothing goes on without its parent
    process = start(path, SLOW)
    wait_until(lambda: _children(process.pid), process)
    os.kill(_children(process.pid)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=HANGS)
    assert process.returncode == 1
    assert "ended (SIGKILL): something killed it, most likely the system, because memory ran out" in said


def test_a_child_that_does_not_end_in_time_is_ended() -> None:
    """Where a query holds all threads of its process, the parent keeps the time."""
    code = """
import os, time
from losslake.store.errors import LimitReached
from losslake.store.shell import apart
apart._GRACE = 0.2
child = apart.fork()
if child is None:
    apart.tell({"folder": "/nowhere", "limit": 0.1})
    with apart.query_at_work():
        apart.tell({"ready": 1})
    time.sleep(1)  # no query is at work
    apart.tell({"ready": 2})
    with apart.query_at_work():
        time.sleep(100)
assert child.hear() == {"ready": 1}
assert child.hear() == {"ready": 2}
started = time.monotonic()
try:
    child.hear()
except LimitReached as error:
    assert "ran longer than the 0.1 s it may" in str(error)
else:
    raise AssertionError
assert time.monotonic() - started < 30
try:
    os.kill(child.pid, 0)
except ProcessLookupError:
    print("gone")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "gone\n", "")


def test_a_process_with_an_engine_at_work_asks_in_itself() -> None:
    assert "duckdb" in sys.modules
    assert not apart.possible()


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(true: object, process: subprocess.Popen[str]) -> None:
    assert callable(true)
    until = time.monotonic() + HANGS
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)
