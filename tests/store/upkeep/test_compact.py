"""Runs that share files: nothing that a reader sees changes, whatever happens while they come to."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from losslake.analysis.attacks.logits import logits_of
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.cli import cli
from losslake.store.errors import CorruptLake, LosslakeError
from losslake.store.format import manifest, paths
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.query.connection import connect
from losslake.store.query.views import VIEWS
from losslake.store.read.catalogue import fingerprint
from losslake.store.upkeep import compact as compaction
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.export import export
from losslake.store.upkeep.verify import verify
from losslake.store.write import leases
from losslake.store.write.leases import claim
from polars.testing import assert_frame_equal
from warm import STORE, warm_python

MakeLake = Callable[..., Lake]
N = 30


@pytest.fixture
def lake(lake_of: MakeLake) -> Lake:
    """Seven runs: half of the logits in single precision, two traces of the first, values that are not finite."""
    rng = np.random.default_rng(0)
    keep = rng.random((4, N)) < 0.5
    phi = rng.normal(0, 2, (4, N, 2))
    loss = np.logaddexp(0, -phi)
    loss[:, 3] = np.inf
    traces = {"loss": np.where(rng.random((N, 5)) < 0.2, np.nan, rng.random((N, 5)))}
    made = lake_of(
        keep,
        phi,
        loss=loss,
        logits=rng.normal(0, 2, (4, N, 2, 3)).astype(np.float16),
        traces=traces,
        train_traces={"grad_norm": np.ma.masked_array(rng.random((N, 5)), ~np.tile(keep[0][:, None], 5))},
        columns={"note": ["x'y"] * N},
    )
    single = rng.normal(0, 2, (3, N, 3)).astype(np.float32)
    names = ["1e5", "null", "zz"]
    lake_of(keep[:3], logits=single, lake=made, names=names, roles=["shadow"] * 3, traces=traces)
    return made


def rows_of(lake: Lake) -> dict[str, pl.DataFrame]:
    return {view: lake.sql(f"from {view} order by all") for view in VIEWS}


def check_rows(lake: Lake, expected: dict[str, pl.DataFrame]) -> None:
    for view, frame in rows_of(lake).items():
        assert_frame_equal(frame, expected[view])


def small(lake: Lake, runs: int, rows: int = 4, first: int = 0) -> None:
    """Commit runs with ``rows`` signals each, whose phi is the run's number."""
    ids = np.arange(rows)
    for number in range(first, first + runs):
        with lake.write_run("e", f"run-{number:04d}", members=ids % 2 == 0) as writer:
            values = np.full(rows, number)
            writer.append_signals(ids, ids * 0, None, loss=values, phi=values)
            writer.commit(RunInfo(role="shadow", seed=number))


@pytest.fixture
def many(tmp_path: Path) -> Lake:
    made = Lake.open(tmp_path / "lake", create=True)
    made.create_experiment("e", pa.table({"label": [0, 1, 2, 3]}))
    small(made, 20)
    return made


def shared_files(lake: Lake, experiment: str) -> set[str]:
    return {file.path for run in lake.runs(experiment) for file in run.files if file.shared}


# --- what readers see --------------------------------------------------------------------------------------


