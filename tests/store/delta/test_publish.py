"""A lake as Delta tables: other engines read what `lake.sql` gives, whatever happened to the lake before."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from losslake.cli import cli
from losslake.store.delta import log
from losslake.store.delta import publish as publishing
from losslake.store.delta.compare import Compared, compare
from losslake.store.delta.links import link
from losslake.store.delta.publish import keeps_published, publish, unpublish
from losslake.store.delta.tables import TABLES
from losslake.store.errors import CorruptLake, InvalidOption
from losslake.store.files.local import LocalFiles
from losslake.store.format import manifest, paths
from losslake.store.format.records import RunInfo
from losslake.store.format.schema import RUN
from losslake.store.lake import Lake
from losslake.store.read.catalogue import Catalogue, listed_files, results
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.forget import forget
from losslake.store.upkeep.gc import collect_garbage
from losslake.store.upkeep.remove import remove
from losslake.store.upkeep.verify import verify
from losslake.store.write.results import save_result
from losslake.store.write.table_file import write_table
from machines import one_by_one
from polars.testing import assert_frame_equal

deltalake = pytest.importorskip("deltalake", reason="needs the extra delta")

MakeLake = Callable[..., Lake]
N = 12
SECRET = "the-key-of-sample-3"


@pytest.fixture(scope="module")
def template(lake_of: MakeLake) -> Lake:
    """Two experiments whose samples, logits and scores have other columns, and columns of other types."""
    runs = 3
    rng = np.random.default_rng(0)
    keep = rng.random((runs, N)) < 0.5
    loss = rng.random((runs, N))
    loss[:, 2] = np.inf
    lake = lake_of(
        keep,
        rng.normal(0, 2, (runs, N)),
        loss=loss,
        logits=rng.normal(0, 2, (runs, N, 3)).astype(np.float16),
        traces={"loss": np.where(rng.random((N, 4)) < 0.2, np.nan, rng.random((N, 4)))},
        columns={
            "key": [SECRET if i == 3 else f"k{i}" for i in range(N)],
            "age": np.arange(N, dtype=np.int32),
            "note": [None, "é", *["x'y"] * (N - 2)],
        },
    )
    lake_of(
        keep[:2],
        logits=rng.normal(0, 2, (2, N, 4)).astype(np.float32),
        features=rng.normal(0, 2, (2, N, 2)).astype(np.float32),
        lake=lake,
        experiment="other",
        columns={"age": np.arange(N) * 1.5, "Note": [f"{i}" for i in range(N)]},
    )
    for experiment, name, own in (("tests", "rmia", "z"), ("other", "lira", "width")):
        result(lake, experiment, name, {own: rng.random(N)})
    return lake


@pytest.fixture
def lake(template: Lake, tmp_path: Path) -> Lake:
    """A copy for one test."""
    return copied(template, tmp_path / "lake")


def copied(lake: Lake, to: Path) -> Lake:
    shutil.copytree(lake.path, to, symlinks=True)
    return Lake.open(to)


def result(lake: Lake, experiment: str, name: str, own: dict[str, Any], score: float = 0.0) -> None:
    scores = pa.table({"sample_id": np.arange(N), "member": [True] * N, "score": score + np.arange(N), **own})
    metrics = [{"metric": "auc", "value": 0.5 + score, "n": N, "fpr": 0.1}]
    save_result(
        lake, experiment, name, "run-0000", "", options={}, notes=[], metrics=metrics, scores=scores
    )  # fmt: skip


def small(lake: Lake, name: str, experiment: str = "tests") -> None:
    """Commit one more run."""
    ids = np.arange(N)
    with lake.write_run(experiment, name, members=ids % 2 == 0) as out:
        out.append_signals(ids, np.zeros(N, np.int16), ids % 3, loss=ids / 7, phi=ids - 4.0)
        out.append_traces("eval", ids, loss=np.tile(ids[:, None] / 3, 4))
        out.commit(RunInfo(role="shadow"))


def place(lake: Catalogue, table: str) -> Path:
    return Path(lake.path) / "delta" / table


def in_order(frame: pl.DataFrame) -> pl.DataFrame:
    keys = [name for name in KEYS if name in frame.columns]
    return frame.sort(keys).select(sorted(frame.columns))


KEYS = ("experiment", "run", "analysis", "target", "variant", "metric", "sample_id", "query", "source")

READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    "polars": lambda path: pl.scan_delta(str(path)).collect(),
    "arrow": lambda path: pl.DataFrame(deltalake.DeltaTable(path).to_pyarrow_table()),
    "datafusion": lambda path: pl.DataFrame(
        deltalake.QueryBuilder().register("t", deltalake.DeltaTable(path)).execute("select * from t")
    ),
}


def rows_of(lake: Lake) -> dict[str, pl.DataFrame]:
    """What `lake.sql` gives of every table."""
    with lake.connect() as connection:
        return {table: in_order(connection.sql(f"from {table}").pl()) for table in TABLES}


def check_read_back(lake: Lake, readers: Sequence[str] = tuple(READERS)) -> None:
    """Readers find in every table what `lake.sql` gives, and verify has nothing to say of them."""
    for table, expected in rows_of(lake).items():
        for name in readers:
            found = in_order(READERS[name](place(lake, table)))
            assert_frame_equal(found, expected.cast(dict(found.schema)), check_exact=True)
    assert compare(lake) == Compared()


def named(lake: Catalogue, table: str) -> set[str]:
    """The files of the lake that a table names."""
    names = log.read_state(lake.files, table).adds
    return {os.path.realpath(place(lake, table) / name).removeprefix(f"{lake.path}/") for name in names}


def check_no_copies(lake: Lake, tables: tuple[str, ...] = ("signals", "traces")) -> None:
    """The tables name the files that manifests list, and no others."""
    for table in tables:
        of_runs = {
            file.path
            for name in lake.experiments()
            for run in lake.runs(name)
            for file in run.files
            if file.table == table
        }
        of_results = {
            each.file.path for name in lake.experiments() for each in results(lake, name) if each.file
        }
        assert named(lake, table) == (of_results if table == "scores" else of_runs)


# --- reading back ---------------------------------------------------------------------------------------------


def test_whatever_happens_every_table_is_read_back(lake: Lake) -> None:
    publish(lake)
    check_read_back(lake)
    check_no_copies(lake, ("signals", "traces", "scores"))
    before = log.read_state(lake.files, "signals")
    assert [each.version for each in publish(lake)] == [0] * len(TABLES)  # nothing has changed
    assert log.read_state(lake.files, "signals") == before

    for name in ("more-1", "more-2"):
        small(lake, name)
    publish(lake)
    check_read_back(lake, ["polars"])
    result(lake, "tests", "rmia", {"z": np.ones(N)}, score=0.25)  # another one of that name
    publish(lake)
    check_read_back(lake, ["polars"])
    for experiment in lake.experiments():
        compact(lake, experiment, least=2)
    check_read_back(lake)
    check_no_copies(lake)
    assert any(path.startswith("packed/") for path in named(lake, "signals"))
    forget(lake, "tests", [3])
    check_read_back(lake, ["polars"])
    check_no_copies(lake)
    collect_garbage(lake)
    check_read_back(lake, ["polars"])
    remove(lake, "tests", ["more-1"])
    check_read_back(lake, ["polars"])
    check_no_copies(lake)
    remove(lake, "tests")
    check_read_back(lake)
    assert sorted(lake.sql("select distinct experiment from signals")["experiment"]) == ["other"]
    verified = verify(lake)
    assert (verified.damage, verified.misnamed, verified.behind) == ((), (), ())


def test_columns_that_experiments_have_in_other_types_or_another_case(lake: Lake, lake_of: MakeLake) -> None:
    copies = {each.table: each.copies for each in publish(lake)}
    # Age is a whole number here and a fraction there, note is Note: one of the two files of samples does not fit.
    assert copies == {
        "samples": 1,
        "classes": 0,
        "runs": 2,
        "signals": 0,
        "traces": 0,
        "scores": 0,
        "metrics": 2,
    }
    odd = {
        "when": [datetime(2026, 1, 2) + timedelta(hours=i) for i in range(N)],
        "count": pa.array(range(N), pa.uint16()),
        "words": pa.array(["a", "b"] * (N // 2)).dictionary_encode(),
        "inside": [{"a": i, "b": [i, None]} for i in range(N)],
        "aware": pa.array(range(N), pa.timestamp("ms", "UTC")),
        "day": pa.array([86_400_000 * i for i in range(N)], pa.date64()),
        "pair": pa.array([[i, i] for i in range(N)], pa.list_(pa.int32(), 2)),
        "big": pa.array([2**64 - 1] * N, pa.uint64()),
        "clock": pa.array(range(N), pa.time32("s")),
        "empty": pa.nulls(N),
        "age": ["old"] * N,
    }
    lake_of(np.ones((1, N), bool), np.ones((1, N)), lake=lake, experiment="odd", columns=odd)
    publish(lake)
    found = {name: read(place(lake, "samples")) for name, read in READERS.items()}
    for frame in found.values():
        assert_frame_equal(in_order(frame), in_order(found["polars"].cast(frame.schema)))
    rows = found["polars"].filter(experiment="odd").sort("sample_id")
    assert rows["when"][1] == "2026-01-02 01:00:00.000000"
    assert rows.schema["count"] == pl.Int32
    assert rows["count"].to_list() == list(range(N))
    assert rows["words"].to_list() == ["a", "b"] * (N // 2)
    assert rows.schema["day"] == pl.Date
    assert rows["pair"].to_list() == [[i, i] for i in range(N)]
    assert set(map(int, rows["big"])) == {2**64 - 1}
    assert (rows["clock"][1], rows["empty"].null_count()) == ("00:00:01.000", N)
    assert rows["inside"][4] == {"a": 4, "b": [4, None]}
    assert rows["aware"].cast(pl.Int64).to_list() == [i * 1000 for i in range(N)]
    # Three types of one column have text in common.
    assert set(found["polars"].filter(experiment="tests", sample_id=7)["age"]) == {"7"}
    assert rows["age"][0] == "old"
    assert {name for name in rows.columns if name.casefold() == "note"} == {"note"} or "Note" in rows.columns
    remove(lake, "odd")
    check_read_back(lake)


def test_an_empty_lake_has_empty_tables(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    assert all(each.files == each.rows == 0 for each in publish(lake))
    check_read_back(lake)


def test_statistics_are_those_of_the_rows(lake: Lake) -> None:
    compact(lake, "tests", least=2)
    publish(lake)
    checked = 0
    for table in TABLES:
        for name, add in log.read_state(lake.files, table).adds.items():
            told, rows = (
                json.loads(add["stats"]),
                pl.read_parquet(place(lake, table) / name, hive_partitioning=False),
            )
            assert told["numRecords"] == len(rows)
            assert add["size"] == (place(lake, table) / name).stat().st_size
            for column in rows.columns:
                if column in told["nullCount"]:
                    assert told["nullCount"][column] == rows[column].null_count()
                if column in told["minValues"]:
                    checked += 1
                    assert (told["minValues"][column], told["maxValues"][column]) == (
                        rows[column].min(),
                        rows[column].max(),
                    )
    assert checked > 30
    # A reader that looks for one run passes over the files of others.
    listed = deltalake.DeltaTable(place(lake, "signals")).get_add_actions(flatten=True)
    frame = pl.DataFrame(listed)
    assert {"min.run", "max.run", "partition.experiment"} <= set(frame.columns)


def test_a_shared_file_of_which_not_all_rows_count_is_copied(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        small(lake, f"more-{number}")
    put, done = LocalFiles.put, []

    def stopped(files: LocalFiles, path: str, data: bytes, **given: Any) -> None:
        if path.startswith("runs/"):
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(path)
        put(files, path, data, **given)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFiles, "put", stopped)
        patch.setattr(LocalFiles, "put_all", one_by_one)
        with pytest.raises(KeyboardInterrupt):
            compact(lake, "tests", least=2)
    publish(lake)
    check_read_back(lake)
    assert sum(each.copies for each in publish(lake) if each.table in ("signals", "traces")) == 1
    compact(lake, "tests", least=2)
    check_read_back(lake)
    check_no_copies(lake)
    assert not list(place(lake, "traces").rglob("*-copy.parquet"))


def test_files_of_an_older_losslake_are_copied_until_they_are_shared(lake: Lake) -> None:
    for run in lake.runs("tests"):
        path = paths.run_manifest("tests", run.run)
        content = manifest.load(lake.files, path)
        written = []
        for file in run.files:
            rows = lake.read_file(file)
            assert RUN.name not in rows.column_names
            written.append(
                write_table(lake.files, file.table, file.path.replace(".parquet", "0.parquet"), rows)
            )
        lake.files.put(path, manifest.dump({**content, "files": manifest.files_to_json(tuple(written))}))
    copies = {each.table: each.copies for each in publish(lake)}
    assert (copies["signals"], copies["traces"]) == (3, 1)
    check_read_back(lake)
    compact(lake, "tests", least=2)
    check_read_back(lake)
    assert [each.copies for each in publish(lake) if each.table == "signals"] == [0]


def test_a_lake_that_is_moved_or_copied_keeps_its_tables(lake: Lake, tmp_path: Path) -> None:
    publish(lake)
    shutil.copytree(lake.path, tmp_path / "moved", symlinks=True)
    moved = Lake.open(tmp_path / "moved")
    check_read_back(moved)
    # Links that became files would keep what is removed: they are links again.
    shutil.copytree(lake.path, tmp_path / "files")
    files = Lake.open(tmp_path / "files")
    assert compare(files).wrong
    forget(files, "tests", [3])
    publish(files)
    check_read_back(files)
    assert all(path.is_symlink() for path in place(files, "signals").glob("experiment=*/*"))


# --- keeping up -----------------------------------------------------------------------------------------------


def test_a_setting_keeps_the_tables_up_to_date(lake: Lake, lake_of: MakeLake) -> None:
    assert keeps_published(lake) is None
    small(lake, "before")
    assert not place(lake, "signals").exists()
    publish(lake)
    small(lake, "later")
    assert [re.match(r"delta/\w+ lacks \d file", each) is not None for each in compare(lake).behind] == [
        True
    ] * 3
    publish(lake, keep=True)
    small(lake, "kept")
    check_read_back(lake)
    small(lake, "kept", "other")
    result(lake, "other", "lira", {"width": np.zeros(N)}, score=0.125)
    result(lake, "other", "loss", {"width": ["text"] * N})  # of another type than before
    check_read_back(lake)
    lake_of(np.ones((1, N), bool), np.ones((1, N)), lake=lake, experiment="third", columns={"age": ["x"] * N})
    assert compare(lake).behind == ()
    publish(lake)
    assert keeps_published(lake) is True
    publish(lake, keep=False)
    small(lake, "not-kept")
    assert compare(lake).behind
    assert not compare(lake).wrong


def test_adding_runs_keeps_versions_that_can_be_read(lake: Lake) -> None:
    publish(lake, keep=True)
    for number in range(log.LONGEST + 3):
        small(lake, f"more-{number:02d}")
    check_read_back(lake)
    state = log.read_state(lake.files, "signals")
    assert state.version == log.LONGEST + 3
    first = log.LONGEST  # of the checkpoint; what was before has gone
    for version in range(first, state.version + 1):
        rows = deltalake.DeltaTable(place(lake, "signals"), version=version).to_pyarrow_table()
        assert len(rows) == (3 + 2 + version) * N
    with pytest.raises(Exception, match=r"(?i)version|not found|log"):
        deltalake.DeltaTable(place(lake, "signals"), version=first - 1)


def test_of_a_forgotten_sample_nothing_can_be_read(lake: Lake) -> None:
    publish(lake)
    small(lake, "more")
    publish(lake)
    assert any(
        SECRET.encode() in path.read_bytes() for path in place(lake, "samples").rglob("*.*") if path.is_file()
    )
    forget(lake, "tests", keys=[SECRET])
    check_read_back(lake)
    for table in TABLES:
        newest = log.read_state(lake.files, table).version
        there = sorted(path.name for path in (place(lake, table) / "_delta_log").iterdir())
        if table not in ("runs", "classes"):  # which say the same as before
            assert there == [f"{newest:020d}.checkpoint.parquet", f"{newest:020d}.json", "_last_checkpoint"]
        for version in range(newest):
            with pytest.raises(Exception, match=r"(?i)version|not found|log"):
                deltalake.DeltaTable(place(lake, table), version=version).to_pyarrow_table()
        for path in place(lake, table).rglob("*"):
            assert not path.is_symlink() or path.exists(), path
            assert not path.is_file() or SECRET.encode() not in path.read_bytes()


def test_the_name_of_a_class_goes_with_its_only_record(lake: Lake) -> None:
    names = {"classes": ["everybody", SECRET]}
    lake.create_experiment("named", pa.table({"label": [0] * 7 + [1]}), dataset=names)
    publish(lake)
    check_read_back(lake)
    assert lake.sql("select label_name from classes where label = 1").rows() == [(SECRET,)]
    forget(lake, "named", [7])
    check_read_back(lake)
    assert lake.sql("select label_name from classes").rows() == [("everybody",)]
    found = [path for path in place(lake, "classes").rglob("*") if path.is_file()]
    assert found
    assert not [path for path in found if SECRET.encode() in path.read_bytes()]


def test_others_can_read_and_not_write(lake: Lake) -> None:
    publish(lake)
    path = place(lake, "signals")
    rows = deltalake.DeltaTable(path).to_pyarrow_table().slice(0, 2)
    with pytest.raises(Exception, match=log.FEATURE):
        deltalake.write_deltalake(path, rows, mode="append")
    with pytest.raises(Exception, match=log.FEATURE):
        deltalake.DeltaTable(path).delete()
    with pytest.raises(Exception, match=log.FEATURE):
        deltalake.DeltaTable(path).optimize.compact()
    stray = path / "experiment=tests" / "of-a-version-to-come.parquet"
    stray.write_bytes(b"")
    with pytest.raises(Exception, match=log.FEATURE):
        deltalake.DeltaTable(path).vacuum(0, dry_run=False, enforce_retention_duration=False, full=True)
    assert stray.exists()
    stray.unlink()
    check_read_back(lake)


def test_two_at_once_one_wins_and_the_other_does_it_again(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(lake)
    small(lake, "one")
    put, tried = publishing.put_version, []

    def slow(files: Any, table: str, *given: Any) -> Any:
        tried.append(table)
        if table == "signals" and tried.count("signals") == 1:
            with monkeypatch.context() as patch:
                patch.setattr(publishing, "put_version", put)
                small(lake, "two")
                publish(Lake.open(lake.path))
                small(lake, "three")
        return put(files, table, *given)

    monkeypatch.setattr(publishing, "put_version", slow)
    publish(lake)
    assert tried.count("signals") == 2
    check_read_back(lake)


def test_a_version_that_was_cut_is_not_put_again(lake: Lake) -> None:
    publish(lake)
    late = log.read_state(lake.files, "signals")
    for name in ("one", "two"):
        small(lake, name)
        publish(lake)
    compact(lake, "tests", least=2)  # and version 1 has gone
    assert log.put_version(lake.files, "signals", late, late.about or {}, [], list(late.adds)) is None
    check_read_back(lake)
    assert (
        sorted(path.name[:20] for path in (place(lake, "signals") / "_delta_log").glob("0*"))
        == [f"{3:020d}"] * 2
    )


def test_a_crowd_of_writers(lake: Lake) -> None:
    publish(lake, keep=True)

    def work(number: int) -> None:
        for run in range(3):
            small(Lake.open(lake.path), f"crowd-{number}-{run}")

    crowd = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    check_read_back(lake)
    check_no_copies(lake)


# --- killed, damaged, refused ---------------------------------------------------------------------------------


KILLS = 4
"""Instants at which each command is killed, out of all that it has."""


class Killed(BaseException):
    pass


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[str]]]:
    """Ends whatever changes something below delta/ for the n-th time, before that or, where n is odd, right after it."""
    steps: list[str] = []
    last = [-1]

    def wrapped(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(files: LocalFiles, path: str, *given: Any, **more: Any) -> Any:
            if not path.startswith("delta/"):
                return original(files, path, *given, **more)
            steps.append(f"{name} {path}")
            if len(steps) == last[0] // 2 and last[0] % 2 == 0:
                raise Killed
            answer = original(files, path, *given, **more)
            if len(steps) == last[0] // 2:
                raise Killed
            return answer

        return call

    for name in ("put", "put_if_absent", "delete"):
        monkeypatch.setattr(LocalFiles, name, wrapped(name, getattr(LocalFiles, name)))
    monkeypatch.setattr("losslake.store.delta.publish.link", wrapped("link", link))

    def kill(number: int) -> list[str]:
        steps.clear()
        last[0] = number
        return steps

    yield kill
    last[0] = -1


@pytest.mark.parametrize("what", ["publish", "commit", "compact", "forget", "remove", "drop"])
def test_killed_at_any_instant_the_tables_can_be_read_and_the_next_command_mends_them(
    lake: Lake, killed_at: Callable[[int], list[str]], tmp_path: Path, what: str
) -> None:
    killed_at(-1)
    publish(lake, keep=True)
    work: dict[str, Callable[[Lake], object]] = {
        "publish": publish,
        "commit": lambda lake: small(lake, "more"),
        "compact": lambda lake: compact(lake, "tests", least=2),
        "forget": lambda lake: forget(lake, "tests", [3]),
        "remove": lambda lake: remove(lake, "tests", ["run-0001"]),
        "drop": unpublish,
    }
    if what == "publish":
        unpublish(lake)
    before = {table: len(rows) for table, rows in rows_of(lake).items()}
    whole = copied(lake, tmp_path / "whole")
    steps = killed_at(-1)
    work[what](whole)
    count = len(steps)
    after = {table: len(rows) for table, rows in rows_of(whole).items()}
    kills = np.unique(np.linspace(2, 2 * count + 1, KILLS).astype(int))
    for number in kills.tolist():
        killed = copied(lake, tmp_path / f"{number}")
        killed_at(number)
        with pytest.raises(Killed):
            work[what](killed)
        killed_at(-1)
        for table in TABLES:
            if what not in ("publish", "drop") or (place(killed, table) / "_delta_log").exists():
                check_readable(killed, table, before[table], after[table], what)
        if what == "drop":
            unpublish(killed)
            assert not Path(killed.path, "delta").exists()
        else:
            if what in ("compact", "forget"):
                work[what](killed)
            publish(killed)
            check_read_back(killed, ["polars"])
            assert verify(killed).misnamed == ()
    assert len(kills) == KILLS


def check_readable(lake: Lake, table: str, before: int, after: int, what: str) -> None:
    """A table's log can be read, and where all its files are there still, has the rows of before or of after."""
    try:
        found = deltalake.DeltaTable(place(lake, table))
    except Exception:
        assert what == "drop", f"{table} cannot be read"
        return
    names = log.read_state(lake.files, table).adds
    if all((place(lake, table) / name).exists() for name in names):
        assert len(found.to_pyarrow_table()) in (before, after)
    else:  # what was forgotten or removed has gone under its other name too
        assert what in ("forget", "remove", "drop")


