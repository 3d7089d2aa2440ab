"""Opening lakes, making experiments, and names from outside."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from losslake.store.errors import (
    AlreadyExists,
    CorruptLake,
    InvalidInput,
    InvalidOption,
    LosslakeError,
    NewerFormat,
    NotFound,
)
from losslake.store.files.local import LocalFiles
from losslake.store.format import manifest
from losslake.store.format.paths import NO_TARGET, check_name
from losslake.store.format.records import RunInfo
from losslake.store.format.schema import FORMAT
from losslake.store.lake import Lake
from losslake.store.read.catalogue import fingerprint, results
from losslake.store.write import new_experiment as sample_table
from losslake.store.write.results import save_result

LABELS = pa.table({"label": [0, 1, None]})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def commit(lake: Lake, run: str, experiment: str = "e", info: RunInfo | None = None) -> None:
    with lake.write_run(experiment, run, members=np.array([True, False, False])) as writer:
        ids = np.arange(3)
        writer.append_signals(ids, ids * 0, None, loss=ids, phi=ids)
        writer.commit(info or RunInfo(role="target"))


# --- the lake itself ---------------------------------------------------------------------------------------


def test_a_lake_is_made_once_and_opened_ever_after(tmp_path: Path) -> None:
    made = Lake.open(tmp_path / "deep" / "lake", create=True)
    content = made.files.read("lake.json")
    assert Lake.open(str(tmp_path / "deep" / "lake"), create=True).files.read("lake.json") == content
    assert Lake.open(made.path).experiments() == []


def test_where_there_is_no_lake(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="losslake collect"):
        Lake.open(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound):
        Lake.open(tmp_path / "empty")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("create", [True, False])
def test_a_folder_that_is_something_else_is_left_alone(tmp_path: Path, create: bool) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="not a lake"):
        Lake.open(tmp_path, create=create)
    with pytest.raises(InvalidInput, match="not a lake"):
        Lake.open(tmp_path / "notes.txt", create=create)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_a_killed_attempt_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".tmp-0123456789abcdef").write_bytes(b"")
    assert Lake.open(tmp_path, create=True).experiments() == []


def test_many_processes_may_make_the_same_lake_at_once(tmp_path: Path) -> None:
    script = (
        "import sys, pyarrow as pa; from losslake.store.lake import Lake; sys.stdin.readline(); "
        "Lake.open(sys.argv[1], create=True).create_experiment('e', pa.table({'label': [1, 2]}))"
    )
    where = tmp_path / "lake"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(where)], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(6)
    ]
    ended = [process.communicate(b"go\n")[1].decode() for process in started]
    assert ended == [""] * 6
    assert Lake.open(where).samples("e")["label"].to_pylist() == [1, 2]
    assert len(Lake.open(where).files.list("samples")) == 1


@pytest.mark.parametrize("format_", [FORMAT + 1, 99])
def test_a_newer_format_is_refused(lake: Lake, format_: int) -> None:
    path = Path(lake.path) / "lake.json"
    content = json.loads(path.read_bytes())
    content["format"] = format_
    content["something"] = "new"
    path.write_text(json.dumps(content))
    with pytest.raises(NewerFormat, match=f"format {format_}.*upgrade"):
        Lake.open(lake.path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"x"',
        b"{}",
        b'{"format": "1"}',
        b'{"format": 1}',
        b'{"format": 0}',
        b'{"format": true}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_damaged_manifest_is_named(lake: Lake, content: bytes) -> None:
    lake.create_experiment("e", LABELS)
    commit(lake, "r")
    root = Path(lake.path)
    reads: dict[str, Callable[[], object]] = {
        "runs/experiment=e/r.json": lambda: lake.runs("e"),
        "experiments/e.json": lambda: lake.experiment("e"),
        "lake.json": lambda: Lake.open(lake.path),
    }
    for path, read in reads.items():
        (root / path).write_bytes(content)
        with pytest.raises(CorruptLake, match=path):
            read()


@pytest.mark.parametrize(
    "changed",
    [
        {"info": {"role": "target", "surprise": 1}},
        {"info": None},
        {"files": [{"path": "x"}]},
        {"files": None},
        {"run": "other"},
        {"experiment": "other"},
        {"file": {"path": "../../../etc/passwd"}},
        {"file": {"path": "signals/experiment=other/run=r/x.parquet"}},
        {"file": {"path": 7}},
        {"file": {"bytes": "7"}},
        {"file": {"rows": None}},
    ],
)
def test_a_manifest_that_was_tampered_with_is_corrupt_even_with_a_right_checksum(
    lake: Lake, changed: dict[str, Any]
) -> None:
    lake.create_experiment("e", LABELS)
    commit(lake, "r")
    content = manifest.load(lake.files, "runs/experiment=e/r.json")
    content["files"][0] |= changed.pop("file", {})
    lake.files.put("runs/experiment=e/r.json", manifest.dump(content | changed))
    for read in (lambda: lake.runs("e"), lambda: lake.run("e", "r"), lambda: lake.sql("from signals")):
        with pytest.raises(CorruptLake, match=r"runs/experiment=e/r\.json"):
            read()


def test_a_copied_manifest_is_not_a_second_run(lake: Lake) -> None:
    lake.create_experiment("e", LABELS)
    commit(lake, "r")
    lake.files.put("runs/experiment=e/s.json", lake.files.read("runs/experiment=e/r.json"))
    with pytest.raises(CorruptLake, match=r"s\.json.*moved or renamed"):
        lake.runs("e")


@pytest.mark.parametrize(
    "path",
    ["az://bucket/lake", "https://bucket/lake", "", "a\0b", "/tmp/experiment=x/lake", "/tmp/team=red/lake"],
)
def test_places_where_no_lake_can_be(path: str) -> None:
    with pytest.raises(InvalidOption):
        Lake.open(path, create=True)


def test_a_path_too_long_for_the_disk(tmp_path: Path) -> None:
    with pytest.raises(LosslakeError, match="File name too long"):
        Lake.open(tmp_path / ("x" * 300), create=True)


@pytest.mark.parametrize(
    "name", ["with space", "quo'te", 'dou"ble', "glob*[a]?", "ünïcödé", "100%25", "$HOME;x"]
)
def test_odd_folders_hold_lakes_that_every_engine_reads(tmp_path: Path, name: str) -> None:
    lake = Lake.open(tmp_path / name / "lake", create=True)
    lake.create_experiment("e", LABELS)
    commit(lake, "r")
    # A neighbour that the name would match if it were taken for a pattern.
    other = Lake.open(tmp_path / "globbb" / "lake", create=True)
    other.create_experiment("e", LABELS)
    commit(other, "r")
    assert lake.sql("select count(*) from signals").item() == 3
    assert lake.scan("signals").collect().height == 3
    assert lake.arrow("samples").num_rows == 3


# --- experiments -------------------------------------------------------------------------------------------


def test_samples_are_completed(lake: Lake) -> None:
    made = lake.create_experiment("e", LABELS, dataset={"spec": "digits"})
    assert (made.name, made.samples, made.dataset) == ("e", 3, {"spec": "digits"})
    rows = lake.samples("e")
    assert rows.column_names == ["sample_id", "label", "pool", "split", "group", "key"]
    assert rows["label"].to_pylist() == [0, 1, None]
    assert rows["pool"].to_pylist() == ["audit"] * 3
    assert rows["key"].to_pylist() == ["0", "1", "2"]
    assert rows["group"].null_count == 3


def test_the_same_experiment_again_is_the_same(lake: Lake) -> None:
    first = lake.create_experiment("e", LABELS)
    files = lake.files.list("samples")
    chunked = pa.concat_tables([LABELS.slice(0, 1), LABELS.slice(1)])
    assert lake.create_experiment("e", chunked) == first
    assert lake.create_experiment("e", LABELS.append_column("sample_id", pa.array([0, 1, 2]))) == first
    assert lake.files.list("samples") == files


@pytest.mark.parametrize(
    "other",
    [
        {"label": [0, 1, 2]},
        {"label": [0, 1]},
        {"label": [0, 1, None], "pool": ["audit", "audit", "population"]},
        {"label": [0, 1, None], "age": [1, 2, 3]},
        {"label": [0, 1, None], "key": ["a", "b", "c"]},
    ],
)
def test_other_samples_under_its_name_are_refused(lake: Lake, other: dict[str, Any]) -> None:
    lake.create_experiment("e", LABELS)
    with pytest.raises(AlreadyExists, match=r"'e'.*other samples"):
        lake.create_experiment("e", pa.table(other))
    assert lake.samples("e").num_rows == 3


def test_a_renamed_column_is_another_experiment(lake: Lake) -> None:
    lake.create_experiment("e", pa.table({"label": [1], "age": [3]}))
    with pytest.raises(AlreadyExists):
        lake.create_experiment("e", pa.table({"label": [1], "year": [3]}))


def test_a_digest_does_not_depend_on_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is over the JSON text of words, whatever the number of them that are made into text at a time."""
    table = pa.table({"word": ["a", None, 'b", "c', "\u00e9", ""], "list": [[1], [], None, [2, 3], [4]]})
    texts = [json.dumps(table[name].to_pylist()) for name in table.column_names]
    heads = [json.dumps([name, str(table[name].type), 5]) for name in table.column_names]
    want = hashlib.sha256("".join(map("".join, zip(heads, texts))).encode()).hexdigest()
    for rows in (1, 2, 5, 6):
        monkeypatch.setattr(sample_table, "_DIGESTED_ROWS", rows)
        assert sample_table.samples_digest(table) == want
    assert sample_table.samples_digest(table[:0]) == sample_table.samples_digest(table[5:])


