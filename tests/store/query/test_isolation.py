"""Ad-hoc SQL reads the lake's views and nothing else, and changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from losslake.cli import cli
from losslake.store.errors import InvalidOption, LimitReached, QueryRefused
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from losslake.store.query.connection import connect, run_query
from losslake.store.query.limits import StillRunning
from losslake.store.query.read_only import _FUNCTIONS_REFUSED
from warm import HANGS, OF_SQL, warm_losslake, warm_python

SECRET = "xyzzy-4711"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a lake, and secrets beside it and in a hidden corner of it."""
    place = tmp_path_factory.mktemp("place")
    lake = Lake.open(place / "lake", create=True)
    lake.create_experiment("e", pa.table({"label": [0, 1]}))
    with lake.write_run("e", "r", members=np.array([True, False])) as writer:
        writer.append_signals(np.arange(2), np.zeros(2, int), None, loss=np.ones(2), phi=np.ones(2))
        writer.commit(RunInfo(role="target"))
    for folder in (place, place / "lake" / "signals" / "experiment=e" / "run=r"):
        (folder / "secret").write_text(SECRET)
        (folder / "secret.csv").write_text(f"a,b\n{SECRET},2\n")
        (folder / "secret.json").write_text(f'[{{"a": "{SECRET}"}}]')
        pl.DataFrame({"a": [SECRET]}).write_parquet(folder / "secret.parquet")
    return place