def test_every_reader_sees_the_same_before_and_after(lake: Lake, tmp_path: Path) -> None:
    before, marks = rows_of(lake), fingerprint(lake, "tests")
    runs = lake.runs("tests")
    files = {(run.run, i): lake.read_file(file) for run in runs for i, file in enumerate(run.files)}
    with open_source(lake, "tests") as source:
        pieces = {run.run: [p.values for p in logits_of(source, run, query=None)] for run in source.runs}
        lists = source.rows_of_each(source.runs[::-1], "signals", ["sample_id", "phi"])
        scores = find("lira").compute(source).frame

    done = compact(lake, "tests", least=2)
    assert (done.runs, done.files_before, done.left_out) == (7, 9, ())
    assert done.files_after == len(shared_files(lake, "tests")) == 3  # two kinds of logits, and eval traces
    assert fingerprint(lake, "tests") == marks
    assert verify(lake).damage == ()
    check_rows(lake, before)
    for run in lake.runs("tests"):
        assert sum(file.shared is not None for file in run.files) >= 1
        for i, file in enumerate(run.files):
            rows, expected = lake.read_file(file), files[run.run, i]
            assert rows.schema.equals(expected.schema)
            assert rows.equals(expected) or "nan" in str(expected.to_pylist())
            some = lake.read_file(file, columns=["sample_id"], filters=[("sample_id", "in", [1, 5])])
            assert set(some["sample_id"].to_pylist()) <= {1, 5}
            assert some.column_names == ["sample_id"]
    old = {run.run: run for run in runs}
    for run in lake.runs("tests"):
        assert (run.tables(), run.trace_sources()) == (old[run.run].tables(), old[run.run].trace_sources())
    with open_source(lake, "tests") as source:
        for run in source.runs:
            for found, values in zip(logits_of(source, run, query=None), pieces[run.run], strict=True):
                assert np.array_equal(found.values, values)
        for found, frame in zip(
            source.rows_of_each(source.runs[::-1], "signals", ["sample_id", "phi"]), lists, strict=True
        ):
            assert_frame_equal(found, frame)
        assert_frame_equal(find("lira").compute(source).frame, scores)
    for view, key in (("signals", "query"), ("traces", "source")):
        scanned = lake.scan(view).collect().sort("run", "sample_id", key)
        expected = lake.sql(f"from {view}").sort("run", "sample_id", key)
        assert_frame_equal(scanned, expected, check_dtypes=False)
    counts = export(lake, tmp_path / "out.duckdb", views=True)
    assert counts == {view: len(frame) for view, frame in before.items()}
    with duckdb.connect(str(tmp_path / "out.duckdb"), read_only=True) as connection:
        assert_frame_equal(connection.sql("from traces order by all").pl(), before["traces"])


def test_only_rows_of_runs_that_list_the_file_count(lake: Lake, tmp_path: Path) -> None:
    before = rows_of(lake)
    one = lake.run("tests", "run-0001")
    path = paths.run_manifest("tests", "run-0001")
    content = lake.files.read(path)
    compact(lake, "tests", least=2)
    lake.files.put(path, content)  # as if it had been replaced in the meantime
    assert lake.run("tests", "run-0001") == one
    check_rows(lake, before)
    for view, key in (("signals", "query"), ("traces", "source")):
        scanned = lake.scan(view).collect().sort("run", "sample_id", key)
        assert_frame_equal(scanned, before[view].sort("run", "sample_id", key), check_dtypes=False)
    assert export(lake, tmp_path / "out.duckdb", views=True)["signals"] == len(before["signals"])
    with connect(
        lake, "tests", runs=[run for run in lake.runs("tests") if run.run == "run-0002"]
    ) as connection:
        assert connection.sql("select distinct run from signals").fetchall() == [("run-0002",)]
    assert verify(lake).damage == ()


def test_a_query_for_one_run_reads_its_row_groups_alone(many: Lake) -> None:
    compact(many, "e")
    (path,) = shared_files(many, "e")
    footer = pq.read_metadata(many.files.location(path))
    assert footer.num_row_groups == 20
    for group, run in enumerate(many.runs("e")):
        column = footer.row_group(group).column(0)
        assert (column.path_in_schema, column.statistics.min, column.statistics.max) == (
            "run",
            run.run,
            run.run,
        )
        (file,) = run.files
        assert file.shared is not None
        assert (file.shared.first_group, file.shared.groups, file.shared.first_row) == (group, 1, 4 * group)
    assert sum(file.bytes for run in many.runs("e") for file in run.files) < many.files.size(path)


# --- when it does something ----------------------------------------------------------------------------------


def test_it_does_nothing_where_nothing_is_gained(many: Lake) -> None:
    assert compact(many, "e", least=21).runs == 0
    assert compact(many, "e", small=10).runs == 0
    told: list[tuple[int, int]] = []
    assert compact(many, "e", least=20, told=lambda *far: told.append(far)).runs == 20
    assert told == [(20, 20)]
    listed = many.runs("e")
    for least in (2, 20):
        assert compact(many, "e", least=least).runs == 0
    assert many.runs("e") == listed
    assert many.files.list("claims") == []