def test_a_digest_of_the_callers_decides(lake: Lake) -> None:
    lake.create_experiment("e", LABELS, digest="abc")
    assert lake.create_experiment("e", pa.table({"label": [7]}), digest="abc").samples == 3
    with pytest.raises(AlreadyExists):
        lake.create_experiment("e", LABELS, digest="abd")


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"label": []}, "at least one"),
        ({"label": ["cat", "dog"]}, "label"),
        ({"label": [0.5, 1.0]}, "label"),
        ({"label": [0, -1]}, "-1"),
        ({"label": [0, 2**40]}, "label"),
        ({"label": [0, 1], "pool": ["audit", "holdout"]}, "holdout"),
        ({"label": [0, 1], "pool": ["audit", None]}, "None"),
        ({"label": [0, 1], "sample_id": [1, 0]}, "sample_id"),
        ({"label": [0, 1], "sample_id": [0, 2]}, "sample_id"),
        ({"label": [0, 1], "sample_id": ["a", "b"]}, "sample_id"),
        ({"label": [0, 1], "run": [0, 1]}, "'run'"),
        ({"label": [0, 1], "Experiment": [0, 1]}, "'Experiment'"),
        ({"label": [0, 1], "LABEL": [0, 1]}, "'LABEL'"),
        ({"label": [0, 1], "Age": [0, 1], "age": [0, 1]}, "'age'"),
        ({"label": [0, 1], "": [0, 1]}, "''"),
    ],
)
def test_samples_that_cannot_be_are_named(lake: Lake, columns: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        lake.create_experiment("e", pa.table(columns))
    assert lake.experiments() == []
    assert lake.files.list("samples") == []


def test_user_columns_of_many_types(lake: Lake) -> None:
    extra = {
        "age": pa.array([1, None]),
        "weird name; drop table": pa.array(["ü", "x\0y"]),
        "kind": pa.array(["a", "b"]).dictionary_encode(),
        "when": pa.array([0, 1], pa.timestamp("us", tz="UTC")),
        "vector": pa.array([[1.0], []]),
        "nothing": pa.nulls(2),
        "text": pa.array(["a", "b"], pa.string_view()),
        "raw": pa.array([b"\xff", b""]),
    }
    lake.create_experiment("e", pa.table({"label": [0, 1]} | extra))
    frame = lake.sql("from samples order by sample_id")
    assert set(extra) < set(frame.columns)
    assert frame["weird name; drop table"].to_list() == ["ü", "x\0y"]
    assert frame["vector"].to_list() == [[1.0], []]
    assert frame["kind"].to_list() == ["a", "b"]
    assert lake.create_experiment("e", pa.table({"label": [0, 1]} | extra)).samples == 2


def test_population_is_nobodys_member(lake: Lake) -> None:
    lake.create_experiment("e", pa.table({"label": [0, 1, 2], "pool": ["audit", "population", "audit"]}))
    with pytest.raises(InvalidInput, match="sample 1 belongs to the population"):
        lake.write_run("e", "r", members=np.array([True, True, False]))
    lake.write_run("e", "r", members=np.array([True, False, False])).discard()


def test_pictures_are_found_by_sample(lake: Lake) -> None:
    pictures = pa.array([b"\x89PNG" + bytes([i % 256]) for i in range(600)], pa.binary())
    lake.create_experiment("e", pa.table({"label": [0] * 600}), pictures=pictures)
    assert lake.pictures("e", [599, 3]) == {599: b"\x89PNG" + bytes([87]), 3: b"\x89PNG\x03"}
    assert lake.pictures("e", []) == {}
    lake.create_experiment("none", LABELS)
    assert lake.pictures("none", [1]) == {}
    file = next(file for file in lake.experiment("e").files if file.table == "pictures")
    assert (
        pq.read_metadata(lake.files.location(file.path)).num_row_groups > 1
    )  # a few are read without all others
    (Path(lake.path) / file.path).write_bytes(b"PAR1 damaged PAR1")
    with pytest.raises(CorruptLake, match=file.path):
        lake.pictures("e", [3])


def test_pictures_must_be_one_a_sample(lake: Lake) -> None:
    with pytest.raises(InvalidInput, match="one a sample"):
        lake.create_experiment("e", LABELS, pictures=pa.array([b"x"]))
    assert lake.experiments() == []
    assert lake.files.list("samples") == []


# --- designs, runs, results --------------------------------------------------------------------------------


def test_designs_stay_as_they_were_laid_down(lake: Lake) -> None:
    lake.create_experiment("e", LABELS)
    assert lake.designs("e", "shadows") == []
    for number in range(3):
        assert lake.add_design("e", "shadows", number, {"seed": number})
    assert not lake.add_design("e", "shadows", 1, {"seed": 99})
    assert lake.add_design("e", "shadows-2", 0, {"seed": 7})
    assert lake.add_design("e", "shadows", 10_000, {"seed": 3})
    assert [design["seed"] for design in lake.designs("e", "shadows")] == [0, 1, 2, 3]
    assert [design["seed"] for design in lake.designs("e", "shadows-2")] == [7]


def test_runs_by_name_and_role(lake: Lake) -> None:
    lake.create_experiment("e", LABELS)
    commit(lake, "b", info=RunInfo(role="shadow", seed=2**62, recipe={"lr": 0.1}))
    commit(lake, "a")
    assert [run.run for run in lake.runs("e")] == ["a", "b"]
    assert [run.run for run in lake.runs("e", "shadow")] == ["b"]
    assert lake.run("e", "b").info.seed == 2**62
    assert lake.has_run("e", "a")
    assert not lake.has_run("e", "c")
    with pytest.raises(NotFound, match=r"'c'.*a, b"):
        lake.run("e", "c")
    with pytest.raises(NotFound, match=r"'f'.*experiments: e"):
        lake.runs("f")


def test_a_result_knows_when_a_run_came_after_it(lake: Lake) -> None:
    lake.create_experiment("e", LABELS)
    commit(lake, "a")
    seen = fingerprint(lake, "e", lake.runs("e"))
    assert seen == fingerprint(lake, "e")
    commit(lake, "late")
    save_result(lake, "e", "x", "a", "", options={}, notes=[], metrics=[], scores=None, seen=seen)
    assert results(lake, "e")[0].fingerprint != fingerprint(lake, "e")


@pytest.mark.parametrize(
    ("columns", "metrics", "named"),
    [
        ({"sample_id": [0], "score": [0.5]}, [], "member"),
        ({"sample_id": [0], "member": [True], "score": ["high"]}, [], "wrong type"),
        ({"sample_id": [0], "member": [True], "score": [1], "Target": [1]}, [], "'Target'"),
        ({"sample_id": [0], "member": [True], "score": [1]}, [{"value": 1}], "metric"),
        ({"sample_id": [0], "member": [True], "score": [1]}, [{"metric": "auc", "value": "high"}], "metric"),
    ],
)
def test_results_that_cannot_be_are_named(
    lake: Lake, columns: dict[str, Any], metrics: list[Any], named: str
) -> None:
    lake.create_experiment("e", LABELS)
    with pytest.raises(InvalidInput, match=named):
        save_result(lake, "e", "x", None, "", options={}, notes=[], metrics=metrics, scores=pa.table(columns))
    assert results(lake, "e") == []
    assert lake.files.list("scores") == []


# --- names from outside ------------------------------------------------------------------------------------

HOSTILE = [
    "../x",
    "..",
    ".",
    "a/b",
    "/etc/passwd",
    "a\\b",
    "a\0b",
    "a\nb",
    "a\n",
    "",
    " ",
    "a b",
    "-x",
    ".hidden",
    "_x",
    "x.",
    "ä",
    "a=b",
    "a*",
    "a'b",
    "x" * 101,
    "x" * 100_000,
    "con",
    "NUL.txt",
    "Com1",
    "\u202egnp",
    "__HIVE_DEFAULT_PARTITION__",
    None,
    7,
]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:20])
def test_hostile_names_are_refused_at_every_entry(lake: Lake, name: Any) -> None:
    lake.create_experiment("e", LABELS)
    members = np.zeros(3, bool)
    scores = pa.table({"sample_id": [0], "member": [True], "score": [1.0]})
    calls: list[Callable[[], object]] = [
        lambda: lake.create_experiment(name, LABELS),
        lambda: lake.experiment(name),
        lambda: lake.samples(name),
        lambda: lake.pictures(name, [0]),
        lambda: lake.runs(name),
        lambda: lake.run(name, "r"),
        lambda: lake.run("e", name),
        lambda: lake.has_run(name, "r"),
        lambda: lake.has_run("e", name),
        lambda: lake.write_run(name, "r", members=members),
        lambda: lake.write_run("e", name, members=members),
        lambda: lake.designs(name, "f"),
        lambda: lake.designs("e", name),
        lambda: lake.add_design(name, "f", 0, {}),
        lambda: lake.add_design("e", name, 0, {}),
        lambda: results(lake, name),
        lambda: save_result(lake, "e", name, "r", "", options={}, notes=[], metrics=[], scores=scores),
    ]
    if name is not None:  # None stands for every experiment, and for no target
        calls += [
            lambda: lake.connect(name),
            lambda: lake.sql("from runs", experiment=name),
            lambda: lake.scan("signals", name),
            lambda: lake.arrow("signals", name),
        ]
    if name:
        calls.append(
            lambda: save_result(lake, "e", "x", name, "", options={}, notes=[], metrics=[], scores=scores)
        )
    before = sorted(os.walk(lake.path))
    for call in calls:
        with pytest.raises(InvalidOption):
            call()
    assert sorted(os.walk(lake.path)) == before


