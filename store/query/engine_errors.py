"""What DuckDB raises, turned into losslake's errors: is it the query, the machine, or a damaged file?"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import BinaryIO

import duckdb

from ..errors import CorruptLake, LimitReached, LosslakeError, QueryRefused
from .views import FILE_LISTS, lists_behind

_READ_AGAIN = 1 << 30
"""Bytes that are read again, at most, to find out which file is damaged when DuckDB does not say."""

# The kinds that a query earns by itself; what is neither of these comes from reading a file.
_ABOUT_THE_QUERY = (
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ConstraintException,
    duckdb.ConversionException,
    duckdb.InvalidTypeException,
    duckdb.NotImplementedException,
    duckdb.OutOfRangeException,
    duckdb.ParserException,
    duckdb.PermissionException,
    duckdb.SyntaxException,
    duckdb.TransactionException,
    duckdb.TypeMismatchException,
)


# By the words that DuckDB's own text begins with: an error while rows stream through Arrow keeps only its text.
_STREAMED = {
    "INTERRUPT": duckdb.InterruptException,
    "Out of Memory": duckdb.OutOfMemoryException,
    "Conversion": duckdb.ConversionException,
    "Not implemented": duckdb.NotImplementedException,
    "Out of Range": duckdb.OutOfRangeException,
    "Permission": duckdb.PermissionException,
}


@contextlib.contextmanager
def engine_errors(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Turn what DuckDB raises in the block into losslake's errors.

    CorruptLake for a file of the lake that is missing or damaged, LimitReached where memory or temporary space ran
    out, QueryRefused for what is wrong with the query itself.
    """
    try:
        with _as_duckdb_raises():
            yield
    except duckdb.InterruptException as error:
        raise KeyboardInterrupt from error
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise _used_up(first_lines(error)) from error
    except duckdb.Error as error:
        raise _explained(connection, error) from error
    except UnicodeDecodeError as error:
        # DuckDB's own error, which quotes bytes of a damaged file and so cannot be told.
        raise _explained(connection, duckdb.Error("its bytes are not what they were")) from error
    except RuntimeError as error:
        if "interrupted" in str(error).casefold():
            raise KeyboardInterrupt from error
        raise


@contextlib.contextmanager
def _as_duckdb_raises() -> Iterator[None]:
    """Give an error that came through an Arrow stream its own kind again: PyArrow makes an OSError of every one."""
    try:
        yield
    except OSError as error:
        told = re.match(r"([A-Za-z][A-Za-z ]*) Error: ", str(error))
        if told is None or error.errno is not None:
            raise
        raise _STREAMED.get(told[1], duckdb.Error)(str(error)) from error


def _used_up(text: str) -> LimitReached:
    if "max_temp_directory_size" in text:
        return LimitReached(
            "the query needs more than the temporary space that it may have, half of what is free on the disk of "
            f"temporary files; ask for less, give it more memory with --memory, or set TMPDIR to a larger disk ({text})"
        )
    return LimitReached(
        f"the query ran out of memory; ask for less, or give it more with --memory ({text or 'no memory left'})"
    )


def first_lines(error: Exception) -> str:
    """What DuckDB says, without the blank lines and the tail of a long one."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return "\n".join(lines[:6])


def _explained(connection: duckdb.DuckDBPyConnection, error: duckdb.Error) -> LosslakeError:
    told = re.search(
        r"^(?:[\w.]+\.)?(CorruptLake|NoAnswer|LosslakeError): (.*)", str(error), flags=re.MULTILINE
    )
    if told and "Traceback" in str(error):  # by what reads an object store for DuckDB
        return CorruptLake(told[2]) if told[1] == "CorruptLake" else LosslakeError(told[2])
    text = first_lines(error)
    if "No space left on device" in text:
        return LimitReached(f"the disk of temporary files is full: {text}")
    mixed = re.search(r'failed to cast column "(.+?)" from type (.+) to (?:type )?(.+?): ', text)
    if mixed:
        return QueryRefused(
            f"experiments keep values of different types in the column {mixed[1]!r} ({mixed[2]}, {mixed[3]}); "
            "choose one with --experiment, or leave the column out"
        )
    # A file that is gone DuckDB takes for a folder, which a query may not look into.
    gone = isinstance(error, duckdb.PermissionException) and _missing_file(connection, text)
    if gone:
        return CorruptLake(f"{gone} is missing; run 'losslake lake verify'")
    if isinstance(error, _ABOUT_THE_QUERY):
        return QueryRefused(text)
    if ".parquet" in text:
        return CorruptLake(f"a file of the lake cannot be read: {text}; run 'losslake lake verify'")
    damaged = _unreadable_file(connection)
    if damaged is not None:
        return CorruptLake(f"{damaged} cannot be read ({text}); run 'losslake lake verify'")
    return QueryRefused(text)


def _missing_file(connection: duckdb.DuckDBPyConnection, text: str) -> str | None:
    """The file behind the views that DuckDB speaks of, where it is not there."""
    for location in _files_behind(connection):
        if f'"{location}' in text and not os.path.exists(location):
            return location
    return None


def _unreadable_file(connection: duckdb.DuckDBPyConnection) -> str | None:
    """The first file behind the views that cannot be read as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    budget = _READ_AGAIN
    for location in _files_behind(connection):
        try:
            with _opened(location) as source:
                budget -= source.seek(0, os.SEEK_END)
                if budget < 0:
                    break
                with pq.ParquetFile(source, page_checksum_verification=True) as file:
                    for group in range(file.num_row_groups):
                        file.read_row_group(group)
        except (pa.ArrowException, OSError, CorruptLake):
            return location
    return None


def _opened(location: str) -> BinaryIO:
    if "://" in location:
        from ..files.filesystem import read_url

        return read_url(location)
    return open(location, "rb")


def _files_behind(connection: duckdb.DuckDBPyConnection) -> list[str]:
    with contextlib.suppress(duckdb.Error):
        lists = lists_behind(connection)
        return [location for name in FILE_LISTS for location in lists[name]]
    return []
