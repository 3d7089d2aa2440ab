"""Forgetting a sample: nothing of it is left, and all else is as if it had never had rows."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from losslake.analysis.evaluations.catalogue import EVALUATIONS, find_evaluation, run_evaluation
from losslake.analysis.report.write import write_report
from losslake.analysis.scoring.catalogue import ANALYSES, find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.cli import cli
from losslake.store.errors import (
    AlreadyExists,
    ForgottenMeanwhile,
    InvalidInput,
    InvalidOption,
    LosslakeError,
    NotFound,
)
from losslake.store.files.local import LocalFiles
from losslake.store.format import manifest, paths
from losslake.store.format.records import RunInfo, pack_samples, unpack_samples
from losslake.store.lake import Lake
from losslake.store.query.views import VIEWS
from losslake.store.read.catalogue import results, results_with
from losslake.store.upkeep import compact as compaction
from losslake.store.upkeep import forget as forgetting
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.export import export
from losslake.store.upkeep.forget import forget
from losslake.store.upkeep.gc import collect_garbage
from losslake.store.upkeep.verify import verify
from losslake.store.write import run_writer as writer
from losslake.store.write.checkpoints import CheckpointWriter, find_checkpoints
from losslake.store.write.results import save_result
from losslake.store.write.table_file import write_table
from machines import one_by_one
from polars.testing import assert_frame_equal
from run_data import SAMPLES, nine_runs
from warm import STORE, warm_python

MakeLake = Callable[..., Lake]
N = 24
SECRET = "Erika Mustermann"
GONE = (5, 17)
FORGOT = (7, 30, 50)


def make(lake_of: MakeLake, **more: Any) -> Lake:
    """Six runs with signals, two of them with traces; sample 5 is called by a name that is nowhere else."""
    rng = np.random.default_rng(0)
    keep = np.arange(6 * N).reshape(6, N) % 2 == np.arange(6)[:, None] % 2
    names = [f"person {i}" for i in range(N)]
    names[5] = SECRET
    made = lake_of(
        keep,
        rng.normal(0, 2, (6, N, 2)),
        logits=rng.normal(0, 2, (6, N, 2, 3)).astype(np.float16),
        traces={"loss": rng.random((N, 4))},
        train_traces={"loss": np.ma.masked_array(rng.random((N, 4)), ~np.tile(keep[0][:, None], 4))},
        columns={"key": [f"key/{n}" for n in names], "name": names, "tags": [[n] for n in names]},
        **more,
    )
    with open_source(made, "tests") as source:
        run_analysis(source, ANALYSES[0])
    return made


@pytest.fixture
def lake(lake_of: MakeLake) -> Lake:
    return make(lake_of)


def files_of(lake: Lake) -> list[Path]:
    return [path for path in Path(lake.path).rglob("*") if path.is_file()]


def check_gone(lake: Lake, ids: tuple[int, ...] = GONE, experiment: str = "tests") -> None:
    """No Parquet file of the lake, listed or not, has a row of ``ids``, and no file the name."""
    for path in files_of(lake):
        assert SECRET.encode() not in path.read_bytes()
        if path.suffix == ".parquet" and f"experiment={experiment}" in str(path):
            rows = pq.read_table(path, partitioning=None)
            of_ids = rows.filter(np.isin(rows["sample_id"].to_numpy(), ids))
            if "pool" in rows.column_names:
                assert of_ids["pool"].to_pylist() == ["forgotten"] * len(of_ids)
                rest = of_ids.drop_columns(["sample_id", "pool"]).to_pylist()
                assert all(value is None for row in rest for value in row.values())
            else:
                assert len(of_ids) == 0, path
    found = verify(lake)
    assert (found.damage, found.remembered) == ((), ())


def others(lake: Lake, view: str) -> pl.DataFrame:
    frame = lake.sql(f"from {view} order by all")
    return frame.filter(~pl.col("sample_id").is_in(GONE)) if "sample_id" in frame.columns else frame


LAYOUTS = ("own files", "shared files", "own files that become shared")


def lay_out(lake: Lake, files: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if files == LAYOUTS[1]:
        compact(lake, "tests", least=2)
    if files == LAYOUTS[2]:
        monkeypatch.setattr(compaction, "LEAST", 2)


@pytest.mark.parametrize("files", LAYOUTS)
def test_rows_are_removed_everywhere_and_all_others_stay(
    lake: Lake, files: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = pa.array([f"png of {i}".encode() for i in range(N)])
    lake.create_experiment("drawn", pa.table({"label": [0] * N}), pictures=pictures)
    lay_out(lake, files, monkeypatch)
    before = {view: others(lake, view) for view in VIEWS if view not in ("scores", "risk", "metrics", "runs")}
    digest, members = lake.experiment("tests").digest, {run.run: run.members for run in lake.runs("tests")}
    rows = {"samples": 2, "signals": 24, "traces": 4 - 0, "scores": 2, "results": 1}
    dry = forget(lake, "tests", GONE, dry_run=True)
    assert lake.sql("select count(*) from samples where pool = 'audit'").item() == 2 * N
    done = forget(lake, "tests", GONE)
    assert {**done.rows, "files": 0} == {**dry.rows, "files": 0}
    rows["traces"] = done.rows["traces"]  # eval of both, train of those that the target trained on
    assert {name: done.rows[name] for name in rows} == rows
    assert rows["traces"] == 2 + sum(sample % 2 == 0 for sample in GONE)
    check_gone(lake)
    signals = [file for run in lake.runs("tests") for file in run.files if file.table == "signals"]
    assert all((file.shared is None) == (files == LAYOUTS[0]) for file in signals)
    for view, frame in before.items():
        assert_frame_equal(others(lake, view), frame)
    known = lake.experiment("tests")
    assert (known.digest, known.samples, known.forgotten) == (digest, N, GONE)
    assert (known.forgettings[0].rows, bool(known.forgettings[0].finished)) == (dry.rows, True)
    assert results(lake, "tests") == []
    # Who was a member cannot be told from the counts.
    for run in lake.runs("tests"):
        number = int(run.run[-1])
        assert run.members == members[run.run] - sum(sample % 2 == number % 2 for sample in GONE)
    forget(lake, "drawn", [3])
    assert set(lake.pictures("drawn", list(range(N)))) == set(range(N)) - {3}
    assert not any(row == b"png of 3" for row in lake.pictures("drawn", [3]).values())


def test_again_removes_nothing_and_one_more_keeps_the_first(lake: Lake) -> None:
    compact(lake, "tests", least=2)
    forget(lake, "tests", [5])
    listed = {file.path for run in lake.runs("tests") for file in run.files}
    again = forget(lake, "tests", [5])
    assert (again.rows, again.samples, again.completed) == ({}, (5,), False)
    assert {file.path for run in lake.runs("tests") for file in run.files} == listed
    forget(lake, "tests", keys=["key/person 17"])
    check_gone(lake)
    assert [each.samples for each in lake.experiment("tests").forgettings] == [(5,), (17,)]
    assert compact(lake, "tests", least=2).left_out == ()
    check_gone(lake)


def test_all_samples_of_runs_and_of_the_experiment(lake: Lake) -> None:
    compact(lake, "tests", least=2)
    forget(lake, "tests", range(N))
    check_gone(lake, tuple(range(N)))
    for view in ("signals", "traces", "trace_points"):
        assert len(lake.sql(f"from {view}")) == 0 == len(lake.scan(view).collect())
    assert lake.sql("select count(*), sum(members) from runs").row(0) == (6, 0)
    assert all(len(rows) == 0 for run in lake.runs("tests") for rows in lake.run_rows(run))
    with open_source(lake, "tests") as source:
        assert [len(frame) for frame in source.rows_of_each(source.runs, "signals", ["phi"])] == [0] * 6


def test_unknown_samples_and_keys(lake: Lake) -> None:
    with pytest.raises(InvalidOption, match="no sample named"):
        forget(lake, "tests")
    for sample in (-1, N):
        with pytest.raises(NotFound, match=f"no sample {sample} in experiment 'tests'"):
            forget(lake, "tests", [sample])
    with pytest.raises(NotFound, match="has the key 'nobody'"):
        forget(lake, "tests", keys=["nobody"])
    assert lake.experiment("tests").forgettings == ()


def test_what_runs_tell_of_themselves(lake_of: MakeLake) -> None:
    taught = pack_samples(np.ones(N, dtype=bool))
    extra = {"distilled_on": {"pool": "audit", "records": N, "samples": taught}}
    lake = make(lake_of, extras=[extra] * 6)
    forget(lake, "tests", GONE)
    told = lake.run("tests", "run-0001").info.extra["distilled_on"]
    assert np.flatnonzero(~unpack_samples(told["samples"], N)).tolist() == list(GONE)


# --- analyses ----------------------------------------------------------------------------------------------


def answers(lake: Lake) -> Iterator[tuple[str, Any, Any]]:
    with open_source(lake, "tests") as source:
        for entry in (*ANALYSES, *EVALUATIONS):
            try:
                if entry in ANALYSES:
                    outcome = run_analysis(source, entry)
                    yield entry.name, outcome.scores.frame, outcome.metrics
                else:
                    yield (
                        entry.name,
                        None,
                        run_evaluation(source, entry, entry.default_scores or ("lt-iqr", "lira")).metrics,
                    )
            except LosslakeError as error:
                yield entry.name, None, str(error)


def rounded(told: object, lake: Lake) -> str:
    """Metrics, or why there are none, to eight digits; engines add numbers up in any order."""
    return re.sub(
        r"\d+\.\d+(e-?\d+)?", lambda found: f"{float(found[0]):.8g}", str(told).replace(lake.path, "")
    )


@pytest.fixture(scope="module")
def both(lake_of: MakeLake) -> tuple[Lake, Lake]:
    """A lake that has forgotten two audit samples and one of the population, and one in which they never had rows."""

    def made(without: bool) -> Lake:
        rng = np.random.default_rng(1)
        runs = nine_runs(rng)
        there = np.ones(SAMPLES, dtype=bool)
        traces: Any = rng.random((SAMPLES, 6))
        if without:
            there[list(FORGOT)] = False
            traces = np.ma.masked_array(traces, np.tile(~there[:, None], 6))
            runs["keep"] &= there
        return lake_of(**runs, traces={"loss": traces}, held=np.tile(there, (9, 1)))

    forgot, never = made(False), made(True)
    # In its samples they are called forgotten as well: this is all that is taken over from the code under test.
    known = never.experiment("tests")
    path = paths.experiment_manifest("tests")
    (file,) = known.files
    rows = pl.DataFrame(never.read_file(file))
    out = pl.col("sample_id").is_in(FORGOT)
    emptied = [
        pl.when(out).then(None).otherwise(pl.col(name)).alias(name)
        for name in rows.columns
        if name not in ("sample_id", "pool")
    ]
    rows = rows.with_columns(*emptied, pool=pl.when(out).then(pl.lit("forgotten")).otherwise(pl.col("pool")))
    never.files.delete(file.path)
    new = write_table(never.files, "samples", file.path, rows.to_arrow().cast(forgot.samples("tests").schema))
    content = {**manifest.load(never.files, path), "files": manifest.files_to_json((new,))}
    never.files.put(path, manifest.dump(content))
    with open_source(forgot, "tests") as source:
        run_analysis(source, ANALYSES[0])
    forget(forgot, "tests", FORGOT)
    return forgot, never


def test_every_analysis_finds_what_it_would_without(both: tuple[Lake, Lake]) -> None:
    forgot, never = both
    check_gone(forgot, FORGOT)
    ran = 0
    for (name, scores, metrics), (_, expected, told) in zip(answers(forgot), answers(never), strict=True):
        if scores is not None:
            assert not set(scores["sample_id"]) & set(FORGOT), name
            assert_frame_equal(scores, expected)
            ran += 1
        assert rounded(metrics, forgot) == rounded(told, never), name
    assert ran > 10
    check_gone(forgot, FORGOT)


def test_a_report_shows_nothing_of_it(lake: Lake, tmp_path: Path) -> None:
    shown = ["report", "--lake", lake.path, "--experiment", "tests", "--out", str(tmp_path / "r.html")]
    forget(lake, "tests", GONE)
    done = CliRunner().invoke(cli, shown)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "r.html").read_text()
    assert SECRET not in text
    assert "person 17" not in text
    export(lake, tmp_path / "copy.duckdb")
    assert SECRET.encode() not in (tmp_path / "copy.duckdb").read_bytes()
    check_gone(lake)


# --- writers -----------------------------------------------------------------------------------------------


def append(out: writer.RunWriter, value: float = 1.0) -> None:
    ids = np.arange(N)
    out.append_epoch("eval", 0, ids[::-1], loss=np.full(N, value))
    out.append_epoch("eval", 1, ids, loss=np.full(N, value))
    out.append_traces("train", ids[::-1], loss=np.tile(ids[::-1, None], 2) * value)
    # Not finite for the forgotten: what is dropped is not looked at.
    out.append_signals(ids, ids * 0, ids * 0, loss=np.full(N, value), phi=np.full(N, value))


def test_a_writer_drops_rows_and_refuses_members(lake: Lake) -> None:
    forget(lake, "tests", GONE)
    with pytest.raises(InvalidInput, match=r"sample 5 .* was forgotten"):
        lake.write_run("tests", "late", members=np.ones(N, dtype=bool))
    members = np.arange(N) < 5
    with lake.write_run("tests", "late", members=members) as out:
        append(out)
        run = out.commit(RunInfo(role="shadow"))
    assert run.members == 5
    check_gone(lake)
    traces = lake.sql(
        "select sample_id, loss[1] as first from traces where run = 'late' and source = 'train'"
    )
    assert sorted(traces.rows()) == [(i, float(i)) for i in range(N) if i not in GONE]
    assert lake.sql("select count(*) from signals where run = 'late'").item() == N - 2


def test_a_writer_that_began_before_does_not_bring_it_back(lake: Lake) -> None:
    with lake.write_run("tests", "late", members=np.arange(N) % 2 == 1) as out:
        append(out)
        done = forget(lake, "tests", GONE)
        assert any(path.startswith("staging/") for path in done.pending)
        out.commit(RunInfo(role="shadow"))
    assert lake.run("tests", "late").members == N // 2 - 2
    check_gone(lake)


def test_forgetting_at_the_very_moment_of_a_commit(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    put, inside = lake.files.put_if_absent, []

    def slow(path: str, data: bytes) -> bool:
        if path == paths.run_manifest("tests", "late") and not inside:
            inside.append(path)
            forget(
                Lake.open(lake.path), "tests", GONE
            )  # after the writer has looked, before its run is there
        return put(path, data)

    with lake.write_run("tests", "late", members=np.arange(N) % 2 == 1) as out:
        append(out)
        monkeypatch.setattr(lake.files, "put_if_absent", slow)
        run = out.commit(RunInfo(role="shadow"))
    assert run.members == N // 2 - 2
    check_gone(lake)


def test_a_result_on_its_way_is_not_kept(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    put = lake.files.put
    scores = pa.table({"sample_id": range(N), "member": [True] * N, "score": [0.0] * N})

    def keep(name: str) -> None:
        save_result(lake, "tests", name, "run-0000", "", options={}, notes=[], metrics=[], scores=scores)

    def slow(path: str, data: bytes) -> None:
        if path.startswith("results/"):
            monkeypatch.undo()
            forget(Lake.open(lake.path), "tests", GONE)
        put(path, data)

    monkeypatch.setattr(lake.files, "put", slow)
    with pytest.raises(
        ForgottenMeanwhile, match="2 samples of experiment 'tests' were forgotten while loss was computed"
    ):
        keep("loss")  # not kept without a word: its metrics would be told as those of the others
    assert results(lake, "tests") == []
    check_gone(lake)
    keep("loss")
    (kept,) = results(lake, "tests")
    assert kept.file is not None
    assert kept.file.rows == N - 2
    check_gone(lake)
    forget(lake, "tests", GONE)  # and stays where it is forgotten again
    assert results(lake, "tests") == [kept]


def analysed(lake: Lake, place: Path) -> None:
    with open_source(lake, "tests") as source:
        run_analysis(source, find("loss"))


def evaluated(lake: Lake, place: Path) -> None:
    with open_source(lake, "tests") as source:
        run_evaluation(source, find_evaluation("by-group"), ("lt-iqr",), {"by": "name"})


def masked(lake: Lake, place: Path) -> None:
    with open_source(lake, "tests") as source:
        run_analysis(source, find("loss"), {"mask": "top-k:2"})


def reported(lake: Lake, place: Path) -> None:
    write_report(lake, "tests", place / "report.html")


def exported(lake: Lake, place: Path) -> None:
    export(lake, place / "copy.duckdb")


WAYS = {each.__name__: each for each in (analysed, evaluated, masked, reported, exported)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_what_was_read_before_is_not_kept(
    lake_of: MakeLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, share: float
) -> None:
    """Somebody forgets at a moment of whatever reads the lake, told by the reads and writes of files before it."""
    fresh = make(lake_of)
    for path in fresh.files.list("results"):
        fresh.files.delete(path)
    kept = tmp_path / "kept"
    shutil.copytree(fresh.path, kept)
    moments = [0]

    def counting(at: int) -> Any:
        original = LocalFiles.location

        def location(self: LocalFiles, path: str) -> str:
            if self.root not in (fresh.files.root, other.files.root):  # another's lease is renewed
                return original(self, path)
            moments[0] += 1
            if moments[0] == at:
                monkeypatch.undo()
                forget(Lake.open(fresh.path), "tests", GONE)
            return original(self, path)

        return location

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    other = Lake.open(kept)
    monkeypatch.setattr(LocalFiles, "location", counting(-1))
    WAYS[way](other, tmp_path / "a")
    monkeypatch.undo()
    whole, moments[0] = moments[0], 0
    lake = Lake.open(fresh.path)
    monkeypatch.setattr(LocalFiles, "location", counting(max(1, round(share * whole))))
    with contextlib.suppress(ForgottenMeanwhile):
        WAYS[way](lake, tmp_path / "b")
    monkeypatch.undo()
    assert lake.experiment("tests").forgotten == GONE
    check_gone(lake)
    for path in (tmp_path / "b").iterdir():
        assert SECRET.encode() not in path.read_bytes()
        path.unlink()
    assert results_with(lake, "tests", GONE) == []
    WAYS[way](lake, tmp_path / "b")  # and done again it is kept
    assert (results(lake, "tests") != []) == (way != "exported")
    check_gone(lake)


def test_names_of_classes_that_are_gone(lake_of: MakeLake) -> None:
    labels = [2 if i in GONE else i % 2 for i in range(N)]
    lake = lake_of(np.ones((1, N), dtype=bool), np.zeros((1, N)), experiment="plain")
    for name, kind in (("list", ["a", "b", SECRET]), ("dict", {"0": "a", "1": "b", "2": SECRET})):
        lake.create_experiment(name, pa.table({"label": labels}), dataset={"classes": kind})
        forget(lake, name, GONE[:1])
        assert lake.experiment(name).dataset["classes"] == kind
        forget(lake, name, GONE[1:])
        check_gone(lake, GONE, name)
        assert (
            set(lake.experiment(name).dataset["classes"])
            == {"list": {"a", "b", None}, "dict": {"0", "1"}}[name]
        )
        # One of before, when the names stayed.
        path = paths.experiment_manifest(name)
        content = manifest.load(lake.files, path)
        lake.files.put(path, manifest.dump({**content, "dataset": {"classes": kind}}))
        assert "names classes that only forgotten samples were of" in verify(lake).remembered[0]
        forget(lake, name)
        check_gone(lake, GONE, name)


def test_verify_and_forget_find_results_without_scores(lake: Lake) -> None:
    save_result(
        lake,
        "tests",
        "by-group",
        "run-0000",
        "",
        options={},
        notes=[],
        metrics=[{"metric": SECRET}],
        scores=None,
    )
    (path,) = (path for path in lake.files.list("results") if "by-group" in path)
    before = lake.files.read(path)
    forget(lake, "tests", GONE)
    lake.files.put(path, before)  # as a failure of power may bring it back
    assert verify(lake).remembered == (
        f"{path} was computed with forgotten samples; run 'losslake lake forget --experiment tests'",
    )
    assert forget(lake, "tests").rows == {}
    check_gone(lake)


def test_a_checkpoint_of_a_run_begun_before_is_not_made(lake: Lake) -> None:
    ids = np.arange(N)
    with lake.write_run("tests", "late", members=ids % 2 == 1) as out:
        checkpoints = CheckpointWriter(lake.files, "tests", "late", out.token)
        assert not checkpoints.write(1, "0" * 64, b"state", {})
        forget(lake, "tests", GONE)
        assert lake.files.list("checkpoints") == []  # its writer is at work, and will not go on from it
        with pytest.raises(ForgottenMeanwhile, match="forgotten since run 'late' began"):
            checkpoints.write(2, "0" * 64, b"state", {})
        assert lake.files.list("checkpoints") == []
    with lake.write_run("tests", "late", members=(ids % 2 == 1) & ~np.isin(ids, GONE)) as out:
        CheckpointWriter(lake.files, "tests", "late", out.token).write(1, "0" * 64, b"state", {})
        forget(lake, "tests")
        ((found,), damage) = find_checkpoints(lake.files, "tests", "late")
        assert (found.forgotten, damage) == (GONE, [])
        forget(lake, "tests", [1])
        assert find_checkpoints(lake.files, "tests", "late") == ([], [])


def test_what_was_deleted_is_settled_before_it_is_called_finished(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    compact(lake, "tests", least=2)
    open_folders = {}
    unsettled: set[str] = set()
    finished = []
    inside = f"{lake.files.root}/"
    really = {name: getattr(os, name) for name in ("open", "fsync", "unlink", "rmdir")}

    def opened(path: Any, *args: Any, **more: Any) -> int:
        handle = int(really["open"](path, *args, **more))
        open_folders[handle] = str(path)
        return handle

    def synced(handle: int) -> None:
        really["fsync"](handle)
        unsettled.discard(open_folders.get(handle, ""))

    def removed(path: Any) -> None:
        really["unlink" if os.path.isfile(path) else "rmdir"](path)
        if str(path).startswith(inside) and "/claims" not in str(path) and ".tmp-" not in str(path):
            unsettled.discard(str(path))
            unsettled.add(os.path.dirname(path))

    finish = forgetting._finish

    def finishing(*args: Any) -> None:
        finished.append(set(unsettled))
        finish(*args)

    monkeypatch.setattr(forgetting, "_finish", finishing)
    for name, instead in (("open", opened), ("fsync", synced), ("unlink", removed), ("rmdir", removed)):
        monkeypatch.setattr(os, name, instead)
    forget(lake, "tests", GONE)
    assert finished == [set()]
    monkeypatch.setattr(LocalFiles, "settle", lambda self, folder: None)
    forget(lake, "tests", [1])
    assert finished[1] != set()  # what this test would see
    monkeypatch.undo()
    check_gone(lake)


# --- what killed writers left ------------------------------------------------------------------------------

LEAVE = """
import os, sys
import numpy as np
from losslake.store.write.checkpoints import CheckpointWriter
from losslake.store.lake import Lake
lake = Lake.open(sys.argv[1])
n = lake.experiment("tests").samples
out = lake.write_run("tests", "killed", members=np.zeros(n, dtype=bool))
ids = np.arange(n)
out.append_epoch("eval", 0, ids, loss=np.zeros(n))
out.append_signals(ids, ids * 0, ids * 0, loss=np.zeros(n), phi=np.zeros(n))
CheckpointWriter(lake.files, "tests", "killed", out.token).write(1, "0" * 64, b"state", {})
os._exit(9)
"""


def test_leftovers_checkpoints_and_retired_files(lake: Lake) -> None:
    subprocess.run([*warm_python(STORE), "-c", LEAVE, lake.path], check=False)
    with open_source(lake, "tests") as source:
        run_analysis(source, ANALYSES[0])  # replaces a result
    compact(lake, "tests", least=2)  # retires files
    assert any(path.startswith("checkpoints/") for path in lake.files.list("checkpoints"))
    done = forget(lake, "tests", GONE)
    assert done.pending == ()
    assert done.rows["files"] > 5
    check_gone(lake)
    for folder in ("staging", "checkpoints", "signals"):
        # What says that a run had begun holds no rows.
        assert [path for path in lake.files.list(folder) if not path.endswith("/begun.json")] == []
    # One that was begun before, and killed after.
    with lake.write_run("tests", "begun", members=np.zeros(N, dtype=bool)):
        CheckpointWriter(lake.files, "tests", "begun", "a" * 24).write(1, "0" * 64, b"state", {})
    assert verify(lake).remembered == ()
    forget(lake, "tests", GONE)
    assert len(lake.files.list("checkpoints")) == 2  # it knew


def test_verify_tells_of_rows_that_are_around(lake: Lake) -> None:
    forget(lake, "tests", GONE)
    path = paths.experiment_manifest("tests")
    whole = manifest.load(lake.files, path)
    lake.files.put(path, manifest.dump({**whole, "forgotten": []}))
    with lake.write_run("tests", "late", members=np.zeros(N, dtype=bool)) as out:
        append(out)
        out.commit(RunInfo(role="shadow"))
    subprocess.run([*warm_python(STORE), "-c", LEAVE, lake.path], check=False)
    lake.files.put(path, manifest.dump(whole))
    told = "\n".join(verify(lake).remembered)
    assert len(re.findall(r"run=late/\S+ holds 2 rows of forgotten samples", told)) == 3
    assert re.search(r"staging/\S+run=killed/\S+, which a writer left that is gone", told)
    shown = CliRunner().invoke(cli, ["lake", "verify", "--lake", lake.path])
    assert shown.exit_code == 1
    assert "not forgotten: signals/" in shown.output
    done = forget(lake, "tests", [5])
    assert done.rows["signals"] == 1
    check_gone(lake)


# --- killed and others at the same time --------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.mark.parametrize("files", LAYOUTS)
def test_killed_before_any_change_it_is_completed_by_the_same_call(
    lake_of: MakeLake, files: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before each of its writes and deletions in turn; what is there is whole at any time."""
    kinds = ("put", "delete", "create")
    step = 0
    while True:
        lake = make(lake_of)
        lay_out(lake, files, monkeypatch)
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

        monkeypatch.setattr(LocalFiles, "put_all", one_by_one)
        for kind in kinds:
            monkeypatch.setattr(lake.files, kind, stopping(kind))
        try:
            forget(lake, "tests", keys=["key/person 17", f"key/{SECRET}"])
            break
        except Killed:
            monkeypatch.undo()
        again = Lake.open(lake.path)
        begun = bool(again.experiment("tests").forgettings)
        assert verify(again).damage == ()
        assert begun == bool(verify(again).remembered)
        if begun:
            shown = CliRunner().invoke(cli, ["lake", "info", "--lake", lake.path])
            assert "(2 of them forgotten)" in shown.output
        forget(again, "tests", keys=["key/person 17", f"key/{SECRET}"])
        check_gone(again)
        assert again.experiment("tests").forgotten == GONE
        step += 11 if files == LAYOUTS[0] else 6
    assert step > 20