def test_no_run_is_called_like_all_of_them(lake: Lake) -> None:
    lake.create_experiment("e", LABELS)
    with pytest.raises(InvalidOption, match="reserved"):
        lake.write_run("e", NO_TARGET, members=np.zeros(3, bool))
    assert check_name("experiment", NO_TARGET) == "all"


def test_names_that_differ_in_case_only_are_refused(lake: Lake) -> None:
    lake.create_experiment("digits", LABELS)
    with pytest.raises(InvalidOption, match="'digits'"):
        lake.create_experiment("Digits", LABELS)
    commit(lake, "run-a", "digits")
    with pytest.raises(InvalidOption, match="'run-a'"):
        lake.write_run("digits", "Run-A", members=np.zeros(3, bool))


@pytest.mark.parametrize(
    "name", ["0001", "1e5", "true", "null", "NULL", "nan", "2024-01-01", "0x1F", "a" * 100, "a.json"]
)
def test_names_that_look_like_something_else_stay_text(lake: Lake, name: str) -> None:
    lake.create_experiment(name, LABELS)
    commit(lake, name, name)
    assert lake.experiments() == [name]
    assert [run.run for run in lake.runs(name)] == [name]
    where = {"experiment": [name] * 3, "run": [name] * 3}
    assert (
        lake.sql("select experiment, run from signals where run = $run", {"run": name}).to_dict(
            as_series=False
        )
        == where
    )
    scanned = lake.scan("signals").filter(pl.col("run") == name).select("experiment", "run").collect()
    assert scanned.to_dict(as_series=False) == where
    assert lake.sql("select distinct experiment from samples").item() == name


