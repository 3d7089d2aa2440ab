"""Spark over the lake, for lakes that outgrow one machine: the same views, queries and macros as DuckDB's.

With it the session of Spark's in this process, and what Spark raises, turned into losslake's errors.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import os
import re
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from ..errors import (
    CorruptLake,
    InvalidOption,
    LimitReached,
    LosslakeError,
    MissingExtra,
    QueryRefused,
)
from ..format.records import Run
from ..query.views import VIEWS
from ..read.catalogue import with_runs
from ..read.changes import check_unchanged

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from sqlglot import exp

    from ..read.catalogue import Catalogue

_EVERY_SESSION = {
    "spark.sql.ansi.enabled": "true",  # an overflow or a text that is no number is an error, as in DuckDB
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",  # an experiment called 1 is text
    # How a text is read is the same wherever it runs, and what it names is a view and not a file or a setting.
    "spark.sql.caseSensitive": "false",
    "spark.sql.runSQLOnFiles": "false",
    "spark.sql.variable.substitute": "false",
    "spark.sql.parser.escapedStringLiterals": "false",
    "spark.sql.ansi.doubleQuotedIdentifiers": "false",
}
"""Settings that a query's meaning rests on, whatever the cluster's own defaults say."""

_UNREADABLE = ("FAILED_READ_FILE", "PATH_NOT_FOUND", "FileNotFoundException", "is not a Parquet file")


class SparkConnection:
    """A session of Spark's with the lake's views. Get one with `connect_spark`; use it as a context manager.

    Sessions of one process share their Spark, which lives on until the process ends.
    """

    def __init__(
        self, lake: Catalogue, experiments: Sequence[str], runs: Sequence[Run], master: str | None
    ) -> None:
        self._session = spark_session(master)
        from .views import define_views  # needs what the session has found to be there

        self._lake, self._runs = lake, runs
        self._has_lists = False
        self._names = set(VIEWS)
        with spark_errors(self._session):
            define_views(self._session, lake, experiments, runs)

    def query(self, text: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """The answer to a query in DuckDB's SQL; what it may do is not looked at: this is for losslake's own texts."""
        from .transpile import parse_query

        return self._answer(parse_query(text), parameters)

    def sql(self, text: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """The answer to a query of a user's, in DuckDB's SQL. Raises QueryRefused for what `check_query` does not know."""
        from .transpile import check_query, parse_query

        query = parse_query(text)
        check_query(query, self._names)
        return self._answer(query, parameters)

    def register(self, name: str, table: pa.Table) -> None:
        """Let queries read ``table`` under ``name``; one of that name provided before is replaced."""
        if name in VIEWS:
            raise InvalidOption(f"{name!r} is a view of the lake")
        with spark_errors(self._session):
            self._session.createDataFrame(table).createOrReplaceTempView(name)
        self._names.add(name)

    def unregister(self, name: str) -> None:
        """Forget a table that was registered."""
        self._session.catalog.dropTempView(name)
        self._names.discard(name)

    def close(self) -> None:
        """Drop the views; Spark itself goes on."""
        for name in self._names:
            self._session.catalog.dropTempView(name)

    def _answer(self, query: exp.Query, parameters: Mapping[str, Any] | None) -> pa.Table:
        from .transpile import for_spark, reads_lists
        from .views import define_lists

        with spark_errors(self._session):
            if not self._has_lists and reads_lists(query):
                define_lists(self._session, self._lake, self._runs)
                self._has_lists = True
            rows = self._session.sql(for_spark(query), args=dict(parameters) if parameters else None)
            if len(set(rows.columns)) < len(rows.columns):
                raise QueryRefused("two columns of the answer have one name; rename one with AS")
            return rows.toArrow()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def connect_spark(
    lake: Catalogue,
    experiment: str | None = None,
    *,
    runs: Sequence[Run] | None = None,
    master: str | None = None,
) -> SparkConnection:
    """Spark with the views of one experiment of a lake, or of all. The views show what is committed at this moment.

    ``runs`` are the ones to show, by default all that are committed. ``master`` is Spark's master URL (see
    `spark_session`). Every worker must see the lake under the same path or URL.
    """
    experiments = [experiment] if experiment is not None else lake.experiments()
    listed = [with_runs(lake, name) for name in experiments] if runs is None else []
    known = [each for each, _ in listed] if runs is None else [lake.experiment(name) for name in experiments]
    shown = [run for _, found in listed for run in found] if runs is None else list(runs)
    check_unchanged(lake.files, [*known, *shown])
    return SparkConnection(lake, experiments, shown, master)


def spark_session(master: str | None = None) -> SparkSession:
    """A session of its own on the process's Spark, which is started where there is none yet.

    ``master`` is Spark's master URL; None leaves it to Spark's own configuration (spark-defaults.conf, spark-submit,
    MASTER), without one: this machine's cores. Spark on this machine alone listens on the loopback address, and takes
    connections that know a secret made for this process; of a cluster no such setting is touched. Raises MissingExtra without pyspark, sqlglot or Java, InvalidOption for a second master in one process.
    """
    if find_spec("pyspark") is None or find_spec("sqlglot") is None:
        raise MissingExtra(
            "the engine spark needs PySpark and sqlglot, which are not installed; get them with pip install 'losslake[spark]'"
        )
    from pyspark.sql import SparkSession

    shared = SparkSession.getActiveSession()
    if shared is None:
        shared = _start(master)
    elif master is not None and shared.sparkContext.master != master:
        raise InvalidOption(
            f"this process runs Spark on {shared.sparkContext.master} already, and can have no second one on {master}"
        )
    session = shared.newSession()
    for name, value in _EVERY_SESSION.items():
        session.conf.set(name, value)
    return session


def _start(master: str | None) -> SparkSession:
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    java = os.path.join(os.environ.get("JAVA_HOME", ""), "bin", "java")
    if shutil.which("java") is None and not os.path.exists(java):
        raise MissingExtra(
            "Spark needs Java 17 or newer, and there is no 'java' here; install one (Debian: openjdk-17-jre-headless) or set "
            "JAVA_HOME"
        )
    settings: dict[str, bool | float | int | str | None] = {
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.ui.enabled": "false",  # it would show anybody on the network what is asked
    }
    chosen = master if master is not None else _configured_master()
    if master is not None:
        settings["spark.master"] = master
    if chosen is None or chosen.startswith("local"):
        settings |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    if chosen is None or re.fullmatch(r"local(\[.*\])?", chosen):
        settings |= {"spark.authenticate": "true", "spark.authenticate.secret": secrets.token_hex(32)}
    # The errors of a query come back as exceptions as well; a traceback of Java's says nothing beside them.
    logging.getLogger("SQLQueryContextLogger").disabled = True
    logging.getLogger("DataFrameQueryContextLogger").disabled = True
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        try:
            with _errors_into(said.fileno()):
                session: SparkSession = (
                    SparkSession.builder.appName("losslake").config(map=settings).getOrCreate()
                )
        except (PySparkException, OSError, RuntimeError) as error:
            said.seek(0)
            told = [line for line in said.read().splitlines() if "rror" in line or "xception" in line]
            raise LosslakeError(
                f"Spark does not start: {(told or _lines(error))[0]} (it needs Java 17 or newer)"
            ) from error
        except Exception as error:  # py4j has an error tree of its own
            raise LosslakeError(f"Spark does not start: {_first_cause(error)}") from error
    atexit.register(session.stop)
    return session


def _configured_master() -> str | None:
    """The master that Spark's own configuration names, as Spark looks for it; None where it names none."""
    from pyspark.find_spark_home import _find_spark_home

    submitted = shlex.split(os.environ.get("PYSPARK_SUBMIT_ARGS", ""))
    for option, value in itertools.pairwise(submitted):
        if option == "--master":
            return value
        if option in ("--conf", "-c") and value.startswith("spark.master="):
            return value.partition("=")[2]
    if any(word.startswith("--master=") for word in submitted):
        return next(word.partition("=")[2] for word in submitted if word.startswith("--master="))
    folders = [os.environ.get("SPARK_CONF_DIR"), os.path.join(_find_spark_home(), "conf")]
    for folder in filter(None, folders[:1] if folders[0] else folders):
        with (
            contextlib.suppress(OSError, UnicodeError),
            open(f"{folder}/spark-defaults.conf", encoding="utf-8") as file,
        ):
            for line in file:
                named = re.match(r"\s*spark\.master[\s=:]+(\S+)", line)
                if named:
                    return named[1]
    return os.environ.get("MASTER")