@pytest.mark.parametrize(
    "kind", ["a version is gone", "a version is cut", "the checkpoint is cut", "no hint", "no link"]
)
def test_a_damaged_log_is_told_and_mended(lake: Lake, kind: str) -> None:
    publish(lake)
    small(lake, "more")
    publish(lake)
    compact(lake, "tests", least=2)
    small(lake, "again")
    publish(lake)
    logs = place(lake, "signals") / "_delta_log"
    version = log.read_state(lake.files, "signals").version
    match kind:
        case "a version is gone":
            (logs / f"{version + 2:020d}.json").write_text("{}\n")
        case "a version is cut":
            newest = logs / f"{version:020d}.json"
            newest.write_bytes(newest.read_bytes()[:-50])
        case "the checkpoint is cut":
            newest = next(logs.glob("*.parquet"))
            newest.write_bytes(newest.read_bytes()[:-50])
        case "no hint":
            (logs / "_last_checkpoint").unlink()
        case "no link":
            (place(lake, "signals") / next(iter(log.read_state(lake.files, "signals").adds))).unlink()
    told = compare(lake)
    assert any("delta/signals" in each for each in told.wrong)
    assert CliRunner().invoke(cli, ["lake", "verify", "--lake", lake.path]).exit_code == 1
    publish(lake)
    check_read_back(lake)