@pytest.fixture(scope="module")
def connection(place: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """What ad-hoc SQL runs on; one for all attempts, so that what one of them changed would be seen."""
    with connect(Lake.open(place / "lake")) as opened:
        yield opened


def state(place: Path) -> dict[str, tuple[str, int]]:
    """Every file below a folder: its content's hash and when it was written."""
    return {
        path.relative_to(place).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in place.rglob("*")
        if path.is_file()
    }


def everything(place: Path, connection: duckdb.DuckDBPyConnection) -> list[object]:
    """What an attempt could change: files here, in the working and home folder, and all the connection knows."""
    asked = (
        "select name, value from duckdb_settings() where name not in ('max_temp_directory_size') order by 1",
        "select name, value from duckdb_variables() order by 1",
        "select schema_name, view_name, sql from duckdb_views() where not internal order by all",
        "select table_name, estimated_size from duckdb_tables() order by all",
        "select name from duckdb_secrets()",
        "select function_name from duckdb_functions() where not internal order by 1",
        "select database_name from duckdb_databases() order by 1",
        "select count(*) from duckdb_prepared_statements()",
        "select run, role from runs",
        "select count(*), sum(loss), sum(phi) from signals",
    )
    home = Path.home() / ".duckdb"
    return [
        state(place),
        sorted(os.listdir(".")),
        sorted(path.as_posix() for path in home.rglob("*")) if home.exists() else None,
        *(connection.execute(query).fetchall() for query in asked),
    ]


HOSTILE = r"""
copy runs to '{place}/out.csv'
copy (select 1) to '{place}/lake/signals/experiment=e/run=r/out.parquet' (format parquet)
copy runs from '{place}/secret.csv'
export database '{place}/out'
import database '{place}/out'
attach '{place}/out.db' as other
attach ':memory:' as other
detach memory
select * from read_csv('{place}/secret.csv')
select * from read_csv_auto('{place}/lake/../secret.csv')
select * from read_text('{place}/secret.csv')
select * from read_text('{place}/lake/signals/experiment=e/run=r/secret.csv')
select * from read_blob('{place}/secret.*')
select * from read_json('{place}/secret.json')
select * from read_parquet('{place}/secret.parquet')
select * from parquet_scan('{place}/lake/signals/experiment=e/run=r/secret.parquet')
select * from parquet_metadata('{place}/secret.parquet')
select * from parquet_schema('{place}/secret.parquet')
select * from sniff_csv('{place}/secret.csv')
select * from glob('{place}/*')
select * from '{place}/secret.csv'
select * from "{place}/secret.parquet"
from '{place}/lake/lake.json'
select * from query('select * from read_text(''{place}/secret.csv'')')
select * from query_table('{place}/secret.csv')
select * from json_execute_serialized_sql(json_serialize_sql('from read_text(''{place}/secret.csv'')'))
select (select content from read_text('{place}/secret.csv'))
select list_transform([1], lambda x: (select content from read_text('{place}/secret.csv')))
with t as (select * from read_text('{place}/secret.csv')) select * from t
with t as materialized (copy runs to '{place}/out.csv') select 1
with t as (copy runs to '{place}/out.csv') select * from t
with t as (insert into runs by name select * from runs returning run) select * from t
with t as (delete from runs returning run) select * from t
with t as (update runs set run = 'x' returning run) select * from t
select (with t as (copy runs to '{place}/out.csv') select 1)
select 1 union all (with t as (copy runs to '{place}/out.csv') select 1)
from (with t as (copy runs to '{place}/out.csv') select 1)
explain analyze copy runs to '{place}/out.csv'
explain (analyze) copy runs to '{place}/out.csv'
explain/**/analyze copy runs to '{place}/out.csv'
explain analyze with t as (copy runs to '{place}/out.csv') select 1
explain analyze (--) select 1 /*\n with t as (copy runs to '{place}/out.csv') select 2) --*/
/* */ explain analyze copy runs to '{place}/out.csv'
select 1; select 2
select 1; copy runs to '{place}/out.csv'
create table t as select 1
create or replace view runs as select 1
create temp macro phi(a, b) as 0
create secret s (type s3)
drop table runs
alter table runs rename to x
insert into runs by name select * from runs
update runs set run = 'x'
delete from runs
truncate runs
install httpfs
load httpfs
load '{place}/evil.duckdb_extension'
set threads = 1
set enable_external_access = true
reset lock_configuration
pragma enable_external_access
pragma database_list
call pragma_version()
call enable_logging(storage = 'file')
select * from enable_logging(level = 'info', storage = 'file', storage_path = '{place}/out')
select * from enable_profiling(save_location = '{place}/out')
select getenv('HOME')
select * from read_text('/proc/self/environ')
select * from read_csv('/dev/stdin')
select * from read_parquet('https://127.0.0.1:9/x.parquet')
select * from 'http://127.0.0.1:9/x.csv'
select * from 's3://bucket/x.parquet'
select * from read_text('file://{place}/secret.csv')
select * from read_duckdb('{place}/out.db')
select * from duckdb_secrets()
select * from which_secret('s3://x', 's3')
select * from duckdb_temporary_files()
select * from arrow_scan(1::pointer, 2::pointer, 3::pointer)
select * from python_map_function()
select * from pandas_scan(1)
select * from a_frame_of_the_caller
prepare p as select 1
execute p
begin
commit
checkpoint
vacuum
analyze
use memory
kill 1
select * from parquet_file_metadata('{place}/secret.parquet')
select * from parquet_full_metadata('{place}/secret.parquet')
select * from parquet_kv_metadata('{place}/secret.parquet')
select * from parquet_bloom_probe('{place}/secret.parquet', 'a', 1)
select * from parquet_metadata('{listed}')
select * from read_parquet('{listed}')
select * from read_blob('{listed}')
select * from '{listed}'
from "{listed}" limit 1
select * from read_csv_auto('{place}/secret')
select * from read_csv(['{place}/secret.csv', '{place}/secret.csv'], filename = true)
select * from read_json_auto('{place}/secret.json')
select * from read_json_objects('{place}/secret.json')
select * from read_ndjson('{place}/secret.json')
select * from read_ndjson_objects('{place}/secret.json')
select * from read_single_csv_file('{place}/secret.csv')
select * from read_single_parquet_file('{place}/secret.parquet')
select * from READ_TEXT('{place}/secret')
select * from "read_text"('{place}/secret')
select * from system.main.read_text('{place}/secret')
select * from read_text($$ {place}/secret $$)
from read_text(getvariable('signals_files'))
from read_blob(concat(current_setting('temp_directory'), '/*'))
select * from glob('{temporary}/**')
select * from read_text('{temporary}/*')
select * from read_text('/etc/passwd')
select * from read_csv('/etc/passwd', sep = ':')
select * from read_text('../secret')
select * from read_text('~/.bashrc')
select * from read_text('/proc/self/maps')
select * from read_text('/dev/fd/3')
select * from read_parquet('hf://datasets/a/b/x.parquet')
select * from read_csv('https://127.0.0.1:9/x.csv')
select * from delta_scan('{place}/secret')
select * from iceberg_scan('{place}/secret')
select * from sqlite_scan('{place}/secret', 't')
select * from postgres_scan('host=127.0.0.1', 'public', 't')
select * from read_xlsx('{place}/secret.xlsx')
select * from st_read('{place}/secret.csv')
select * from shellfs('ls |')
describe '{place}/secret.csv'
describe select * from read_csv('{place}/secret.csv')
summarize '{place}/secret.csv'
summarize select * from read_text('{place}/secret')
show '{place}/secret.csv'
table '{place}/secret.csv'
pivot '{place}/secret.csv' on a in (1) using count(*)
unpivot '{place}/secret.csv' on a into name n value v
explain select * from read_text('{place}/secret')
explain analyze select * from read_text('{place}/secret')
explain analyze create table t as select 1
explain analyze delete from runs
explain analyze set threads = 1
explain analyze insert into runs by name select * from runs
explain explain copy runs to '{place}/out.csv'
select * from runs where run in (select content from read_text('{place}/secret'))
select * from runs order by (select content from read_text('{place}/secret'))
select * from runs limit (select 1 from read_text('{place}/secret'))
select count(*) filter (exists (from read_text('{place}/secret'))) from runs
select row_number() over (order by (select content from read_text('{place}/secret'))) from runs
select * from runs qualify (select true from read_text('{place}/secret'))
select * from runs join lateral (select * from read_text('{place}/secret')) on true
select case when true then (select content from read_text('{place}/secret')) end
select {{'a': (select content from read_text('{place}/secret'))}}
select [(select content from read_text('{place}/secret'))]
select * from unnest((select [content] from read_text('{place}/secret')))
select * from range((select count(*) from read_text('{place}/secret')))
select phi([(select size from read_text('{place}/secret'))::double, 1.0], 0)
values ((select content from read_text('{place}/secret')))
with recursive t as (select content from read_text('{place}/secret') union all select content from t) select * from t
with runs as (select * from read_text('{place}/secret')) select * from runs
with "read_text" as (from glob('{place}/*')) from "read_text"
with t as (insert into main.runs by name select * from runs returning *) select 1
with t as (merge into runs using (select 1) on false when not matched then insert values (1)) select 1
with t as (create table x as select 1) select 1
with a as (with b as (delete from runs returning run) select * from b) select * from a
copy (select 1) to '/dev/stdout'
copy (select 1) to '{listed}' (format parquet)
copy (select 1) to '{listed}' (format csv, use_tmp_file false)
copy signals to '{place}/lake/signals' (format parquet, partition_by (run), overwrite)
COPY/**/runs/**/TO/**/'{place}/out.csv'
copy database memory to other
copy runs to '{temporary}/out.csv'
export database '{place}/lake/out' (format parquet)
attach '{place}/lake/out.db' (read_only)
attach 'https://127.0.0.1:9/x.db' as other
attach '{place}/out.db' (type sqlite)
create table main.t (a int)
create view v as select 1
create sequence q
create type mood as enum ('a')
create schema s
create index i on runs (run)
create macro runs_of(a) as a
create persistent secret p (type s3, key_id 'a', secret 'b')
create or replace temporary view signals as select 1
create trigger t after insert on runs for each row execute select 1
drop view signals
drop schema main cascade
drop secret if exists p
comment on table runs is 'x'
merge into runs using (select 1) on false when not matched then insert values (1)
install httpfs from 'http://127.0.0.1:9'
force install json
load json
load './evil.duckdb_extension'
update extensions
set lock_configuration = false
set global memory_limit = '1TB'
set session threads = 1
set temp_directory = '{place}'
set variable signals_files = ['{place}/secret.parquet']
set allowed_paths = ['{place}']
set secret_directory = '{place}'
set autoload_known_extensions = true
set search_path = 'memory.main'
set enable_profiling = 'json'
set profiling_output = '{place}/out'
set log_query_path = '{place}/out'
set file_search_path = '{place}'
set disabled_filesystems = 'LocalFileSystem'
reset all
reset memory_limit
reset variable signals_files
pragma threads = 1
pragma enable_profiling
pragma enable_object_cache
pragma import_database('{place}/out')
pragma copy_database('memory', 'other')
pragma json_execute_serialized_sql('x')
pragma show_tables
pragma storage_info('runs')
call pragma_table_info('runs')
call force_checkpoint()
call duckdb_secrets()
checkpoint memory
force checkpoint
select * from checkpoint()
select * from force_checkpoint()
select * from disable_logging()
select * from truncate_duckdb_logs()
select * from duckdb_logs()
from duckdb_logs
select * from duckdb_settings()
select * from duckdb_variables()
select * from duckdb_extensions()
select * from duckdb_external_file_cache()
select * from duckdb_memory()
select * from duckdb_prepared_statements()
select * from duckdb_secret_types()
select * from pg_catalog.pg_settings
select * from "pg_settings"
from pg_prepared_statements
show databases
show variables
show temp_directory
show all settings
select current_setting('temp_directory')
select Current_Setting('allowed_paths')
select "current_setting"('secret_directory')
select system.main.current_setting('temp_directory')
select list_transform(['temp_directory'], lambda x: current_setting(x))
select (['temp_directory'])[1].current_setting()
select getvariable('signals_files')
select getenv('PATH') as path
select setseed(0.5)
select nextval('q')
select write_log('{place}')
select sleep_ms(1)
select pg_sleep(0.001)
select json_serialize_plan('from read_csv(''{place}/secret.csv'')')
from json_execute_serialized_sql('x')
from query('copy runs to ''{place}/out.csv''')
from query_table(['runs', 'signals'])
from histogram('runs', epochs)
from register_external_resource('a', 'b')
from enable_profiling()
from arrow_scan_dumb(1::pointer, 2::pointer, 3::pointer)
from python_arrow_scan(1)
from summary(select 1)
from test_all_types()
prepare p as copy runs to '{place}/out.csv'
execute p(1)
deallocate p
begin transaction; delete from runs; commit
rollback
abort
start transaction
explain analyze execute p
; ; copy runs to '{place}/out.csv'
select 1;; select 2
select 1 /* ; */; -- ;\ncopy runs to '{place}/out.csv'
select ';' ; drop view signals
values (1); values (2)
  ;
-- nothing
/* nothing */
select 'a\0b'
select * from runs -- \0
\0select 1
pivot runs on role using count(*)
"""


CASES = [line.replace("\\n", "\n").replace("\\0", "\0") for line in HOSTILE.splitlines() if line]


@pytest.fixture(scope="module")
def before(place: Path, connection: duckdb.DuckDBPyConnection) -> list[object]:
    """How it was before the first attempt."""
    return everything(place, connection)


def filled(place: Path, connection: duckdb.DuckDBPyConnection, statement: str) -> str:
    """An attempt with the places it aims at."""
    listed = connection.execute("select getvariable('signals_files')[1]").fetchall()[0][0]
    temporary = connection.execute("select current_setting('temp_directory')").fetchall()[0][0]
    return statement.format(place=place, listed=listed, temporary=temporary)


def test_there_are_enough_attempts() -> None:
    assert len(CASES) == len(set(CASES)) >= 250


@pytest.mark.parametrize("statement", CASES, ids=range(len(CASES)))
def test_hostile_statements_are_refused(
    place: Path, connection: duckdb.DuckDBPyConnection, before: list[object], statement: str
) -> None:
    a_frame_of_the_caller = pl.DataFrame({"a": [SECRET]})
    with pytest.raises(QueryRefused) as caught:
        run_query(connection, filled(place, connection, statement)).fetchall()
    assert SECRET not in str(caught.value)
    assert everything(place, connection) == before
    assert a_frame_of_the_caller.height == 1


@pytest.mark.parametrize("statement", CASES[::40], ids=range(0, len(CASES), 40))
def test_every_way_in_refuses_them(
    place: Path, connection: duckdb.DuckDBPyConnection, before: list[object], statement: str
) -> None:
    """The command line, `lake.sql`, and a connection of Python's."""
    text = filled(place, connection, statement)
    lake = Lake.open(place / "lake")
    done = CliRunner().invoke(cli, ["sql", "--lake", str(place / "lake"), "--", text])
    assert isinstance(done.exception, QueryRefused)
    assert SECRET not in done.output
    with pytest.raises(QueryRefused):
        lake.sql(text)
    with lake.connect() as opened:
        for ask in (opened.sql, opened.execute):
            with pytest.raises(QueryRefused):
                ask(text)
    assert everything(place, connection) == before


@pytest.mark.parametrize(
    "query",
    [
        "from runs",
        "values (1), (2)",
        "with recursive t(n) as (select 1 union all select n + 1 from t where n < 5) select sum(n) from t",
        "select 1 union select 2 intersect select 2",
        "describe runs",
        "summarize signals",
        "explain select 1",
        "explain analyze select count(*) from signals",
        "explain (format json) select 1",
        "select unnest([1, 2])",
        "from range(3)",
        "from json_each('[1, 2]')",
        "pivot runs on role in ('target') using count(*)",
        "from runs unpivot (value for name in (run, role))",
        "select * from signals asof join runs on signals.run = runs.run and signals.sample_id >= runs.seed",
        "select run, row_number() over w from signals window w as (partition by run order by phi) qualify true",
        "select list_transform([1, 2], lambda x: x + 1), {'a': 1}, map {'k': 'v'}",
        "select count(*) from signals tablesample 50%",
        "-- a comment\nselect /* another */ 'copy to; drop table' as text",
        'select "select" from (select 1 as "select")',
        "select * from duckdb_columns() where table_name = 'runs'",
        "select $a + 1",
        "show tables",
        "show runs",
        "show all tables",
        "from information_schema.columns",
        "select random() < 2, uuid() is not null, now() is not null",
        "select json_serialize_sql('select 1')",
    ],
)
def test_queries_run(
    place: Path, connection: duckdb.DuckDBPyConnection, before: list[object], query: str
) -> None:
    answer = run_query(connection, query, {"a": 1} if "$a" in query else None)
    assert len(answer.columns) > 0
    answer.to_arrow_table()
    assert everything(place, connection) == before


def test_every_function_with_an_effect_is_known(connection: duckdb.DuckDBPyConnection) -> None:
    """A newer DuckDB may bring new ones; each has to be looked at."""
    effects = connection.execute(
        "select distinct function_name from duckdb_functions() where has_side_effects and function_type = 'scalar'"
    ).fetchall()
    harmless = {
        "current_connection_id",
        "current_query",
        "current_query_id",
        "current_transaction_id",
        "error",
    }
    harmless |= {"gen_random_uuid", "random", "stats", "uuid", "uuidv4", "uuidv7", "vector_type"}
    assert {name for (name,) in effects} <= harmless | _FUNCTIONS_REFUSED


# --- DuckDB's own lock --------------------------------------------------------------------------------------


def test_where_statements_are_not_looked_at_the_engine_is_locked(
    place: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    """What analyses run their own SQL on."""
    for statement in (
        f"from read_text('{place}/secret.csv')",
        f"from read_text('{place}/lake/lake.json')",
        f"from read_text('{place}/lake/signals/experiment=e/run=r/secret.csv')",
        f"copy runs to '{place}/out.csv'",
        f"copy runs to '{place}/lake/out.csv'",
        f"attach '{place}/out.db'",
        "from read_text('/etc/hostname')",
        "set enable_external_access = true",
        "set memory_limit = '1GB'",
        "install httpfs",
        "create persistent secret s (type s3)",
    ):
        with pytest.raises(duckdb.Error):
            connection.execute(statement).fetchall()
    assert not list(place.rglob("out*"))


def test_temporary_files_are_private_limited_and_go_with_the_process(
    place: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    asked = "select current_setting('temp_directory'), current_setting('max_temp_directory_size')"
    folder, size = connection.execute(asked).fetchall()[0]
    assert Path(folder).parent.stat().st_mode & 0o077 == 0
    assert size.endswith(("iB", "bytes"))
    assert "%" not in size
    with connect(Lake.open(place / "lake")) as other:
        assert other.execute(asked).fetchall()[0][0] != folder


# --- a connection from Python -------------------------------------------------------------------------------


def test_a_connection_gives_answers_in_every_form(place: Path) -> None:
    with Lake.open(place / "lake").connect() as opened:
        answer = opened.sql("select run, $a + 1 as b from runs", {"a": 1})
        assert answer.columns == ["run", "b"]
        assert answer.fetchall() == [("r", 2)]
        assert answer.pl().rows() == [("r", 2)]
        assert answer.arrow().to_pylist() == [{"run": "r", "b": 2}]
        assert "run, b" in repr(answer)
        opened.register("mine", pl.DataFrame({"run": ["r"], "own": [3.0]}))
        assert opened.execute("select own from mine join runs using (run)").fetchall() == [(3.0,)]
        for name in ("runs", "Signals", "a b", "x.csv", ""):
            with pytest.raises(InvalidOption, match="name for a table"):
                opened.register(name, pl.DataFrame({"a": [1]}))
        assert not hasattr(opened, "cursor")


def test_a_listed_file_cannot_be_written_over_from_python(place: Path) -> None:
    lake = Lake.open(place / "lake")
    before = state(place)
    listed = lake.files.location(lake.run("e", "r").files[0].path)
    with lake.connect() as opened:
        for target in (
            f"'{listed}'",
            f"'{listed}' (format csv, use_tmp_file false)",
            f"'{listed}' (format parquet)",
        ):
            with pytest.raises(QueryRefused, match="only queries"):
                opened.execute(f"copy (select 1) to {target}")
    assert state(place) == before


# --- limits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "select count(*) from range(1000000000000)",
        "select sum(a.range * b.range) from range(10000000) a, range(10000000) b",
        "with recursive t(n) as (select 1 union all select n + 1 from t) select count(*) from t",
    ],
)
def test_a_query_over_its_time_ends_and_the_connection_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    begun = threading.Event()
    monkeypatch.setattr("losslake.store.query.limits.time", clock_from(begun))
    with Lake.open(place / "lake").connect(timeout=0.3) as opened:
        threading.Timer(0.1, begun.set).start()
        started = time.process_time()
        with pytest.raises(LimitReached, match=r"longer than the 0\.3 s"):
            opened.sql(query).fetchall()
        assert time.process_time() - started < 10  # of all threads: a busy machine takes no more
        begun.clear()  # for the next one no time passes, however busy the machine is
        assert opened.sql("select count(*) from runs").fetchall() == [(1,)]


def test_lake_sql_has_limits(place: Path) -> None:
    lake = Lake.open(place / "lake")
    with pytest.raises(LimitReached, match="longer than"):
        lake.sql("select count(*) from range(1000000000000)", timeout=0.2)
    with pytest.raises(LimitReached, match="memory"):
        lake.sql("select list(range) from range(1000000000)", memory="100MB")
    assert lake.sql("select 1 as one", timeout=30, memory="1GB").item() == 1


def stuck_in(begun: threading.Event, freed: threading.Event) -> Callable[[], duckdb.DuckDBPyConnection]:
    """A ``duckdb.connect`` whose connections know ``stuck(number)``, inside which DuckDB looks for no interrupts.

    Fewer and fewer of DuckDB's own functions are such (2.0 stops ``levenshtein``), and the machine says how long they take.
    """
    connect = duckdb.connect

    def stuck(number: int) -> int:
        begun.set()
        freed.wait()
        return number

    def connect_with_it() -> duckdb.DuckDBPyConnection:
        connection = connect()
        connection.create_function("stuck", stuck, ["BIGINT"], "BIGINT", side_effects=True)
        return connection

    return connect_with_it


def clock_from(begun: threading.Event) -> SimpleNamespace:
    """A ``time`` that stands still until then, so that no query is late before it is stuck."""
    started = time.monotonic()
    return SimpleNamespace(monotonic=lambda: time.monotonic() if begun.is_set() else started)


def test_an_expression_that_cannot_be_stopped_is_left_behind(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, freed = threading.Event(), threading.Event()
    monkeypatch.setattr(duckdb, "connect", stuck_in(begun, freed))
    monkeypatch.setattr("losslake.store.query.limits.time", clock_from(begun))
    monkeypatch.setattr("losslake.store.query.limits._GRACE", 0.2)
    try:
        with pytest.raises(StillRunning, match="cannot be stopped"):
            Lake.open(place / "lake").sql("select stuck(1)", timeout=0.1)
    finally:
        freed.set()


def test_one_that_is_caught_leaves_its_connection_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, freed = threading.Event(), threading.Event()
    monkeypatch.setattr(duckdb, "connect", stuck_in(begun, freed))
    monkeypatch.setattr("losslake.store.query.limits.time", clock_from(begun))
    monkeypatch.setattr("losslake.store.query.limits._GRACE", 0.2)
    try:
        with Lake.open(place / "lake").connect(timeout=0.1) as connection:
            with pytest.raises(StillRunning, match="cannot be stopped inside"):
                connection.sql("select stuck(1)").pl()
            for use in (
                lambda: connection.sql("select 1"),
                lambda: connection.register("own", pa.table({"a": [1]})),
            ):
                with pytest.raises(StillRunning, match="open another one"):
                    use()
    finally:
        freed.set()


JOINED = "select * from signals a join signals b using (sample_id) join samples s using (sample_id)"


@pytest.mark.parametrize(
    "query",
    [
        "from signals",
        "select key from samples where label = 1",
        JOINED,
        f"from ({JOINED}) union all from ({JOINED})",
    ],
)
@pytest.mark.parametrize(
    "how", ["explain", "explain analyze", "explain (analyze, format json)", "explain (format json)"]
)
def test_a_plan_says_nothing_of_where_the_lake_lies(place: Path, how: str, query: str) -> None:
    lake = Lake.open(place / "lake")
    plan = lake.sql(f"{how} {query}")["explain_value"].item()
    assert "PARQUET" in plan.upper()
    for part in (*Path(lake.path).parts[1:], ".parquet", "experiment="):
        assert part not in plan.replace("READ_PARQUET", "").replace("READ PARQUET", "")
    if "analyze" in how and "json" not in how:
        raw = duckdb.sql(
            f"explain analyze from read_parquet('{next(Path(lake.path).glob('signals/**/*.parquet'))}')"
        )
        assert "Filename" in str(raw.fetchall())  # what is taken out


@pytest.mark.parametrize("form", ["html", "graphviz", "yaml", "mermaid"])
def test_plans_of_other_forms_are_refused(place: Path, form: str) -> None:
    with pytest.raises(QueryRefused, match=f"FORMAT text or json here, not {form}"):
        Lake.open(place / "lake").sql(f"explain (analyze, format {form}) from signals")


LONG = {
    "CTEs": "with " + ", ".join(f"t{i} as (select 1)" for i in range(30_000)) + " select 1",
    "numbers": "select 1 in (" + ",".join(map(str, range(200_000))) + ")",
    "columns": "select " + ",".join(f"{i} as a{i}" for i in range(60_000)),
    "text": "select '" + "x" * 5_000_000 + "'",
}


@pytest.mark.parametrize("kind", LONG)
def test_texts_that_take_long_to_parse_are_refused_at_once(place: Path, kind: str) -> None:
    lake = Lake.open(place / "lake")
    began = time.process_time()
    with (
        lake.connect() as connection,
        pytest.raises(QueryRefused, match=r"the query (has more|is longer) than \d+"),
    ):
        connection.sql(LONG[kind])
    assert time.process_time() - began < 5
    listed = ",".join(map(str, range(20_000)))
    assert lake.sql(f"select 7 in ({listed}) as found").item() is True
    assert lake.sql("with " + ", ".join(f"t{i} as (select 1)" for i in range(300)) + " select 1").item() == 1


def asked(place: Path, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [*warm_losslake(OF_SQL), "sql", "--lake", str(place / "lake"), *words]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=HANGS, check=False)


BLOWN_UP = """
select length(repeat('x', 10000000000));
select sum(length(repeat('x', 3000000000))) from range(100);
select list_sum(list_transform(range(1000000000), lambda x: x + 1));
with recursive t(n, s) as (select 1, 'x' union all select n + 1, s || s from t) select max(length(s)) from t;
select length(format('{:>2000000000}', 'x'));
select list_reduce(list_transform(range(40), lambda x: 'xx'), lambda a, b: a || a);
select length(translate(repeat('a', 3000000000), 'a', 'b'));
select list_cosine_similarity(range(3000000000)::double[], range(3000000000)::double[]);
select (repeat('[', 1000000) || repeat(']', 1000000))::json -> 0 is null and length(repeat('y', 4000000000)) > 0;
select regexp_matches('a', repeat('(a?){1000}', 1000));
select json_structure((repeat('[', 100000) || repeat(']', 100000))::json);
""".strip()


def test_adversarial_expressions_end_one_by_one_and_the_shell_goes_on(place: Path) -> None:
    queries = BLOWN_UP.splitlines()
    deep = f"select {'(' * 20000}1{')' * 20000};"
    chain = f"select {' + '.join(['1'] * 20000)};"
    nested = f"select {'[' * 5000}1{']' * 5000};"
    text = "\n".join([*queries, deep, chain, nested, "select 'still ' || 'here';"])
    done = asked(place, "--memory", "300MB", "--timeout", "2s", given=text)
    assert done.returncode == 1, done.stderr[-2000:]
    assert done.stderr.count("error: ") >= len(queries) + 1, done.stderr
    assert "unexpected" not in done.stderr
    assert "still here" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--timeout", "1s", "select count(*) from range(1000000000000)"), "longer than the 1 s"),
        (("--memory", "200MB", "select list(range) from range(1000000000)"), "--memory"),
    ],
)
def test_a_limit_is_one_line_and_exit_code_1(place: Path, words: tuple[str, ...], said: str) -> None:
    done = asked(place, *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


STUCK_COMMAND = """
import json, sys, threading
sys.path[:0] = json.loads(sys.argv.pop(1))
import duckdb
from losslake.cli import main
from losslake.store.query import limits
from test_isolation import clock_from, stuck_in
begun = threading.Event()
duckdb.connect, limits.time = stuck_in(begun, threading.Event()), clock_from(begun)
main()
"""


def test_a_command_leaves_what_cannot_be_stopped(place: Path) -> None:
    words = ["sql", "--lake", str(place / "lake"), "--timeout", "1s", "select stuck(1) as far"]
    found = json.dumps([str(Path(__file__).parent), *sys.path])
    command = [*warm_python(OF_SQL), "-c", STUCK_COMMAND, found, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, check=False)
    assert done.returncode == 1, done.stderr
    assert "cannot be stopped" in done.stderr


@pytest.mark.parametrize("timeout", ["0", "soon", "-1s", "1y"])
def test_a_wrong_timeout_is_said(place: Path, timeout: str) -> None:
    done = CliRunner().invoke(cli, ["sql", "--lake", str(place / "lake"), "--timeout", timeout, "select 1"])
    assert isinstance(done.exception, InvalidOption)