def test_a_writer_whose_run_another_one_committed_is_told_so(lake: Lake) -> None:
    """Whoever forgets removes what it had written: it is not needed any more."""
    ids = np.arange(N)
    late, first = (lake.write_run("tests", "both", members=ids % 2 == 0) for _ in range(2))
    for out in (late, first):
        out.append_signals(ids, ids * 0, None, loss=ids * 1.0, phi=ids * 1.0)
    first.commit(RunInfo(role="shadow"))
    forget(lake, "tests", GONE)
    with pytest.raises(AlreadyExists, match="is in the lake already"):
        late.commit(RunInfo(role="shadow"))
    check_gone(lake)


FORGET = """
import sys
from losslake.store.upkeep.forget import forget
from losslake.store.lake import Lake
print("ready", flush=True)
forget(Lake.open(sys.argv[1]), "tests", [5, 17])
"""


def test_killed_for_real(lake_of: MakeLake) -> None:
    seed = random.Random(3)
    for _ in range(2):
        lake = make(lake_of)
        process = subprocess.Popen([*warm_python(STORE), "-c", FORGET, lake.path], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seed.uniform(0, 0.08))
        process.kill()
        process.communicate()
        assert verify(lake).damage == ()
        forget(lake, "tests", GONE)
        check_gone(lake)


