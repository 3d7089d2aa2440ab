"""Removing runs and experiments: what goes is gone, what stays is whole, at whatever instant it is stopped."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from losslake.cli import cli
from losslake.collect.hook.start import start_run
from losslake.store.errors import InvalidInput, InvalidOption, LosslakeError, NotFound
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.read.catalogue import results
from losslake.store.upkeep import gc
from losslake.store.upkeep import remove as removing
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.gc import collect_garbage
from losslake.store.upkeep.remove import remove, remove_unused
from losslake.store.upkeep.verify import verify
from losslake.store.write import leases
from losslake.store.write.checkpoints import CheckpointWriter
from losslake.store.write.results import save_result
from warm import HANGS, STORE, warm_python

MakeLake = Callable[..., Lake]
N = 24
FIRST = "run-0000"


def make(lake_of: MakeLake, packed: bool = False) -> Lake:
    """Six runs, two with traces, and results about the first of them."""
    rng = np.random.default_rng(0)
    keep = np.arange(6 * N).reshape(6, N) % 2 == np.arange(6)[:, None] % 2
    made = lake_of(
        keep,
        rng.normal(0, 2, (6, N, 2)),
        logits=rng.normal(0, 2, (6, N, 2, 3)).astype(np.float16),
        traces={"loss": rng.random((N, 4))},
        train_traces={"loss": np.ma.masked_array(rng.random((N, 4)), ~np.tile(keep[0][:, None], 4))},
    )
    if packed:
        compact(made, "tests", least=2)
    scores = pa.table({"sample_id": np.arange(N), "member": np.arange(N) > 3, "score": np.arange(N) / 2})
    save_result(made, "tests", "loss", FIRST, "", options={}, notes=[], metrics=[], scores=scores)
    return made


@pytest.fixture
def lake(lake_of: MakeLake) -> Lake:
    return make(lake_of)


def rows_of(lake: Lake, run: str) -> list[pa.Table]:
    return [table.sort_by("sample_id") for table in lake.run_rows(lake.run("tests", run))]


def copy_of(lake: Lake) -> Lake:
    """As another lake, to whose files nobody holds a lease any more."""
    place = tempfile.mkdtemp(dir=Path(lake.path).parent)
    return Lake.open(shutil.copytree(lake.path, f"{place}/lake", ignore=shutil.ignore_patterns("writers")))


def names(lake: Lake) -> list[str]:
    return [run.run for run in lake.runs("tests")]


def files_of(lake: Lake, text: str) -> list[str]:
    return [str(path) for path in Path(lake.path).rglob("*") if text in str(path) and path.is_file()]


def check_experiment_gone(lake: Lake) -> None:
    assert lake.experiments() == []
    assert files_of(lake, "tests") == []
    assert verify(lake).damage == ()
    assert [path for path in verify(lake).leftovers if not path.startswith("writers/")] == []
    lake.create_experiment("tests", pa.table({"label": [1, 2, 3]}))  # the name is free


@pytest.mark.parametrize("packed", [False, True], ids=["own files", "shared files"])
def test_a_run_goes_with_all_that_hangs_on_it_and_the_others_stay(lake_of: MakeLake, packed: bool) -> None:
    lake = make(lake_of, packed)
    before = {name: rows_of(lake, name) for name in names(lake)}
    assert results(lake, "tests")
    done = lake.remove("tests", FIRST)
    assert (done.runs, done.results, done.samples) == ((FIRST,), 1, None)
    assert names(lake) == [name for name in before if name != FIRST]
    assert all(rows_of(lake, name) == before[name] for name in names(lake))
    assert results(lake, "tests") == []
    assert lake.sql("from scores").height == 0
    assert files_of(lake, FIRST) == []
    if packed:  # nothing of its rows either
        held = [pa.parquet.read_table(path) for path in files_of(lake, "packed/")]
        assert held
        assert all(FIRST not in table["run"].to_pylist() for table in held)
    assert verify(lake).damage == ()
    with pytest.raises(NotFound, match="no run 'run-0000'"):
        lake.remove("tests", [FIRST])


@pytest.mark.parametrize("packed", [False, True], ids=["own files", "shared files"])
def test_an_experiment_goes_whole_and_another_stays(lake_of: MakeLake, packed: bool) -> None:
    lake = make(lake_of, packed)
    lake.create_experiment("tests-2", pa.table({"label": [0, 1]}))
    lake.add_design("tests", "shadow", 0, {"count": 4})
    done = lake.remove("tests")
    assert (done.samples, len(done.runs), done.results) == (N, 6, 1)
    assert lake.experiments() == ["tests-2"]
    assert files_of(lake, "experiment=tests/") == []
    assert len(lake.samples("tests-2")) == 2
    with pytest.raises(NotFound, match="experiments: tests-2"):
        lake.remove("tests")


def test_dry_run_removes_nothing(lake: Lake) -> None:
    before = files_of(lake, "")
    whole, one = lake.remove("tests", dry_run=True), lake.remove("tests", FIRST, dry_run=True)
    assert (whole.samples, one.runs) == (N, (FIRST,))
    assert files_of(lake, "") == before
    assert (lake.remove("tests", FIRST), lake.remove("tests").runs) == (one, whole.runs[1:])


def test_runs_that_come_from_one_are_named_with_it(lake: Lake) -> None:
    with lake.write_run("tests", "student", members=np.zeros(N, dtype=bool)) as out:
        out.append_signals(np.arange(N), np.zeros(N, int), None, loss=np.ones(N), phi=np.ones(N))
        out.commit(RunInfo(role="distilled", parent=FIRST))
    with pytest.raises(InvalidOption, match="come from run 'run-0000': student"):
        lake.remove("tests", FIRST)
    assert lake.remove("tests", [FIRST, "student"]).runs == (FIRST, "student")


def test_checkpoints_of_a_run_go(lake: Lake) -> None:
    out = lake.write_run("tests", "half", members=np.zeros(N, dtype=bool))
    CheckpointWriter(lake.files, "tests", "half", out.token).write(1, "0" * 64, b"state", {})
    out.discard()
    assert files_of(lake, "run=half")
    assert lake.remove("tests", "half").completed
    assert files_of(lake, "run=half") == []


# --- while others write --------------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", [None, FIRST])
def test_it_refuses_while_a_run_is_written_from_its_first_moment(lake: Lake, runs: str | None) -> None:
    with lake.write_run("tests", "busy", members=np.zeros(N, dtype=bool)) as out:
        for other in (lake, Lake.open(lake.path)):
            with pytest.raises(LosslakeError, match="run 'busy' of experiment 'tests' is being written"):
                other.remove("tests", runs)
        assert len(names(lake)) == 6
        out.append_signals(np.arange(N), np.zeros(N, int), None, loss=np.ones(N), phi=np.ones(N))
        out.commit(RunInfo(role="shadow"))
    lake.remove("tests", runs)


def test_who_begins_between_two_looks_keeps_the_experiment(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete, begun = lake.files.delete, []

    def slow(path: str) -> None:
        if path == "experiments/tests.json":
            begun.append(Lake.open(lake.path).write_run("tests", "late", members=np.zeros(N, dtype=bool)))
        delete(path)

    monkeypatch.setattr(lake.files, "delete", slow)
    with pytest.raises(LosslakeError, match=r"'late' .* is being written"):
        lake.remove("tests")
    monkeypatch.undo()
    begun[0].append_signals(np.arange(N), np.zeros(N, int), None, loss=np.ones(N), phi=np.ones(N))
    begun[0].commit(RunInfo(role="shadow"))
    assert len(names(lake)) == 7
    assert verify(lake).damage == ()


@pytest.mark.parametrize("when", ["before its files go", "among them"])
def test_a_run_that_is_committed_while_it_is_removed_goes_as_well(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """By a writer that began in a moment in which nobody looked: no manifest stays that lists what has gone."""
    monkeypatch.setattr(removing, "_refuse_at_work", lambda files, experiment: None)
    ids = np.arange(N)
    out = lake.write_run("tests", "late", members=ids % 2 == 0)
    out.append_signals(ids, ids * 0, None, loss=ids * 1.0, phi=ids * 1.0)
    name, calls = ("_drop_results", 1) if when == "before its files go" else ("_files_of", 2)
    real, done = getattr(removing, name), []

    def act(*given: Any) -> Any:
        found = real(*given)
        done.append(0)
        if len(done) == calls:
            out.commit(RunInfo(role="shadow"))
        return found

    monkeypatch.setattr(removing, name, act)
    remove(lake, "tests", ["late"])
    assert len(done) >= calls
    assert out.ended
    assert "late" not in names(lake)
    assert files_of(lake, "run=late") == []
    assert verify(lake).damage == ()


def test_a_writer_that_nobody_could_see_leaves_nothing_in_a_removed_experiment(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = lake.write_run("tests", "unseen", members=np.zeros(N, dtype=bool))
    out.append_signals(np.arange(N), np.zeros(N, int), None, loss=np.ones(N), phi=np.ones(N))
    monkeypatch.setattr(removing, "_refuse_at_work", lambda files, experiment: None)
    monkeypatch.setattr(out, "_check_there", lambda: None)
    monkeypatch.setattr(out, "_drop_forgotten", lambda: lake.remove("tests"))
    monkeypatch.setattr("losslake.store.write.run_writer.withdraw_if_lost", lambda *given: None)
    with pytest.raises(NotFound, match="experiment 'tests' was removed while run 'unseen'"):
        out.commit(RunInfo(role="shadow"))
    check_experiment_gone(lake)


@pytest.mark.parametrize("runs", [None, FIRST])
def test_a_result_on_its_way_is_not_kept(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, runs: str | None
) -> None:
    put, away = lake.files.put, []

    def slow(path: str, data: bytes) -> None:
        if path.startswith("results/") and not away:
            away.append(path)
            Lake.open(lake.path).remove("tests", runs)
        put(path, data)

    monkeypatch.setattr(lake.files, "put", slow)
    scores = pa.table({"sample_id": np.arange(N), "member": np.arange(N) > 3, "score": np.arange(N) / 2})
    save_result(lake, "tests", "loss", FIRST, "", options={}, notes=[], metrics=[], scores=scores)
    assert away
    assert files_of(lake, "results") == files_of(lake, "scores") == []


# --- stopped -------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.mark.parametrize("packed", [False, True], ids=["own files", "shared files"])
@pytest.mark.parametrize("runs", [None, [FIRST, "run-0003"]], ids=["experiment", "runs"])
def test_killed_before_any_change_all_is_whole_and_the_same_call_completes_it(
    lake_of: MakeLake, runs: list[str] | None, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before each of its writes and deletions in turn."""
    step, seen = 0, set()
    pristine = make(lake_of, packed)
    before = {name: rows_of(pristine, name) for name in names(pristine)}
    while True:
        lake = copy_of(pristine)
        left = step

        def stopping(kind: str, lake: Lake = lake) -> Callable[..., Any]:
            method = getattr(lake.files, kind)

            def act(path: str, *given: Any, **more: Any) -> Any:
                nonlocal left
                if not path.startswith(("claims/", "writers/")):
                    left -= 1
                    if left < 0:
                        raise Killed
                return method(path, *given, **more)

            return act

        for kind in ("put", "delete", "create"):
            monkeypatch.setattr(lake.files, kind, stopping(kind))
        try:
            remove(lake, "tests", runs)
            break
        except Killed:
            monkeypatch.undo()
        again = Lake.open(lake.path)
        there = again.experiments() == ["tests"]
        seen.add(there)
        told = verify(again).damage
        assert all("did not finish" in sentence for sentence in told)
        if there:  # every run that is there is whole
            assert told == ()
            assert all(rows_of(again, name) == before[name] for name in names(again))
        else:
            assert again.sql("from signals").height == 0
            assert told == (
                "the removal of experiment tests did not finish; run 'losslake lake remove --experiment tests'",
            )
        if runs is None and not there and step % 2:  # the name is free, and what was there does not come back
            again.create_experiment("tests", pa.table({"label": [7]}))
            assert (len(again.samples("tests")), again.runs("tests")) == (1, [])
        if again.experiments() or told:
            # A run of which nothing is left has been removed; to name it again is a mistake like any other.
            with contextlib.suppress(NotFound):
                again.remove("tests", runs)
            for name in runs or ():
                if name in names(again):
                    again.remove("tests", name)
        if runs is None:
            check_experiment_gone(again)
        else:
            assert names(again) == [name for name in before if name not in runs]
            assert all(rows_of(again, name) == before[name] for name in names(again))
            assert verify(again).damage == ()
        monkeypatch.undo()
        step += 1 if step < 8 else 3
    assert step >= 8
    assert seen == ({True, False} if runs is None else {True})


