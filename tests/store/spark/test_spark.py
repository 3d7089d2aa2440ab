"""Spark says what DuckDB says, on a cluster of two worker processes, and runs no query that does more than read."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import reduce
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from losslake.analysis.declare import parse_options
from losslake.analysis.evaluations.catalogue import find_evaluation, run_evaluation
from losslake.analysis.scoring.catalogue import ANALYSES, find, open_source
from losslake.analysis.scoring.on_spark import NOT_ON_SPARK, ON_SPARK
from losslake.analysis.scoring.run import run_analysis
from losslake.analysis.scoring.spark_source import SparkSource
from losslake.analysis.source import Source
from losslake.cli import main
from losslake.sql import read_sql
from losslake.store.delta.publish import publish
from losslake.store.delta.tables import FOLDERS, TABLES
from losslake.store.errors import (
    CorruptLake,
    InvalidOption,
    LosslakeError,
    MissingExtra,
    QueryRefused,
)
from losslake.store.files.filesystem import files_at
from losslake.store.lake import Lake
from losslake.store.query.connection import connect
from losslake.store.query.views import VIEWS
from losslake.store.read.catalogue import results
from losslake.store.shell.named_queries import query_names
from losslake.store.spark import connection as sessions
from losslake.store.spark.connection import SparkConnection, connect_spark
from losslake.store.upkeep.compact import compact
from polars.testing import assert_frame_equal
from warm import HANGS

MASTER = "local-cluster[2,1,700]"
needs_sqlglot = pytest.mark.skipif(find_spec("sqlglot") is None, reason="sqlglot is not installed")
needs_spark = pytest.mark.skipif(
    find_spec("pyspark") is None or find_spec("sqlglot") is None or shutil.which("java") is None,
    reason="PySpark, sqlglot or Java is not installed",
)

# Java's first compiler alone: its second one pays off after minutes, and takes two thirds of the time until then.
DEFAULTS = """
spark.sql.shuffle.partitions 2
spark.sql.adaptive.enabled false
spark.executor.memory 700m
spark.driver.extraJavaOptions -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
spark.executor.extraJavaOptions -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
"""


@pytest.fixture(scope="module")
def lake(lake_of: Callable[..., Lake]) -> Lake:
    """Twelve runs on 40 records and a population of 8, with what is odd: see the comments. Packed into shared files."""
    rng = np.random.default_rng(7)
    runs, samples = 12, 48
    keep = rng.random((runs, samples)) < 0.5
    population = np.arange(samples) >= 40
    keep &= ~population
    keep[-1, 30] = False  # the run without sample 30
    keep[1:, 0], keep[1:, 1] = True, False  # always in, never in
    phi = rng.normal(0, 2, (runs, samples, 3)).astype(np.float32) + keep[:, :, None]
    phi[:, 2] = phi[:, 3]  # ties
    phi[1:, 12] = 1.5  # no spread at all
    loss = np.logaddexp(0, -phi.astype(np.float64)).astype(np.float32)
    loss[0, 5], loss[0, 9] = np.inf, 0
    loss[2, 4] = np.nan  # of a writer that was not losslake's
    loss[3:6, 6], loss[1:, 7] = np.inf, np.inf
    loss[1:, 8] = 900 + rng.random((runs - 1, 3))  # exp(-loss) is no double any more
    trace = rng.gamma(1, 1, (samples, 9)).astype(np.float32)
    trace[5], trace[7, 3], trace[9, 2], trace[10, 1:] = 0, np.nan, np.inf, 1e-9
    missing = np.zeros((samples, 9), dtype=bool)
    missing[4], missing[4, 2], missing[6, 3:], missing[8, 1] = True, False, True, True
    held = np.ones((runs, samples), dtype=bool)
    held[4, 10:20], held[0, 21] = False, False
    roles = ["target", *["shadow"] * (runs - 4), "reference", "distilled", "leave_one_out"]
    logits = rng.normal(0, 2, (runs, samples, 3, 3)).astype(np.float16)
    logits[0, 0, 0, 0], logits[0, 1, 0, 0] = 6e-8, -65504  # subnormal, and the largest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("losslake.store.write.run_writer.check_finite", lambda *_: None)
        made = lake_of(
            keep,
            phi,
            loss=loss,
            logits=logits,
            labels=rng.integers(0, 3, samples).astype(np.int32),
            population=population,
            columns={"note": [f"it's \\ {i}" if i % 2 else None for i in range(samples)]},
            held=held,
            traces={
                "loss": np.ma.array(trace, mask=missing),
                "margin": np.ma.array(1 - trace, mask=missing),
            },
            roles=roles,
            parents=[*[None] * (runs - 2), "run-0000", "run-0000"],
            recorded=[("original", "crop:2:4")] * runs,
            extras=[*[{}] * (runs - 1), {"sample_id": 30}],
        )
    compact(made, experiment="tests", least=2)
    with open_source(made, "tests") as source:
        run_analysis(source, find("loss"))
        run_analysis(source, find("lira"))
        run_evaluation(source, find_evaluation("spearman"), ("loss", "lira"), {"among": "members"})
    return made


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Spark with a driver and two workers, which are processes of their own."""
    folder = tmp_path_factory.mktemp("spark")
    (folder / "spark-defaults.conf").write_text(DEFAULTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_CONF_DIR", str(folder))
        session = sessions.spark_session(MASTER)
    yield session
    session.stop()


@pytest.fixture(scope="module")
def spark(cluster: Any, lake: Lake) -> Iterator[SparkConnection]:
    with connect_spark(lake, "tests") as connection:
        yield connection


@pytest.fixture(scope="module")
def sources(cluster: Any, lake: Lake) -> Iterator[tuple[Source, SparkSource]]:
    with open_source(lake, "tests") as duckdb, SparkSource.open(lake, "tests", find=find) as spark:
        yield duckdb, spark


def alike(one: Any, other: Any) -> bool:
    """Equal, numbers to 1e-9; NaN equals NaN."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9) or (one != one and other != other)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    return bool(one == other)


def same_rows(one: pl.DataFrame, other: pl.DataFrame, by: tuple[str, ...] = ()) -> None:
    assert one.columns == other.columns
    assert [kind.base_type() for kind in one.dtypes] == [kind.base_type() for kind in other.dtypes]
    if by:
        one, other = one.sort(by, nulls_last=True), other.sort(by, nulls_last=True)
    assert len(one) == len(other)
    differ = [rows for rows in zip(one.rows(), other.rows(), strict=True) if not alike(*rows)]
    assert differ == []


CASES = [
    ("lt-iqr", {}),
    ("lt-iqr", {"first": 2, "last": 5, "low": 0.1, "high": 0.85}),
    *(
        ("trace", {"aggregate": aggregate})
        for aggregate in [
            "mean",
            "std",
            "final",
            "max",
            "delta",
            "ratio",
            "slope",
            "l1",
            "l3",
            "linf",
            "first-below",
            "first-half-minus-final",
            "early-minus-final",
        ]
    ),
    ("trace", {"signal": "margin", "aggregate": "forgets"}),
    ("trace", {"signal": "probability", "aggregate": "mean"}),
    ("trace", {"signal": "error", "aggregate": "iqr"}),
    ("trace", {"aggregate": "delta", "first": 7, "last": 20}),
    ("free", {}),
    ("lira", {}),
    ("lira", {"mode": "offline", "center": "median"}),
    ("lira", {"mode": "offline"}),
    ("lira", {"variance": "pooled"}),
    ("lira", {"variance": "sample"}),
    ("rmia", {}),
    ("rmia", {"mode": "offline"}),
    ("ramia", {}),
    ("loss", {}),
    ("attack-p", {"reference": "class"}),
    ("attack-r", {"interpolate": True}),
    ("attack-s", {}),
    ("attack-d", {}),
    ("attack-l", {}),
    ("calibrated", {}),
    ("calibrated", {"tau": "out"}),
    ("memorization", {}),
    ("memorization", {"of": "probability"}),
    ("privacy-score", {}),
    ("hellinger", {}),
]


@needs_spark
def test_there_are_two_worker_processes(cluster: Any) -> None:
    deadline = time.monotonic() + HANGS
    while cluster.sparkContext._jsc.sc().getExecutorMemoryStatus().size() < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert cluster.sparkContext.master == MASTER


@needs_spark
@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda part: str(part))
def test_analyses_find_the_same(
    name: str, options: dict[str, Any], sources: tuple[Source, SparkSource]
) -> None:
    analysis = find(name)
    chosen = parse_options(analysis.options, options, name)
    on_duckdb, on_spark = (analysis.compute(source, **chosen) for source in sources)
    same_rows(on_duckdb.frame, on_spark.frame)
    assert on_duckdb.notes == on_spark.notes
    metrics = [[metric.to_json() for metric in found.metrics] for found in (on_duckdb, on_spark)]
    assert alike(*metrics)


def test_every_analysis_of_spark_is_compared() -> None:
    assert {name for name, _ in CASES} == set(ON_SPARK)
    assert all(find(name).sql for name in ON_SPARK)


@needs_spark
def test_the_correlation_of_stored_scores(spark: SparkConnection, lake: Lake) -> None:
    parameters = {"first": "loss", "first_variant": "", "second": "lira", "second_variant": ""}
    parameters |= {"target": "run-0000", "among": "members"}
    expected = lake.sql(read_sql("spearman"), parameters)
    same_rows(expected, pl.DataFrame(spark.sql(read_sql("spearman"), parameters)))
    assert expected["n"].item() > 10


@needs_spark
def test_evaluations_take_their_scores_from_spark(cluster: Any, lake: Lake, tmp_path: Path) -> None:
    copies = [Lake.open(shutil.copytree(lake.path, tmp_path / name)) for name in ("duckdb", "spark")]
    asked: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
        ("spearman", ("loss", "attack-p", "kde"), {}),
        ("compare", ("trace[aggregate=max]", "kde"), {"fpr": 0.1}),
        ("by-group", ("attack-p",), {"threshold": 0.1}),
        ("agreement", ("attack-p", "lira"), {}),
        ("evolution", ("lt-iqr",), {}),
    ]
    for copy in copies:
        with open_source(copy, "tests") as source:
            run_analysis(source, find("kde"))  # not on Spark, but kept
    on_duckdb, on_spark = (
        kind.open(copy, "tests", find=find) for kind, copy in zip((Source, SparkSource), copies)
    )
    with on_duckdb, on_spark:
        for name, scores, options in asked:
            found = [
                run_evaluation(source, find_evaluation(name), scores, options)
                for source in (on_duckdb, on_spark)
            ]
            assert found[0].metrics
            assert found[0].notes == found[1].notes
            assert alike(*([metric.to_json() for metric in each.metrics] for each in found))
        with pytest.raises(
            InvalidOption, match=r"entropy is not computed on Spark.*scores that the lake keeps"
        ):
            run_evaluation(on_spark, find_evaluation("spearman"), ("loss", "entropy"))
        for name in NOT_ON_SPARK:
            with pytest.raises(InvalidOption, match="what every model says"):
                run_evaluation(on_spark, find_evaluation(name), ("lira",))
    kept = [{(r.analysis, r.variant) for r in results(copy, "tests")} for copy in copies]
    assert kept[0] == kept[1] >= {("attack-p", ""), ("trace", "aggregate=max")}


KEYS = {
    "samples": ("sample_id",),
    "classes": ("label",),
    "runs": ("run",),
    "signals": ("run", "sample_id", "query"),
    "traces": ("run", "sample_id", "source"),
    "trace_points": ("run", "sample_id", "source", "epoch"),
    "scores": ("analysis", "target", "variant", "sample_id"),
    "metrics": ("analysis", "target", "metric", "parameters"),
    "risk": ("target", "analysis", "sample_id"),
}


@needs_spark
@pytest.mark.parametrize("view", VIEWS)
def test_views_hold_the_same(view: str, spark: SparkConnection, lake: Lake) -> None:
    same_rows(lake.sql(f"from {view}"), pl.DataFrame(spark.sql(f"from {view}")), KEYS[view])


@needs_spark
def test_of_shared_files_only_the_rows_of_listed_runs_count(cluster: Any, lake: Lake) -> None:
    assert any(file.shared for run in lake.runs("tests") for file in run.files)
    some = lake.runs("tests")[2:5]
    query = "select run, count(*) as n, sum(loss) as loss from signals where isfinite(loss) group by run order by run"
    with connect_spark(lake, "tests", runs=some) as spark, connect(lake, "tests", runs=some) as duckdb:
        same_rows(duckdb.sql(query).pl(), pl.DataFrame(spark.sql(query)))


@needs_spark
def test_the_files_that_delta_tables_name_hold_the_same(cluster: Any, lake: Lake, tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake", reason="needs the extra delta")
    from pyspark.sql.functions import lit
    from pyspark.sql.types import StructType

    published = Lake.open(shutil.copytree(lake.path, tmp_path / "lake", symlinks=True))
    publish(published)
    for table in TABLES:
        opened = deltalake.DeltaTable(f"{published.path}/delta/{table}")
        schema = StructType.fromJson(json.loads(opened.schema().to_json()))
        # Half precision, which Spark has not.
        read = StructType([field for field in schema if field.name not in ("logits", *FOLDERS[table])])
        parts = []
        for row in pl.DataFrame(opened.get_add_actions(flatten=True)).iter_rows(named=True):
            part = cluster.read.schema(read).parquet(f"file://{published.path}/delta/{table}/{row['path']}")
            for name in FOLDERS[table]:
                part = part.withColumn(name, lit(row[f"partition.{name}"]))
            parts.append(part)
        expected = lake.sql(f"from {table}").drop("logits", strict=False)
        if not parts:  # it names no file, as the samples have no classes with names
            assert (table, len(expected)) == ("classes", 0)
            continue
        rows = reduce(lambda one, other: one.unionByName(other), parts)
        found = pl.DataFrame(rows.select(*expected.columns).toArrow())
        keys = [name for name in expected.columns if not isinstance(expected.schema[name], pl.List)]
        assert_frame_equal(
            found.cast(dict(expected.schema)).sort(keys), expected.sort(keys), check_exact=True
        )


def test_what_no_manifest_lists_is_not_read(cluster: Any, lake_of: Callable[..., Lake]) -> None:
    small = lake_of(np.ones((1, 3), dtype=bool), np.zeros((1, 3)))
    (file,) = small.run("tests", "run-0000").files
    listed = Path(small.path) / file.path
    shutil.copy(listed, listed.with_name("other.parquet"))
    with connect_spark(small) as spark:
        assert spark.sql("select count(*) as n from signals")["n"].to_pylist() == [3]
        listed.unlink()
        with pytest.raises(CorruptLake, match=r"\.parquet is missing or cannot be read"):
            spark.sql("select sum(phi) from signals")
    with pytest.raises(CorruptLake):
        connect_spark(small)


ASKED = """
select label, 1 / (label - 1) as quotient, (label // 2)::bigint as half, median(label) over () as middle, 7.5 / 2 as plain, list_sum([1.5::double, null, label]) as total,
       [1, 2, 3][-1] as last, len([1, 2, 3][2:][label + 1:]::varchar) > 0 as there, ln(label) as log, note || '''' as quoted,
       phi([1.0, 2.0, 0.5], label) as margin, cross_entropy([1.0, 2.0, 0.5], label) as entropy,
       $text as given, 'a\\b' as slash, coalesce(note, '${spark.master} "`') as word
from samples
where pool = 'audit' and sample_id < 9
order by sample_id
"""


@needs_spark
def test_sql_of_ones_own_means_the_same(spark: SparkConnection, lake: Lake) -> None:
    parameters = {"text": "it's :text \\' $text"}
    same_rows(lake.sql(ASKED, parameters), pl.DataFrame(spark.sql(ASKED, parameters)))


REFUSED = [
    "insert into samples select * from samples",
    "create table t as select 1",
    "drop view samples",
    "set spark.sql.ansi.enabled = false",
    "copy samples to 'x.csv'",
    "select 1; select 2",
    "explain select 1",
    "describe samples",
    "show tables",
    "from parquet.`/etc/passwd`",
    'from "parquet"."/etc/passwd"',
    "from '/etc/passwd'",
    "from read_csv('/etc/passwd')",
    "from read_parquet('x.parquet')",
    "from samples join other on true",
    "from default.samples",
    "select (select 1 from elsewhere)",
    "with inner_one as (from secrets) from inner_one",
    "from (with t as (select 1) from t), t",
    "select reflect('java.lang.System', 'getenv', 'HOME')",
    "select java_method('java.lang.System', 'exit', 1)",
    "select current_user()",
    "select version()",
    "select current_database()",
    "select input_file_name()",
    "select _metadata.file_path, uuid() from signals",
    "select sleep(100)",
    "select getenv('HOME')",
    "select current_setting('temp_directory')",
    "select from_json('1', 'int')",
    "select transform(sample_id) using 'cat' from samples",
    "select * from samples tablesample (10 percent)",
    "select * from samples, lateral (select 1)",
    "select cast(1 as nonsense)",
    "select * replace (1 as label) from samples",
    "select /* harmless */ http_get('http://example.org')",
    "pivot samples on pool",
    "select ai_query('x', 'y')",
    "select $$x$$",
    "not even sql",
    "",
]


@needs_sqlglot
@pytest.mark.parametrize("text", REFUSED)
def test_what_does_more_than_read_is_refused(text: str) -> None:
    from losslake.store.spark.transpile import check_query, for_spark, parse_query

    def put() -> str:
        query = parse_query(text)
        check_query(query, VIEWS)
        return for_spark(query)

    with pytest.raises(QueryRefused):
        put()


@needs_sqlglot
@pytest.mark.parametrize("name", query_names())
def test_the_queries_of_losslake_pass(name: str) -> None:
    from losslake.store.spark.transpile import check_query, for_spark, parse_query

    query = parse_query(read_sql(name))
    check_query(
        query, {*VIEWS, "phi_medians", "reference_runs", "taught", "compared_runs", "fleet_runs", "compared"}
    )
    text = for_spark(query)
    assert "$" not in text
    assert "--" not in text


@needs_sqlglot
def test_both_engines_have_the_same_macros() -> None:
    import re

    from losslake.store.spark.transpile import macros

    named = set(re.findall(r"create macro (\w+)", read_sql("macros_duckdb")))
    assert named <= set(macros())


@needs_spark
def test_what_spark_rejects_is_told_in_a_line(spark: SparkConnection) -> None:
    for text in (
        "select nothing from samples",
        "select note + 1 from samples where note is not null",
        "select 1, 1",
    ):
        with pytest.raises(QueryRefused) as told:
            spark.sql(text)
        assert "\n" not in str(told.value)


@needs_spark
def test_commands(cluster: Any, lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ask(*words: str) -> tuple[int, str, str]:
        code = 0
        try:
            main([*words, "--lake", lake.path, "--engine", "spark"])
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    code, out, _ = ask("sql", "select role, count(*) as n from runs group by role order by role")
    assert code == 0
    assert "shadow" in out
    assert "5 rows" in out
    named = ("sql", "--query", "loss", "--param", "target=run-0000", "--format", "json")
    code, out, _ = ask(*named, "--spark-master", MASTER)
    assert len(json.loads(out)) == 39
    assert ask("sql", "--spark-master", "local[3]", "select 1")[0] == 2
    assert ask("sql", "drop view samples")[0] == 1
    assert ask("sql")[0] == 2
    assert ask("sql", "--memory", "1GB", "select 1")[0] == 2

    code, out, _ = ask("analyze", "loss", "--out", str(tmp_path / "loss.parquet"))
    assert code == 0
    assert "auc" in out
    assert len(pl.read_parquet(tmp_path / "loss.parquet")) == 39
    code, _, said = ask("analyze", "kde")
    assert code == 2
    assert "on Spark, where there are lt-iqr, free, trace, lira" in said
    assert ask("analyze", "loss", "--mask", "label-only")[0] == 2
    code, out, _ = ask("analyze", "spearman", "loss", "lira", "--among", "members")
    assert code == 0
    assert "spearman" in out
    assert ask("analyze", "per-model")[0] == 2
    assert ask("analyze", "lira", "--queries", "gaussian")[0] == 2


def test_analyses_that_are_not_sql_are_named() -> None:
    assert {analysis.name for analysis in ANALYSES} > set(ON_SPARK)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, lake_of: Callable[..., Lake]) -> None:
    monkeypatch.setattr(sessions, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"pip install 'losslake\[spark\]'"):
        connect_spark(lake_of(np.ones((1, 3), dtype=bool), np.zeros((1, 3))))


@pytest.mark.skipif(find_spec("pyspark") is None, reason="PySpark is not installed")
def test_without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setenv("JAVA_HOME", os.devnull)
    with pytest.raises(MissingExtra, match="needs Java 17"):
        sessions._start(None)


@needs_spark
def test_a_folder_that_reads_as_a_pattern(cluster: Any, tmp_path: Path) -> None:
    odd = Lake.open(tmp_path / "a[1]", create=True)
    import pyarrow as pa

    odd.create_experiment("tests", pa.table({"label": pa.array([0], pa.int32())}))
    with pytest.raises(InvalidOption, match="for a pattern"):
        connect_spark(odd)


@needs_spark
def test_what_spark_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    from losslake.store.spark.views import location

    pytest.importorskip("obstore", reason="needs the extra object-store")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "somebody")
    assert location(Lake(files_at("s3://b/p")), "x/y=1.parquet") == "s3a://b/p/x/y=1.parquet"
    with pytest.raises(InvalidOption, match="does not read lakes at az://"):
        location(Lake(files_at("az://b/p")), "x.parquet")


def test_which_master_the_configuration_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one Spark is this machine's alone: it listens on the loopback address. A cluster of one's own is left as it is."""
    pytest.importorskip("pyspark", reason="needs the extra spark")
    for name in ("MASTER", "PYSPARK_SUBMIT_ARGS", "SPARK_CONF_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert sessions._configured_master() is None
    monkeypatch.setenv("MASTER", "spark://env:7077")
    assert sessions._configured_master() == "spark://env:7077"
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    for line in (
        "spark.master spark://file:7077",
        "spark.master=spark://file:7077",
        " spark.master\tspark://file:7077",
    ):
        (tmp_path / "spark-defaults.conf").write_text(f"# spark.master yarn\n{line}\nspark.ui.port 1\n")
        assert sessions._configured_master() == "spark://file:7077"
    for words in (
        "--master yarn pyspark-shell",
        "--conf spark.master=yarn pyspark-shell",
        "--master=yarn pyspark-shell",
    ):
        monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", words)
        assert sessions._configured_master() == "yarn"


ALONE = """
import sys
import psutil
from losslake.store.spark.connection import spark_session
context = spark_session().sparkContext
told = dict(context.getConf().getAll())
listening = {
    each.laddr.ip.removeprefix("::ffff:")
    for process in psutil.Process().children(recursive=True)
    for each in process.net_connections(kind="tcp")
    if each.status == "LISTEN"
}
print(context.master, told["spark.authenticate"], len(told["spark.authenticate.secret"]), context.parallelize([1]).count(), *listening)
"""


@needs_spark
def test_without_a_master_nobody_else_reaches_it(tmp_path: Path) -> None:
    pytest.importorskip("psutil")
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MASTER", "SPARK_LOCAL_IP")
    }
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.split() == ["local[*]", "true", "64", "1", "127.0.0.1"], done.stderr


def test_causes_are_found_in_long_errors() -> None:
    told = (
        "An error occurred\n\tat org.x\nCaused by: java.lang.X: first\nCaused by: java.lang.Y: last\n\tat y"
    )
    assert str(sessions._explained(Exception(told))) == "Spark failed: java.lang.Y: last"
    assert isinstance(sessions._explained(Exception("[DIVIDE_BY_ZERO] no. SQLSTATE")), QueryRefused)
    assert type(sessions._explained(Exception("connection refused"))) is LosslakeError