def test_files_fill_up_as_runs_come(many: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MOST_RUNS", 8)
    done = compact(many, "e")
    assert (done.runs, done.files_before, done.files_after) == (20, 20, 3)
    small(many, 3, first=20)
    done = compact(many, "e", least=4)  # the last one has four of eight runs: it is packed again
    assert (done.runs, done.files_before, done.files_after) == (7, 4, 1)
    assert len(shared_files(many, "e")) == 3
    assert many.sql(
        "select run, min(phi) as phi, count(*) as n from signals group by run order by run"
    ).rows() == [(f"run-{number:04d}", number, 4) for number in range(23)]
    assert verify(many).damage == ()


def test_a_run_without_rows_and_large_ones(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    lake.create_experiment("e", pa.table({"label": np.zeros(200_000, np.int32)}))
    small_ids = np.arange(5)
    for name, ids in (("none", small_ids[:0]), ("few", small_ids), ("large", np.arange(200_000))):
        with lake.write_run("e", name, members=np.zeros(200_000, bool)) as writer:
            writer.append_signals(ids, ids * 0, None, loss=ids, phi=ids)
            writer.commit(RunInfo(role="shadow"))
    before = lake.sql("from signals order by all")
    groups = pq.read_metadata(lake.files.location(lake.run("e", "large").files[0].path)).num_row_groups
    assert groups > 1
    done = compact(lake, "e", least=2)
    assert done.runs == 3
    sizes = {run.run: run.files[0] for run in lake.runs("e")}
    assert [sizes[name].shared.groups for name in ("none", "few", "large")] == [0, 1, groups]  # type: ignore[union-attr]
    assert_frame_equal(lake.sql("from signals order by all"), before)
    assert len(lake.read_file(sizes["none"])) == 0
    with open_source(lake, "e") as source:
        frames = source.rows_of_each(source.runs, "signals", ["sample_id"])
    assert [len(frame) for frame in frames] == [5, 200_000, 0]


def test_the_command(many: Lake) -> None:
    done = CliRunner().invoke(cli, ["lake", "compact", "--lake", many.path, "--least", "2"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("e: 20 files of 20 runs, ")
    assert ", became 1, " in done.output
    done = CliRunner().invoke(cli, ["lake", "compact", "--lake", many.path, "--experiment", "e"])
    assert (done.exit_code, done.output) == (0, "e: nothing to gain\n")
    assert (
        CliRunner().invoke(cli, ["lake", "compact", "--lake", many.path, "--experiment", "x"]).exit_code == 1
    )


def test_a_damaged_file_is_left_as_it_is(many: Lake) -> None:
    first, second = (
        Path(many.files.location(many.run("e", name).files[0].path)) for name in ("run-0003", "run-0007")
    )
    data = bytearray(first.read_bytes())
    data[40] ^= 1  # in its rows, before the footer
    first.write_bytes(data)
    second.unlink()
    done = CliRunner().invoke(cli, ["lake", "compact", "--lake", many.path])
    assert done.exit_code == 1
    assert done.output.count("damaged: ") == 2
    assert "run=run-0003" in done.output
    assert "run=run-0007" in done.output
    assert len([run for run in many.runs("e") if run.files[0].shared]) == 18
    assert len(verify(many).damage) == 2


def test_damage_of_a_shared_file_is_found_and_named(many: Lake) -> None:
    compact(many, "e")
    (path,) = shared_files(many, "e")
    victim = Path(many.files.location(path))
    whole = victim.read_bytes()
    for data in (whole[:-9], whole[: len(whole) // 2] + b"\xff" + whole[len(whole) // 2 + 1 :]):
        victim.write_bytes(data)
        assert len(verify(many).damage) == 1
        assert path in verify(many).damage[0]
    victim.write_bytes(b"no Parquet at all")
    for read in (lambda: many.read_file(many.runs("e")[3].files[0]), lambda: many.sql("from signals")):
        with pytest.raises(CorruptLake, match=path):
            read()
    path = paths.run_manifest("e", "run-0002")
    content = manifest.load(many.files, path)
    content["files"][0]["shared"]["first_group"] = 7
    many.files.put(path, manifest.dump(content))
    victim.write_bytes(whole)
    assert len(verify(many).damage) >= 1
    for key, value in (("groups", -1), ("rows", "4"), ("more", 1)):
        changed = {**content["files"][0]["shared"], key: value}
        many.files.put(
            path, manifest.dump({**content, "files": [{**content["files"][0], "shared": changed}]})
        )
        with pytest.raises(CorruptLake, match="run-0002"):
            many.run("e", "run-0002")
    elsewhere = {**content["files"][0], "path": "signals/experiment=e/run=run-0001/x.parquet"}
    many.files.put(path, manifest.dump({**content, "files": [elsewhere]}))
    with pytest.raises(CorruptLake, match="elsewhere"):
        many.run("e", "run-0002")


# --- others at the same time -------------------------------------------------------------------------------


def test_a_manifest_that_was_replaced_meanwhile_stays(many: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    path = paths.run_manifest("e", "run-0004")
    pack = compaction.pack

    def slow(*given: Any) -> Any:
        packed = pack(*given)
        content = manifest.load(many.files, path)
        many.files.put(path, manifest.dump({**content, "files": []}))
        return packed

    monkeypatch.setattr(compaction, "pack", slow)
    assert compact(many, "e").runs == 19
    assert many.run("e", "run-0004").files == ()
    assert many.sql("select count(distinct run) from signals").item() == 19
    assert len(lake_rows(many)) == 19 * 4


def lake_rows(lake: Lake) -> pl.DataFrame:
    return lake.scan("signals", "e").collect()


def test_a_second_compaction_is_kept_out_and_a_killed_one_is_not_in_the_way(many: Lake) -> None:
    with claim(many.files, "experiment=e"), pytest.raises(LosslakeError, match="another process"):
        compact(many, "e")
    holder = """
import sys
from losslake.store.write.leases import claim
from losslake.store.lake import Lake
with claim(Lake.open(sys.argv[1]).files, "experiment=e"):
    print("ready", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [*warm_python(STORE), "-c", holder, many.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(LosslakeError, match="another process"):
        compact(many, "e")
    process.kill()
    assert process.stdout.read() == "", "it has ended, before its input does"
    process.communicate()
    assert len(many.files.list("claims")) == 1
    assert compact(many, "e").runs == 20
    assert many.files.list("claims") == []


def test_of_many_claims_at_once_one_holds_at_a_time(many: Lake) -> None:
    inside, most, had = [0], [0], [0]

    def work() -> None:
        for _ in range(8):
            try:
                with claim(many.files, "experiment=e") as held:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    time.sleep(0.002)
                    held.renew()
                    inside[0] -= 1
                    had[0] += 1
            except LosslakeError:
                pass

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    assert had[0] >= 3


def test_a_claim_of_another_machine_counts_until_it_is_stale(
    many: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{paths.claims_folder('experiment=e')}/{'a' * 16}{'0' * 8}.json"
    lease = paths.lease("a" * 16)
    elsewhere = {"kind": "writer", "writer": "a" * 16, "host": "elsewhere", "pid": 1, "started": None}
    many.files.put(lease, manifest.dump(elsewhere))
    many.files.put(path, manifest.dump({"kind": "claim"}))
    monkeypatch.setattr(leases, "_TRIES", 1)
    with pytest.raises(LosslakeError, match="another process"):
        compact(many, "e")
    now = time.time()
    stale = now - leases.STALE.total_seconds() - 1
    with monkeypatch.context() as patch:  # a fast clock makes nothing stale
        patch.setattr(time, "time", lambda: now + leases.STALE.total_seconds() + 1)
        with pytest.raises(LosslakeError, match="another process"):
            compact(many, "e")
    # The files' own times say how long ago it was: the clocks of two machines may differ by more than an hour.
    for each in (path, lease):
        os.utime(Path(many.path) / each, (stale, stale))
    assert compact(many, "e").runs == 20
    with claim(many.files, "experiment=e") as held:
        many.files.delete(many.files.list("claims")[0])
        with pytest.raises(LosslakeError, match="was lost"):
            held.renew()


COMPACTOR = """
import sys
from losslake.store.upkeep import compact
from losslake.store.lake import Lake

lake = Lake.open(sys.argv[1])
compact.MOST_RUNS = 4
print("ready", flush=True)
compact.compact(lake, "e", least=2)
"""


def test_killed_at_any_instant_it_changes_nothing_for_readers(many: Lake) -> None:
    chance = random.Random(0)
    expected = rows_of(many)
    runs = 20
    for kill in range(6):
        process = subprocess.Popen(
            [*warm_python(STORE), "-c", COMPACTOR, many.path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        end = time.monotonic() + chance.uniform(0.0, 0.15)
        while time.monotonic() < end:  # readers and writers go on
            found = many.sql(
                "select run, min(phi) as phi, count(*) as n from signals group by run order by run"
            )
            assert found.rows() == [(f"run-{number:04d}", number, 4) for number in range(runs)]
        process.kill()
        assert process.communicate()[1] == ""
        if kill == 0:
            check_rows(many, expected)
        assert verify(many).damage == ()
        small(many, 2, first=runs)
        runs += 2
    expected = rows_of(many)
    compact(many, "e", least=2)
    assert all(run.files[0].shared for run in many.runs("e"))
    check_rows(many, expected)