@contextlib.contextmanager
def _errors_into(file: int) -> Iterator[None]:
    """While the block lasts, what this process and those that it starts write to standard error goes to ``file``.

    Java keeps it for good: it writes a dozen lines there before it reads any setting of how much to write.
    """
    kept = os.dup(2)
    try:
        os.dup2(file, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def spark_errors(session: SparkSession) -> Iterator[None]:
    """Turn what Spark raises in the block into losslake's errors.

    CorruptLake for a file of the lake that is missing or damaged, QueryRefused for what is wrong with the query,
    LimitReached where memory ran out, LosslakeError for a cluster that fails.
    """
    from py4j.protocol import Py4JError  # type: ignore[import-untyped]
    from pyspark.errors import PySparkException

    try:
        yield
    except KeyboardInterrupt:
        session.sparkContext.cancelAllJobs()
        raise
    except (PySparkException, Py4JError) as error:
        raise _explained(error) from error


def _explained(error: Exception) -> LosslakeError:
    whole = str(error)
    named = re.search(r"(?:file:)?(/[^\s'\"]+?\.parquet)", whole)
    if named and any(word in whole for word in _UNREADABLE):
        return CorruptLake(f"{named[1]} is missing or cannot be read; run 'losslake lake verify'")
    text = _first_cause(error)
    if "OutOfMemoryError" in whole:
        return LimitReached(f"Spark ran out of memory; give it more (spark.executor.memory): {text}")
    if re.match(r"\[[A-Z_0-9.]+\]", text):
        return QueryRefused(text)
    return LosslakeError(f"Spark failed: {text}")


def _first_cause(error: Exception) -> str:
    """The line that says what is wrong: the first with the name of an error condition of Spark's, else the last cause."""
    lines = _lines(error)
    conditions = [line for line in lines if re.search(r"\[[A-Z_0-9.]{6,}\] ", line)]
    if conditions:
        return conditions[0][conditions[0].index("[") :][:500]
    causes = [line.partition("Caused by: ")[2] for line in lines if line.startswith("Caused by: ")]
    return (causes or lines)[-1 if causes else 0][:500]


def _lines(error: Exception) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
