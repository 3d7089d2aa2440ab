"""The Spark session of this process, and what Spark raises, turned into losslake's errors."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..errors import (
    CorruptLake,
    InvalidOption,
    LimitReached,
    LosslakeError,
    MissingExtra,
    QueryRefused,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

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


def spark_session(master: str | None = None) -> SparkSession:
    """A session of its own on the process's Spark, which is started where there is none yet.

    ``master`` is Spark's master URL; None leaves it to Spark's own configuration, without one: this machine's cores.
    Raises MissingExtra without pyspark, sqlglot or Java, InvalidOption for a second master in one process.
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
    builder = SparkSession.builder.appName("losslake").config("spark.ui.showConsoleProgress", "false")
    builder = builder.config("spark.log.level", "ERROR")
    builder = builder.config(
        "spark.ui.enabled", "false"
    )  # it would show anybody on the network what is asked
    if master is not None:
        builder = builder.master(master)
        if master.startswith("local"):
            builder = builder.config("spark.driver.host", "127.0.0.1")
            builder = builder.config("spark.driver.bindAddress", "127.0.0.1")
    # The errors of a query come back as exceptions as well; a traceback of Java's says nothing beside them.
    logging.getLogger("SQLQueryContextLogger").disabled = True
    logging.getLogger("DataFrameQueryContextLogger").disabled = True
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        try:
            with _errors_into(said.fileno()):
                session: SparkSession = builder.getOrCreate()
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


_UNREADABLE = ("FAILED_READ_FILE", "PATH_NOT_FOUND", "FileNotFoundException", "is not a Parquet file")


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
