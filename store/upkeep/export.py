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
from typing import Any

import duckdb

from ...sql import read_sql
from ..errors import AlreadyExists, InvalidOption, LosslakeError
from ..format.out_file import goal_of
from ..query.connection import connect
from ..query.engine_errors import engine_errors, first_lines
from ..query.views import LISTS, VIEWS, lists_behind, view_statements
from ..read.catalogue import Catalogue, check_remembered, listed_files
from ..read.changes import read_again

STORAGE = "v1.2.0"
"""Of DuckDB's formats one that programs with an older DuckDB inside read as well."""

_ROWS = 100_000

_MEMORY = "1GB"
"""Of what it writes the engine would keep four fifths of the machine's memory; with this much it is as quick."""


def export(
    lake: Catalogue, path: Path, experiment: str | None = None, *, views: bool = False, force: bool = False
) -> dict[str, int]:
    """Write a database file with the lake's views and macros; returns the number of rows by view.

    Its tables are copies, so that the file can go anywhere. With ``views`` samples, signals, traces and scores are views
    over the lake's Parquet files by their absolute paths instead: of what is committed now, not of what comes later.
    The file appears whole or not at all, readable by its owner alone.

    Raises AlreadyExists where there is a file and not ``force``, InvalidOption for a path inside the lake, ForgottenMeanwhile where
    a sample was forgotten while it was written: nothing appears then.
    """
    target = path.expanduser().absolute()
    if target.resolve().is_relative_to(lake.path):
        raise InvalidOption(f"{path} lies inside the lake; choose a place outside of it")
    if not force:
        _refuse_existing(target)

    def write() -> dict[str, int]:
        names = [experiment] if experiment is not None else lake.experiments()
        forgotten = {name: lake.experiment(name).forgotten for name in names}  # before any row is read
        with connect(lake, experiment) as source, _database(target, force) as out:
            lake.files.let_read(out)
            made = _definitions(lists_behind(source) if views else {name: [] for name in LISTS})
            with engine_errors(source):
                for name in VIEWS:
                    if name not in made:
                        out.from_arrow(source.view(name).to_arrow_reader(_ROWS)).create(name)
                for statement in made.values():
                    out.execute(statement)
                out.execute(read_sql("macros_duckdb"))
                counts = {name: _count(out, name) for name in VIEWS}
            for name in names:
                check_remembered(lake, name, forgotten[name], "the lake was exported")
            return counts

    return read_again(write, lambda: listed_files(lake, experiment))


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise AlreadyExists(f"{target} exists; choose another name, or add --force to replace it")


@contextmanager
def _database(target: Path, force: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    """A new database that becomes ``target`` when the block ends well, and nothing when it raises."""
    try:
        goal = goal_of(target)
        if goal is None:
            raise InvalidOption(f"{target} is no file, and DuckDB writes none but files; name one")
        target = goal
        # A folder of its own: nobody else may look in, and DuckDB's log beside the file goes with it.
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise LosslakeError(f"cannot write {target}: {error.strerror or error}") from error
    made = folder / "new.duckdb"
    try:
        with duckdb.connect() as connection:
            connection.execute("set temp_directory = $folder", {"folder": str(folder)})
            connection.execute("set memory_limit = $memory", {"memory": _MEMORY})
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


def _definitions(lists: Mapping[str, list[Any]]) -> dict[str, str]:
    """What creates each view of views.sql. A view cannot have parameters, so the lists stand in it as literals."""
    return {
        name: re.sub(r"getvariable\('(\w+)'\)", lambda found: _literal(lists[found[1]]), text)
        for name, text in view_statements(lists).items()
    }


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(name)}: {_literal(part)}' for name, part in value.items())}}}"
    return "'" + str(value).replace("'", "''") + "'"


def _count(out: duckdb.DuckDBPyConnection, name: str) -> int:
    return int(out.table(name).count("*").fetchall()[0][0])
