"""A lake in an object store, against an S3 server that the tests start themselves."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from losslake.cli import cli
from losslake.store.errors import AlreadyExists, CorruptLake, InvalidOption, LosslakeError, NotFound
from losslake.store.files.filesystem import Files, files_at
from losslake.store.format import manifest
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.query.scan import rows_of_each
from losslake.store.read import catalogue
from losslake.store.upkeep.compact import compact
from losslake.store.upkeep.export import export
from losslake.store.upkeep.gc import collect_garbage
from losslake.store.upkeep.runs import run_table
from losslake.store.upkeep.verify import verify
from losslake.store.write import index
from warm import HANGS, STORE, warm_python

obstore = pytest.importorskip("obstore", reason="needs the extra object-store")

PREFIX = "pre fix/ünï%41"


@pytest.fixture(params=["s3", "azure"])
def url(request: pytest.FixtureRequest, numbers: Iterator[int]) -> str:
    """A place for a lake, with a name that has to be quoted in a URL."""
    return f"{request.getfixturevalue(request.param)}/{PREFIX}/{next(numbers)}"


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return count()


@pytest.fixture(params=["local", "s3", "azure"])
def files(request: pytest.FixtureRequest, tmp_path: Path, numbers: Iterator[int]) -> Files:
    if request.param == "local":
        return files_at(tmp_path / "lake")
    return files_at(f"{request.getfixturevalue(request.param)}/{PREFIX}/{next(numbers)}")


# --- what every backend promises --------------------------------------------------------------------------


def test_a_file_appears_whole_and_can_be_read_from_any_position(files: Files) -> None:
    data = np.random.default_rng(0).bytes(300_000)
    with files.create("a/x=1/b c.bin") as file:
        file.write(data)
        assert not files.exists("a/x=1/b c.bin") or files.size("a/x=1/b c.bin") <= len(data)
    assert files.size("a/x=1/b c.bin") == len(data)
    assert abs(files.modified("a/x=1/b c.bin") - time.time()) < 60
    assert files.read("a/x=1/b c.bin") == data
    with files.open_input("a/x=1/b c.bin") as source:
        for start, length in ((0, 5), (299_990, 100), (100_000, 70_000), (170_000, 3), (5, 0)):
            source.seek(start)
            assert source.read(length) == data[start : start + length]
        source.seek(0)
        assert b"".join(iter(lambda: source.read(50_000), b"")) == data


def test_an_empty_file(files: Files) -> None:
    files.put("a/empty", b"")
    assert files.size("a/empty") == 0
    with files.open_input("a/empty") as source:
        assert source.read() == b""


def test_what_fails_leaves_nothing(files: Files) -> None:
    def fail() -> None:
        with files.create("a/b") as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not files.exists("a/b")
    assert files.list("a") == []
    files.delete("a/b")


def test_put_replaces_and_put_if_absent_does_not(files: Files) -> None:
    assert files.put_if_absent("a/one.json", b"1")
    assert not files.put_if_absent("a/one.json", b"2")
    assert files.read("a/one.json") == b"1"
    files.put("a/one.json", b"3")
    assert files.read("a/one.json") == b"3"
    assert not files.temporaries()


def test_of_many_that_claim_a_name_one_gets_it(files: Files) -> None:
    for name in range(5):
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda i, n=name: files.put_if_absent(f"c/{n}", b"%d" % i), range(8)))
        assert got.count(True) == 1
        assert files.read(f"c/{name}") == b"%d" % got.index(True)


def test_listing_finds_what_lies_below_a_folder(files: Files) -> None:
    for path in ("a/b/c.json", "a/b.json", "ab/d.json", "a/b/.tmp-0123456789abcdef00000000"):
        files.put(path, b"x")
    assert files.list("a", ".json") == ["a/b.json", "a/b/c.json"]
    assert files.list("nowhere") == []
    assert files.temporaries() == ["a/b/.tmp-0123456789abcdef00000000"]
    assert files.holds_anything()
    with pytest.raises(CorruptLake, match="is missing"):
        files.size("a/none")
    with pytest.raises(CorruptLake, match="is missing"):
        files.read("a/none")
    with pytest.raises(LosslakeError, match="not a path inside"):
        files.read("../a")


def test_what_is_not_to_last_stays_on_this_machine(url: str) -> None:
    files = files_at(url)
    with files.create("staging/x", durable=False) as file:
        file.write(b"epoch")
    assert files.exists("staging/x")
    assert files.open_input("staging/x").read() == b"epoch"
    assert files.list("staging") == []
    files.delete("staging/x")
    assert not files.exists("staging/x")


def test_a_large_file_is_sent_in_parts(url: str) -> None:
    files = files_at(url)
    data = np.random.default_rng(0).bytes(20 << 20)
    with files.create("large") as file:
        file.write(data)
    assert files.size("large") == len(data)
    with files.open_input("large") as source:
        assert b"".join(iter(lambda: source.read(1 << 20), b"")) == data


# --- a lake, as a local one -------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["s3", "azure"])
def pair(request: pytest.FixtureRequest, lake_of: Callable[..., Lake]) -> tuple[Lake, Lake]:
    """The same experiment in a local lake and in one in an object store."""
    rng = np.random.default_rng(0)
    keep = rng.random((9, 60)) < 0.5
    phi = rng.normal(0, 2, keep.shape) + keep
    losses = rng.random((60, 6))
    logits = rng.normal(0, 2, (9, 60, 3)).astype(np.float16)
    remote = Lake.open(f"{request.getfixturevalue(request.param)}/{PREFIX}/pair", create=True)
    made = [lake_of(keep, phi, traces={"loss": losses}, logits=logits, lake=lake) for lake in (None, remote)]
    return made[0], made[1]


@pytest.mark.parametrize(
    "query",
    [
        "select * exclude created from runs order by run",
        "select * from samples order by sample_id",
        "select * from signals order by run, sample_id, query",
        "select run, avg(loss) as mean from signals where sample_id between 10 and 20 group by run order by run",
        "select * from traces order by run, sample_id, source",
        "select run, epoch, sum(loss) as loss from trace_points group by run, epoch order by run, epoch",
    ],
)
def test_sql_says_what_it_says_of_a_local_lake(pair: tuple[Lake, Lake], query: str) -> None:
    local, remote = (lake.sql(query) for lake in pair)
    assert len(local)
    assert local.equals(remote)


@pytest.mark.parametrize("view", ["signals", "traces", "trace_points", "samples"])
def test_polars_says_the_same(pair: tuple[Lake, Lake], view: str) -> None:
    local, remote = (
        lake.scan(view)
        .collect()
        .sort("sample_id", *(["run"] if view != "samples" else []), maintain_order=True)
        for lake in pair
    )
    assert local.equals(remote)


@pytest.mark.parametrize("analysis", ["lira", "rmia", "memorization", "lt-iqr"])
def test_analyses_give_the_same_scores(pair: tuple[Lake, Lake], analysis: str) -> None:
    for lake in pair:
        experiment = lake.experiments()[0]
        done = _invoke("analyze", analysis, "--lake", lake.path, "--experiment", experiment)
        assert done.exit_code == 0, done.output
    query = "select sample_id, score from scores where analysis = $analysis order by sample_id"
    local, remote = (lake.sql(query, {"analysis": analysis}) for lake in pair)
    assert len(local)
    assert local.equals(remote)


def test_queries_reach_nothing_but_the_listed_files(pair: tuple[Lake, Lake]) -> None:
    from losslake.store.query.connection import connect

    lake = pair[1]
    lake.files.put("other.parquet", b"x")
    listed = lake.files.location(lake.runs(lake.experiments()[0])[0].files[0].path)
    before = lake.files.read(listed.removeprefix(f"{lake.path}/"))
    with connect(lake) as connection:
        for statement in (
            f"from read_parquet('{lake.files.location('other.parquet')}')",
            f"from read_text('{lake.files.location('lake.json')}')",
            f"copy (select 1) to '{lake.files.location('new.parquet')}'",
            f"copy (select 1) to '{listed}'",
        ):
            with pytest.raises(duckdb.Error):
                connection.sql(statement).fetchall()
        assert not connection.sql("from duckdb_secrets()").fetchall()
    assert lake.files.read(listed.removeprefix(f"{lake.path}/")) == before
    lake.files.delete("other.parquet")


def _end_of_writers(lake: Lake) -> None:
    """Say that the processes that wrote were others, which have been killed."""
    for path in lake.files.list("writers"):
        lease = manifest.load(lake.files, path)
        lake.files.put(path, manifest.dump({**lease, "pid": 2**22 + 1}))


def test_compact_verify_gc_and_export(lake_of: Callable[..., Lake], url: str, tmp_path: Path) -> None:
    keep = np.arange(40).reshape(4, 10) % 2 == 0
    lake = lake_of(keep, np.random.default_rng(0).normal(0, 1, keep.shape), lake=Lake.open(url, create=True))
    experiment = lake.experiments()[0]
    query = "select run, sample_id, phi from signals order by all"
    before = lake.sql(query)
    compact(lake, experiment, least=2)
    assert lake.sql(query).equals(before)
    assert (
        lake.scan("signals")
        .select("run", "sample_id", "phi")
        .sort("run", "sample_id")
        .collect()
        .equals(before)
    )
    assert verify(lake).leftovers
    _end_of_writers(lake)
    collected = collect_garbage(lake, older_than=timedelta(0))
    assert collected.removed
    found = verify(lake)
    assert not found.damage
    assert not [path for path in found.leftovers if not path.startswith("writers/")]
    assert lake.sql(query).equals(before)
    for views in (False, True):
        export(lake, tmp_path / f"{views}.duckdb", views=views)
    with duckdb.connect(str(tmp_path / "False.duckdb"), read_only=True) as exported:
        assert len(exported.sql("from signals").fetchall()) == len(before)


def test_a_damaged_and_a_missing_file_are_named(lake_of: Callable[..., Lake], url: str) -> None:
    keep = np.arange(40).reshape(4, 10) % 2 == 0
    lake = lake_of(keep, np.random.default_rng(0).normal(0, 1, keep.shape), lake=Lake.open(url, create=True))
    file = next(f for f in lake.runs(lake.experiments()[0])[0].files if f.table == "signals")
    data = lake.files.read(file.path)
    lake.files.put(file.path, b"PAR1" + bytes(len(data) - 8) + b"PAR1")
    with pytest.raises(CorruptLake, match=r"\.parquet"):
        lake.sql("select sum(phi) from signals")
    assert any("SHA-256" in said for said in verify(lake).damage)
    lake.files.delete(file.path)
    with pytest.raises(CorruptLake, match="is missing") as caught:
        lake.sql("select sum(phi) from signals")
    assert "Traceback" not in str(caught.value)


# --- writers ----------------------------------------------------------------------------------------------


def _samples(n: int = 10) -> pa.Table:
    return pa.table({"label": pa.array(np.zeros(n, dtype=np.int32))})


def test_of_two_writers_of_a_run_one_wins(url: str) -> None:
    lake = Lake.open(url, create=True)
    lake.create_experiment("e", _samples())
    ids, members = np.arange(10), np.arange(10) < 5
    writers = [Lake.open(url).write_run("e", "r", members=members) for _ in range(2)]
    for number, writer in enumerate(writers):
        writer.append_signals(
            ids, np.zeros(10, int), np.zeros(10, int), loss=np.full(10, float(number)), phi=None
        )

    def commit(number: int) -> bool:
        try:
            writers[number].commit(RunInfo(role="target"))
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        won = list(pool.map(commit, range(2)))
    assert sorted(won) == [False, True]
    assert lake.sql("select distinct loss from signals").item() == float(won.index(True))
    assert not [path for path in verify(lake).leftovers if path.startswith("signals")]


_WRITER = """
import os, signal, sys
import numpy as np
from losslake.store.lake import Lake
lake = Lake.open(sys.argv[1])
writer = lake.write_run("e", "r", members=np.arange(10) < 5)
zeros = np.zeros(10, int)
writer.append_epoch("eval", 0, np.arange(10), loss=np.ones(10))
writer.append_signals(np.arange(10), zeros, zeros, loss=np.ones(10), phi=None)
real = writer._files.put_if_absent
writer._files.put_if_absent = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
from losslake.store.format.records import RunInfo
writer.commit(RunInfo(role="target"))
"""


def test_a_killed_writer_leaves_nothing_to_be_seen(url: str) -> None:
    lake = Lake.open(url, create=True)
    lake.create_experiment("e", _samples())
    done = subprocess.run([*warm_python(STORE), "-c", _WRITER, url], capture_output=True, timeout=HANGS)
    assert done.returncode == -9, done.stderr
    assert lake.runs("e") == []
    found = verify(lake)
    assert not found.damage
    left = [path for path in found.leftovers if path.startswith(("signals/", "traces/"))]
    assert len(left) == 2
    assert set(left) < set(collect_garbage(lake, older_than=timedelta(days=1)).removed)
    with lake.write_run("e", "r", members=np.arange(10) < 5) as writer:
        zeros = np.zeros(10, int)
        writer.append_signals(np.arange(10), zeros, zeros, loss=np.ones(10), phi=None)
        writer.commit(RunInfo(role="target"))
    assert len(lake.runs("e")) == 1


def test_a_store_that_ignores_the_condition_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore

    put = obstore.put

    def careless(*args: object, mode: str = "overwrite", **options: object) -> object:
        return put(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(obstore, "put", careless)
    with pytest.raises(LosslakeError, match="no conditional put"):
        Lake.open(url, create=True)
    monkeypatch.undo()
    assert not files_at(url).holds_anything()
    assert not files_at(url).temporaries()


def test_an_answer_that_was_lost_is_not_taken_for_another_writer(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore

    files = files_at(url)
    assert files.put_if_absent("first", b"1")
    put, lost = obstore.put, [True]

    def breaks(*args: object, **options: object) -> object:
        answer = put(*args, **options)  # type: ignore[arg-type]
        if lost.pop() if lost else False:
            raise obstore.exceptions.GenericError("error sending request")
        return answer

    monkeypatch.setattr(obstore, "put", breaks)
    assert files.put_if_absent("second", b"2")
    assert not files.put_if_absent("second", b"3")


# --- what goes wrong --------------------------------------------------------------------------------------


def _invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def _refusal(url: str) -> str:
    begun = time.perf_counter()
    with pytest.raises(LosslakeError) as caught:
        Lake.open(url, create=True)
    assert time.perf_counter() - begun < 150  # and not the three minutes of retries that obstore has
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("store", ["s3", "azure"])
def test_a_missing_bucket_and_a_missing_lake(store: str, request: pytest.FixtureRequest) -> None:
    place = request.getfixturevalue(store)
    assert "there is no bucket or container" in _refusal(f"{place}x/lake")
    with pytest.raises(NotFound, match="there is no lake at "):
        Lake.open(f"{place}/nowhere")


def test_an_endpoint_that_does_not_answer(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        assert "gives no answer" in _refusal(f"{s3}/lake")


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        ("403 Forbidden", "InvalidAccessKeyId", "set AWS_ACCESS_KEY_ID"),
        ("403 Forbidden", "SignatureDoesNotMatch", "set AWS_"),
        ("403 Forbidden", "AuthenticationFailed", "set AZURE_STORAGE_ACCOUNT_KEY"),
        ("501 Not Implemented", "NotImplemented", "cannot do this"),
        ("400 Bad Request", "AuthorizationHeaderMalformed", "set AWS_REGION"),
    ],
)
def test_what_the_store_refuses_is_said_in_a_line(status: str, code: str, said: str) -> None:
    from losslake.store.files.faults import store_explained
    from obstore.exceptions import GenericError

    text = (
        f"Generic S3 error: Error performing GET http://x/y in 1ms - Server returned non-2xx status code: {status}: "
        f"<Error><Code>{code}</Code>\n<Message>No.</Message></Error>\n\nDebug source:\nmuch more"
    )
    with pytest.raises(LosslakeError, match=said) as caught, store_explained("s3://b/p", "lake.json"):
        raise GenericError(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///x",
        "az://",
        "s3a://b/x",
        "hdfs://h/x",
        "memory://x",
        "file:///x",
        "s3://b/a=b",
        "s3://b/a/../c",
        "s3://b/a*",
        "s3:/b/x",
    ],
)
def test_urls_that_are_no_place_for_a_lake(url: str) -> None:
    with pytest.raises(InvalidOption):
        files_at(url)


@pytest.mark.parametrize("scheme", ["hdfs", "memory", "sftp", "https", "oss", "simplecache::s3"])
def test_what_fsspec_reaches_besides_is_refused_with_the_reason(scheme: str) -> None:
    with pytest.raises(
        InvalidOption, match=r"no put that losslake knows to fail where a name is taken"
    ) as caught:
        files_at(f"{scheme}://b/x")
    assert "s3://BUCKET/PREFIX" in str(caught.value)


def test_settings_of_azure_that_do_not_do(azure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "b3RoZXI=")
    assert "and AZURE_STORAGE_ACCOUNT_KEY, to ones that" in _refusal(f"{azure}/lake")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "no key")
    assert "Invalid Access Key" in _refusal(f"{azure}/lake")
    monkeypatch.delenv("AZURE_STORAGE_USE_EMULATOR")
    assert "AZURE_STORAGE_ACCOUNT_NAME" in _refusal(f"{azure}/lake")


def test_one_reads_parquet_in_few_requests(url: str) -> None:
    files = files_at(url)
    table = pa.table({"a": np.arange(200_000), "b": np.random.default_rng(0).random(200_000)})
    with files.create("t.parquet") as file:
        pq.write_table(table, file, row_group_size=20_000)
    with files.open_input("t.parquet") as source:
        assert pq.read_table(source, columns=["b"]).equals(table.select(["b"]))


def test_the_index_spares_a_request_for_each_run(
    lake_of: Callable[..., Lake], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = np.arange(8 * 6).reshape(8, 6) % 2 == 0
    lake = lake_of(keep, np.random.default_rng(0).normal(0, 2, keep.shape), lake=Lake.open(url, create=True))
    for module in (catalogue, index):
        monkeypatch.setattr(module, "LEAST", 4)
    asked: list[str] = []

    def counted(name: str) -> Callable[..., object]:
        real = getattr(obstore, name)

        def call(store: object, *given: object, **named: object) -> object:
            path = given[0] if given else named["prefix"]
            if not str(path).startswith("writers/"):  # a lease is renewed, of this lake or another
                asked.append(f"{name} {path}")
            return real(store, *given, **named)

        return call

    for name in ("get", "head", "list"):
        monkeypatch.setattr(obstore, name, counted(name))
    before = lake.runs("tests")
    assert len([each for each in asked if "/runs/" in each and each.startswith("get")]) == 8
    assert index.write_index(lake.files, "tests") == 8
    asked.clear()
    assert Lake.open(url).runs("tests") == before
    # One for lake.json; the experiment and the list, at once; the index, however many runs there are.
    assert len(asked) == 4, asked
    assert sorted(each.partition(" ")[0] for each in asked[1:3]) == ["get", "list"]
    assert asked[3].endswith("/runs.json")
    asked.clear()
    assert len(run_table(Lake.open(url), "tests")) == 8
    assert len(asked) == 6, asked  # and the lists of what is in the making
    asked.clear()
    with Lake.open(url).connect("tests") as connection:
        assert connection.sql("select count(*) from runs").fetchall() == [(8,)]
    # and of results, and the columns of samples, signals: no views can be made without
    assert len([each for each in asked if each.endswith(".json") or each.startswith("list")]) == 5, asked
    lake_of(keep[:1], np.zeros((1, 6)), lake=lake, names=["late"])
    asked.clear()
    assert len(lake.runs("tests")) == 9
    assert [each for each in asked if each.endswith("late.json")] != []
    assert len(asked) == 4
    assert index.write_index(lake.files, "tests") == 9
    lake.files.delete("runs/experiment=tests/late.json")
    assert lake.runs("tests") == before


def test_what_many_runs_share_is_fetched_at_once(
    lake_of: Callable[..., Lake], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = np.arange(4 * 6).reshape(4, 6) % 2 == 0
    lake = lake_of(keep, np.random.default_rng(0).normal(0, 2, keep.shape), lake=Lake.open(url, create=True))
    compact(lake, "tests", least=2)
    columns, runs = ["sample_id", "phi"], lake.runs("tests")
    asked: list[str] = []
    read = type(lake.files).read

    def counted(files: Files, path: str) -> bytes:
        if files.root == lake.files.root:
            asked.append(path)
        return read(files, path)

    monkeypatch.setattr(type(lake.files), "read", counted)
    found = rows_of_each(lake, runs, "signals", columns)
    assert [path.partition("/")[0] for path in asked] == ["packed"]
    for run, frame in zip(runs, found, strict=True):
        (expected,) = lake.run_rows(run, "signals", columns=columns)
        assert pa.table(frame.to_arrow()).to_pydict() == expected.to_pydict()
