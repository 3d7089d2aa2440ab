"""The lake's views as a DuckDB database file, for tools that open one: DBeaver, the DuckDB CLI, notebooks."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import duckdb

from ..sql import read_sql
from .engine_errors import engine_errors, first_lines
from .errors import AlreadyExists, InvalidOption, LosslakeError
from .lake import Lake
from .views import VIEWS, connect

COMPUTED = "trace_points"
"""Stays a view in every export: its rows are those of traces, once an epoch."""

STORAGE = "v1.2.0"
"""Of DuckDB's formats one that programs with an older DuckDB inside read as well."""

_ROWS = 100_000


def export(
    lake: Lake, path: Path, experiment: str | None = None, *, views: bool = False, force: bool = False
) -> dict[str, int]:
    """Write a database file with the lake's views and macros; returns the number of rows by view.

    Its tables are copies, so that the file can go anywhere. With ``views`` samples, signals, traces and scores are views
    over the lake's Parquet files by their absolute paths instead: of what is committed now, not of what comes later.
    The file appears whole or not at all, readable by its owner alone.

    Raises AlreadyExists where there is a file and not ``force``, InvalidOption for a path inside the lake.
    """
    target = path.expanduser().absolute()
    if target.resolve().is_relative_to(lake.path):
        raise InvalidOption(f"{path} lies inside the lake; choose a place outside of it")
    if not force:
        _refuse_existing(target)
    with connect(lake, experiment) as source, _database(target, force) as out:
        linked = _files_behind(source) if views else {}
        for name in VIEWS:
            if name != COMPUTED and name not in linked:
                _copy(source, out, name)
        with engine_errors(source):
            for name, statement in _definitions(linked).items():
                if name in linked or name == COMPUTED:
                    out.execute(statement)
            out.execute(read_sql("macros_duckdb"))
            return {name: _count(out, name) for name in VIEWS}


def _files_behind(source: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    """The files that a lake's connection reads, by view; no entry where there are none."""
    found = {}
    for name in ("samples", "signals", "traces", "scores"):
        rows = source.execute("select getvariable($name)", {"name": f"{name}_files"}).fetchall()
        if rows[0][0]:
            found[name] = list(rows[0][0])
    return found


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise AlreadyExists(f"{target} exists; choose another name, or add --force to replace it")


@contextmanager
def _database(target: Path, force: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    """A new database that becomes ``target`` when the block ends well, and nothing when it raises."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own: nobody else may look in, and DuckDB's log beside the file goes with it.
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise LosslakeError(f"cannot write {target}: {error.strerror or error}") from error
    made = folder / "new.duckdb"
    try:
        with duckdb.connect() as connection:
            connection.execute("set temp_directory = $folder", {"folder": str(folder)})
            connection.execute("set autoinstall_known_extensions = false")
            connection.execute(
                "attach $path as lake (storage_version $storage)", {"path": str(made), "storage": STORAGE}
            )
            connection.execute("use lake")
            yield connection
            connection.execute("use memory")
            connection.execute("detach lake")
        os.chmod(made, 0o600)
        _put(made, target, force)
    except (OSError, duckdb.IOException) as error:
        reason = error.strerror if isinstance(error, OSError) else first_lines(error)
        raise LosslakeError(f"cannot write {target}: {reason or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put(made: Path, target: Path, force: bool) -> None:
    if force:
        os.replace(made, target)
        return
    try:
        os.link(made, target)  # fails where the name has been taken in the meantime
    except FileExistsError:
        _refuse_existing(target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        _refuse_existing(target)  # no hard links here
        os.replace(made, target)


def _copy(source: duckdb.DuckDBPyConnection, out: duckdb.DuckDBPyConnection, name: str) -> None:
    """Copy the rows of a view in batches."""
    with engine_errors(source):
        out.register("_incoming", source.view(name).to_arrow_reader(_ROWS))
        out.table("_incoming").create(name)
        out.unregister("_incoming")


def _definitions(linked: Mapping[str, list[str]]) -> dict[str, str]:
    """What creates each view of views.sql. A view cannot have parameters, so the files stand in it as literals."""
    found = {}
    for statement in duckdb.extract_statements(read_sql("views")):
        text = statement.query
        created = re.search(r"create view (\w+)", text)
        if created:
            files = ", ".join("'" + file.replace("'", "''") + "'" for file in linked.get(created[1], []))
            found[created[1]] = text.replace(f"getvariable('{created[1]}_files')", f"[{files}]")
    return found


def _count(out: duckdb.DuckDBPyConnection, name: str) -> int:
    return int(out.table(name).count("*").fetchall()[0][0])