REMOVE = """
import sys
from losslake.store.lake import Lake
print("ready", flush=True)
Lake.open(sys.argv[1]).remove("tests")
"""


def test_killed_for_real(lake_of: MakeLake, monkeypatch: pytest.MonkeyPatch) -> None:
    # Who is killed while the lease is being written leaves a file without one: no other machine is to be waited for.
    monkeypatch.setattr(gc, "GRACE", timedelta(0))
    seed = random.Random(3)
    pristine = make(lake_of)
    for _ in range(4):
        lake = copy_of(pristine)
        process = subprocess.Popen([*warm_python(STORE), "-c", REMOVE, lake.path], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seed.uniform(0, 0.05))
        process.kill()
        process.communicate()
        until = time.monotonic() + HANGS
        # Who was killed may take a moment to end, and is at the removal so long.
        while "at work" in leases.states(lake.files).values() and time.monotonic() < until:
            time.sleep(0.01)
        if lake.experiments() or verify(lake).damage:
            lake.remove("tests")
        while collect_garbage(lake, older_than=timedelta(0)).kept and time.monotonic() < until:
            time.sleep(0.01)
        check_experiment_gone(lake)


# --- a start that fails --------------------------------------------------------------------------------------


def test_a_start_that_fails_leaves_no_experiment(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    with pytest.raises(InvalidInput):
        start_run(lake, "mine", samples=[0, 1, 0], members=[7])
    with pytest.raises(ZeroDivisionError), start_run(lake, "mine", samples=[0, 1], members=[0]):
        raise ZeroDivisionError
    assert lake.experiments() == []
    with start_run(lake, "mine", samples=[0, 1, 1, 1], members=[0]) as run:
        run._writer.append_epoch("eval", 0, [0, 1], loss=np.ones(2))
        run._eval_trace.points = 1
    with pytest.raises(ZeroDivisionError), start_run(lake, "mine", samples=[0, 1, 1, 1], members=[0]):
        raise ZeroDivisionError
    assert [run.run for run in lake.runs("mine")] == ["target"]


def test_an_experiment_that_was_there_before_stays(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    lake.create_experiment("mine", pa.table({"label": [0, 1]}))
    with pytest.raises(ZeroDivisionError), start_run(lake, "mine", samples=None, members=[0]):
        raise ZeroDivisionError
    assert lake.experiments() == ["mine"]


@pytest.mark.parametrize("state", ["at work", "elsewhere", "killed"])
def test_it_stays_while_another_process_is_at_work_in_the_lake(
    tmp_path: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    lake.create_experiment("mine", pa.table({"label": [0, 1]}))
    lake.files.put("writers/0123456789abcdef.json", b"{}")
    monkeypatch.setattr(leases, "states", lambda files: {"0123456789abcdef": state})
    assert remove_unused(lake, "mine") == (state == "killed")


def test_one_with_a_checkpoint_to_go_on_from_stays(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    lake.create_experiment("mine", pa.table({"label": [0, 1]}))
    out = lake.write_run("mine", "target", members=np.array([True, False]))
    CheckpointWriter(lake.files, "mine", "target", out.token).write(1, "0" * 64, b"state", {})
    out.discard()
    assert not remove_unused(lake, "mine")
    assert lake.experiments() == ["mine"]


# --- the command ---------------------------------------------------------------------------------------------


def test_the_command_asks(lake: Lake) -> None:
    asked = ["lake", "remove", "--lake", lake.path, "--experiment", "tests"]
    no = CliRunner().invoke(cli, asked, input="n\n")
    assert isinstance(no.exception, InvalidOption)
    assert "remove experiment tests: 24 samples, 6 runs (run-0000, run-0001" in no.output
    nobody = CliRunner().invoke(cli, [*asked, "--run", FIRST], input="")
    assert "nothing was removed: not confirmed; --yes" in str(nobody.exception)
    assert len(names(lake)) == 6
    told = CliRunner().invoke(cli, [*asked, "--run", FIRST, "--dry-run"])
    assert told.output.startswith("would remove: of experiment tests: 1 run (run-0000), 1 result, ")
    yes = CliRunner().invoke(cli, [*asked, "--run", FIRST], input="y\n")
    assert "removed: of experiment tests: 1 run (run-0000)" in yes.output
    assert len(names(lake)) == 5
    assert (
        CliRunner()
        .invoke(cli, [*asked, "--yes"])
        .output.startswith("removed: experiment tests: 24 samples, 5 runs")
    )
    assert lake.experiments() == []