def test_a_damaged_setting_is_told_and_mended(lake: Lake) -> None:
    publish(lake, keep=True)
    Path(lake.path, paths.PUBLISHED).write_text("{}")
    assert paths.PUBLISHED in compare(lake).wrong[0]
    small(lake, "more")  # is committed all the same
    with pytest.raises(CorruptLake, match=r"published\.json"):
        compact(lake, "tests", least=2)
    publish(lake)
    check_read_back(lake)


def test_garbage_collection_takes_copies_that_no_table_names(lake: Lake) -> None:
    publish(lake)
    kept = set(Path(lake.path, "delta").rglob("*-copy.parquet"))
    left = Path(lake.path, "delta/runs/experiment=tests/00000000000000aa-copy.parquet")
    shutil.copyfile(next(iter(kept)), left)
    path = str(left.relative_to(lake.path))
    assert verify(lake).leftovers == (path,)
    assert collect_garbage(lake, older_than=timedelta()).removed == (path,)
    assert set(Path(lake.path, "delta").rglob("*-copy.parquet")) == kept
    check_read_back(lake)


def test_with_a_damaged_manifest_nothing_is_published_and_garbage_goes_all_the_same(lake: Lake) -> None:
    publish(lake, keep=True)
    before = log.read_state(lake.files, "signals")
    small(lake, "more", "other")
    path = Path(lake.path, paths.run_manifest("tests", "run-0001"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(CorruptLake, match="run-0001"):
        publish(lake)
    small(lake, "most", "other")  # another experiment is brought up to date
    assert len(log.read_state(lake.files, "signals").adds) == len(before.adds) + 2
    told = collect_garbage(lake).damaged
    assert any("the Delta tables stay as they were" in each for each in told)
    path.write_bytes(whole)
    publish(lake)
    check_read_back(lake)


def test_a_lake_in_an_object_store_is_refused() -> None:
    class Bucket:
        root = "s3://bucket/lake"

    with pytest.raises(InvalidOption, match="object store, and losslake publishes no Delta tables there"):
        publish(Catalogue(Bucket()))  # type: ignore[arg-type]


def test_the_command(lake: Lake) -> None:

    def ask(*options: str) -> str:
        asked = CliRunner().invoke(cli, ["lake", "publish", "--lake", lake.path, *options])
        return str(asked.exception or asked.output)

    assert "signals: 60 rows in 5 files; version 0\n" in ask("--keep")
    assert "runs: 5 rows in 2 files (2 copies); version 0\n" in ask()
    assert keeps_published(lake) is True
    small(lake, "more")
    assert "signals: 72 rows in 6 files; version 1\n" in ask()
    assert "leave --keep" in ask("--drop", "--keep")
    assert " files removed" in ask("--drop")
    assert not Path(lake.path, "delta").exists()
    assert listed_files(lake) == listed_files(Lake.open(lake.path))
    assert pq.ParquetFile(next(Path(lake.path, "signals").rglob("*.parquet"))).schema_arrow.names[0] == "run"