# --- the disk under it --------------------------------------------------------------------------------------


def test_of_many_that_put_one_file_exactly_one_does(lake: Lake) -> None:
    for round_ in range(20):
        path = f"runs/experiment=e/{round_}.json"
        with ThreadPoolExecutor(8) as pool:
            won = list(
                pool.map(lambda me, path=path: lake.files.put_if_absent(path, b"%d" % me * 1000), range(8))
            )
        assert sum(won) == 1
        assert lake.files.read(path) == b"%d" % won.index(True) * 1000
    assert lake.files.temporaries() == []


def test_writers_and_removers_of_one_folder_do_not_disturb_each_other(lake: Lake) -> None:
    def work(me: int) -> None:
        for turn in range(40):
            path = f"signals/experiment=e/run=r/{me}-{turn}.parquet"
            with lake.files.create(path, durable=False) as file:
                file.write(b"x")
            lake.files.list("signals")
            lake.files.delete(path)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
    finally:
        sys.setswitchinterval(interval)
    assert not (Path(lake.path) / "signals").exists()


def test_a_listing_that_passes_over_a_file_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on tmpfs, where a file is replaced while its folder is listed."""
    files = LocalFiles(tmp_path)
    for name in ("a", "b", "c"):
        files.put(f"runs/{name}.json", b"{}")
    scandir, seen = os.scandir, list[str]()

    @contextlib.contextmanager
    def passing_over(folder: str) -> Iterator[list[os.DirEntry[str]]]:
        if not folder.startswith(files.root):  # of another lake, whose lease is renewed meanwhile
            with scandir(folder) as entries:
                yield list(entries)
            return
        with scandir(folder) as entries:
            kept = [entry for entry in entries if entry.name != "b.json" or seen]
        seen.append(folder)
        os.utime(folder)
        yield kept

    monkeypatch.setattr(os, "scandir", passing_over)
    assert files.list("runs") == ["runs/a.json", "runs/b.json", "runs/c.json"]
    assert len(seen) > 1
    monkeypatch.setattr(os, "scandir", scandir)
    files.delete("runs/b.json")
    assert files.list("runs") == ["runs/a.json", "runs/c.json"]


def test_a_folder_that_vanishes_before_its_first_file_is_made_again(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = LocalFiles._make_folder
    vanished = []

    def make_and_lose(self: LocalFiles, folder: str, durable: bool) -> None:
        make(self, folder, durable)
        if len(vanished) < 5 and self.root == lake.files.root:
            os.rmdir(folder)  # what another writer's `delete` does
            vanished.append(folder)

    monkeypatch.setattr(LocalFiles, "_make_folder", make_and_lose)
    with lake.files.create("signals/experiment=e/run=r/x.parquet") as file:
        file.write(b"x")
    assert lake.files.put_if_absent("runs/experiment=e/r.json", b"{}")
    assert lake.files.read("signals/experiment=e/run=r/x.parquet") == b"x"
    assert len(vanished) == 5


def test_a_file_whose_block_raises_is_not_there(lake: Lake) -> None:
    def write() -> None:
        with lake.files.create("signals/a/b.parquet") as file:
            file.write(b"x" * 100_000)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert lake.files.list("signals") == []
    assert not (Path(lake.path) / "signals").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_not_an_empty_one(lake: Lake) -> None:
    lake.create_experiment("e", LABELS)
    folder = Path(lake.path) / "experiments"
    folder.chmod(0)
    try:
        with pytest.raises(LosslakeError, match="Permission denied"):
            lake.experiments()
    finally:
        folder.chmod(0o700)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a//b", "a/./b", "a/../b", "", "a\0b", "a\\b", "a/"])
def test_paths_stay_inside_the_lake(lake: Lake, path: str) -> None:
    for call in (lake.files.read, lake.files.exists, lake.files.location, lake.files.size, lake.files.delete):
        with pytest.raises(InvalidInput, match="not a path inside"):
            call(path)
    with pytest.raises(InvalidInput):
        lake.files.put(path, b"")
