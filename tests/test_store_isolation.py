"""Ad-hoc SQL reads the lake's views and nothing else, and changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from losslake.cli import cli
from losslake.store.errors import QueryRefused
from losslake.store.lake import Lake
from losslake.store.records import RunInfo

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
        (folder / "secret.csv").write_text(f"a,b\n{SECRET},2\n")
        (folder / "secret.json").write_text(f'[{{"a": "{SECRET}"}}]')
        pl.DataFrame({"a": [SECRET]}).write_parquet(folder / "secret.parquet")
    return place


def state(place: Path) -> dict[str, str]:
    return {
        path.relative_to(place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in place.rglob("*")
        if path.is_file()
    }


HOSTILE = """
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
select 'a\0b'
pivot runs on role using count(*)
""".replace("\\n", "\n").replace("\\0", "\0")


def statements() -> Iterator[str]:
    # One statement has a line break inside; splitlines would cut it there.
    waiting = ""
    for line in HOSTILE.split("\n"):
        waiting += line
        if waiting.endswith("/*"):
            waiting += "\n"
        elif waiting:
            yield waiting
            waiting = ""


CASES = list(statements())


def test_there_are_enough_attempts() -> None:
    assert len(CASES) == len(set(CASES)) >= 60


@pytest.mark.parametrize("statement", CASES, ids=range(len(CASES)))
def test_hostile_statements_are_refused(place: Path, statement: str) -> None:
    a_frame_of_the_caller = pl.DataFrame({"a": [SECRET]})
    lake = Lake.open(place / "lake")
    before = state(place)
    with pytest.raises(QueryRefused) as caught:
        lake.sql(statement.format(place=place))
    assert SECRET not in str(caught.value)
    assert state(place) == before
    assert a_frame_of_the_caller.height == 1


@pytest.mark.parametrize("statement", CASES[::4], ids=range(0, len(CASES), 4))
def test_the_command_line_refuses_them_too(place: Path, statement: str) -> None:
    before = state(place)
    done = CliRunner().invoke(cli, ["sql", "--lake", str(place / "lake"), statement.format(place=place)])
    assert isinstance(done.exception, QueryRefused)
    assert SECRET not in done.output
    assert state(place) == before


@pytest.mark.parametrize(
    "query",
    [
        "from runs",
        "values (1), (2)",
        "with recursive t(n) as (select 1 union all select n + 1 from t where n < 5) select sum(n) from t",
        "select 1 union select 2 intersect select 2",
        "describe runs",
        "summarize signals",
        "show tables",
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
    ],
)
def test_queries_run(place: Path, query: str) -> None:
    assert Lake.open(place / "lake").sql(query, {"a": 1} if "$a" in query else None).width > 0


def test_even_a_bare_connection_reaches_no_other_file_and_keeps_its_settings(place: Path) -> None:
    """What analyses use has no checks of statements; DuckDB's own lock holds there too."""
    import duckdb

    with Lake.open(place / "lake").connect() as connection:
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
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(statement).fetchall()
    assert not list(place.rglob("out*"))


def test_temporary_files_are_private_and_go_with_the_process(place: Path) -> None:
    with Lake.open(place / "lake").connect() as connection:
        folder = Path(connection.execute("select current_setting('temp_directory')").fetchall()[0][0])
    assert folder.parent.stat().st_mode & 0o077 == 0
    with Lake.open(place / "lake").connect() as other:
        assert Path(other.execute("select current_setting('temp_directory')").fetchall()[0][0]) != folder