def test_readers_look_again(lake: Lake) -> None:
    ask = "select count(*) from signals"
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_source(lake, "tests"))
        assert source.sql(ask).item() == 6 * N * 2
        forget(lake, "tests", GONE)
        assert source.sql(ask).item() == 6 * (N - 2) * 2
        assert {len(rows) for rows in source.rows_of_each(source.runs, "signals", ["phi"])} == {(N - 2) * 2}
        with pytest.raises(ForgottenMeanwhile):  # what came of the first answer is told to nobody
            stack.close()


def test_a_compaction_and_garbage_collection_go_on_beside(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = forgetting.copy_without

    def slow(*given: Any, **more: Any) -> Any:
        with pytest.raises(LosslakeError, match="another process compacts, migrates or forgets"):
            compact(Lake.open(lake.path), "tests", least=2)
        monkeypatch.setattr(forgetting, "copy_without", copy)
        collect_garbage(lake)
        return copy(*given, **more)

    monkeypatch.setattr(forgetting, "copy_without", slow)
    forget(lake, "tests", GONE)
    check_gone(lake)


def test_writers_and_compactions_go_on_while_samples_are_forgotten(lake_of: MakeLake) -> None:
    lake = make(lake_of)
    failed: list[Exception] = []

    def repeat(act: Callable[[Lake, int], None]) -> None:
        own = Lake.open(lake.path)
        for number in range(6):
            try:
                act(own, number)
            except LosslakeError as error:
                if "another process compacts" not in str(error):
                    failed.append(error)

    def write(own: Lake, number: int) -> None:
        with own.write_run("tests", f"late-{number:04d}", members=np.zeros(N, dtype=bool)) as out:
            append(out)
            out.commit(RunInfo(role="shadow"))

    def share(own: Lake, _: int) -> None:
        compact(own, "tests", least=2)
        time.sleep(0.05)

    threads = [threading.Thread(target=repeat, args=(act,)) for act in (write, share)]
    for thread in threads:
        thread.start()
    for sample in (5, 17, 3):
        while True:  # the compaction may have the claim
            with contextlib.suppress(LosslakeError):
                forget(lake, "tests", [sample])
                break
    for thread in threads:
        thread.join()
    assert failed == []
    found = forget(lake, "tests", [3])  # what was retired or half done when it was told to stop
    assert found.rows.keys() <= {"files"}
    check_gone(lake, (3, 5, 17))


# --- the command -------------------------------------------------------------------------------------------


def test_command(lake: Lake) -> None:
    def run(*given: str) -> Any:
        return CliRunner().invoke(cli, ["lake", "forget", "--lake", lake.path, *given])

    shown = run("--sample", "5", "--key", "key/person 17", "--dry-run")
    assert shown.output.startswith("tests: would remove of 2 samples: samples 2, signals 24, traces ")
    assert run("--sample", "5", "--key", "key/person 17").exit_code == 0
    check_gone(lake)
    assert "tests: removed of 1 samples: nothing" in run("--sample", "5").output
    assert "models keep what they learned" in run("--sample", "5").output
    missing = run("--key", "key/person 17")
    assert (missing.exit_code, "forgotten ones have none" in str(missing.exception)) == (1, True)
    info = CliRunner().invoke(cli, ["lake", "info", "--lake", lake.path]).output
    assert f"tests: {N} samples (2 of them forgotten)" in info


PERSON = "key/person 17"


def test_other_experiments_with_the_same_key_are_named(lake: Lake) -> None:
    """With the command that forgets it there too; by a number that nobody gave, of the same data set alone."""
    for name, keys in (
        ("march", ["a b", PERSON, "c"]),
        ("april", [PERSON, "a b", None]),
        ("may", ["d", "e", "f"]),
    ):
        lake.create_experiment(name, pa.table({"label": [0] * 3, "key": keys}))
    for name, of in (("one", "mine"), ("two", "mine"), ("three", "theirs")):
        lake.create_experiment(name, pa.table({"label": [0] * 3}), dataset={"spec": of})

    def run(*given: str) -> list[str]:
        done = CliRunner().invoke(cli, ["lake", "forget", "--lake", lake.path, *given])
        return [line for line in done.stdout.splitlines() if line.startswith("still in")]

    asked = ("--experiment", "march", "--sample", "0", "--sample", "1")
    expected = [
        "still in experiment april, by the same key: 2 samples; to forget there too: losslake lake forget "
        f"--lake {lake.path} --experiment april --key {shlex.quote(PERSON)} --key 'a b'",
        "still in experiment tests, by the same key: 1 sample; to forget there too: losslake lake forget "
        f"--lake {lake.path} --experiment tests --key {shlex.quote(PERSON)}",
    ]
    assert run(*asked, "--dry-run") == expected
    assert run(*asked) == expected
    assert run(*asked) == []  # it has no key any more
    for line in expected:
        command = shlex.split(line.partition(": losslake ")[2])
        assert CliRunner().invoke(cli, command).exit_code == 0
    assert lake.sql("select * from samples").filter(pl.col("key").is_in([PERSON, "a b"])).height == 0
    assert [line.split(",")[0] for line in run("--experiment", "one", "--sample", "1")] == [
        "still in experiment two"
    ]
    assert run("--experiment", "may", "--sample", "1") == []


def test_a_damaged_experiment_keeps_nobody_from_forgetting_in_another(lake: Lake) -> None:
    for name in ("march", "april"):
        lake.create_experiment(name, pa.table({"label": [0] * 3, "key": ["a", "b", "c"]}))
    next(Path(lake.path).glob("samples/experiment=april/*.parquet")).write_bytes(b"nothing")
    asked = ["lake", "forget", "--lake", lake.path, "--experiment", "march", "--key", "b"]
    done = CliRunner().invoke(cli, asked)
    assert done.exit_code == 0
    assert (
        "experiment april is damaged, and may have samples of the same key: see 'losslake lake verify"
        in done.stdout
    )
    assert (
        lake.sql("select count(key) as n from samples where experiment = 'march'", experiment="march").item()
        == 2
    )
