"""Which files an engine reads for the lake's views: those of single runs, and those that several runs share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb

from ...sql import read_sql
from ..format.manifest import DataFile
from ..format.records import Run

FILE_LISTS = (
    "samples_files",
    "scores_files",
    "signals_files",
    "signals_shared_files",
    "signals_part_files",
    "traces_files",
    "traces_shared_files",
    "traces_part_files",
)
"""The variables of views.sql that hold lists of files."""

ROW_LISTS = ("signals_part_rows", "traces_part_rows")
"""Those that say which rows of the files in the list of parts count."""


@dataclass
class TableFiles:
    """Where the rows of a table of runs lie: ``own`` files have those of one run, of ``whole`` shared ones all count.

    Of the other shared files, ``part``, only the rows of the runs named count: a file may outlive its place in the
    manifest of a run.
    """

    own: list[DataFile] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)
    part: dict[str, list[str]] = field(default_factory=dict)


def table_files(runs: Iterable[Run], table: str) -> TableFiles:
    """The files that ``runs`` list for ``table``, signals or traces."""
    found = TableFiles()
    shared: dict[str, list[tuple[str, DataFile]]] = {}
    for run in runs:
        for file in run.files:
            if file.table == table and file.shared is None:
                found.own.append(file)
            elif file.table == table:
                shared.setdefault(file.path, []).append((run.run, file))
    for path, parts in shared.items():
        if sum(file.rows for _, file in parts) == max(file.shared.rows for _, file in parts if file.shared):
            found.whole.append(path)
        else:
            found.part[path] = [run for run, _ in parts]
    return found


def lists_for(table: str, files: TableFiles, location: Callable[[str], str]) -> dict[str, list[Any]]:
    """The variables of views.sql for a table of runs; ``location`` says what an engine opens for a path."""
    return {
        f"{table}_files": [location(file.path) for file in files.own],
        f"{table}_shared_files": [location(path) for path in files.whole],
        f"{table}_part_files": [location(path) for path in files.part],
        f"{table}_part_rows": [
            {"part_file": location(path), "part_run": run}
            for path, runs in files.part.items()
            for run in runs
        ],
    }


def view_statements(lists: Mapping[str, list[Any]]) -> dict[str, str]:
    """What creates each view of views.sql, without the parts whose lists are empty; none of a view without any part."""
    found = {}
    for statement in duckdb.extract_statements(read_sql("views")):
        text = statement.query
        created = re.search(r"create view (\w+) as\n", text)
        if created:
            parts = text[created.end() :].split("\nunion all\n")
            there = [part for part in parts if all(lists[name] for name in _variables(part))]
            if there:
                found[created[1]] = text[: created.end()] + "\nunion all\n".join(there)
    return found


def _variables(text: str) -> list[str]:
    return re.findall(r"getvariable\('(\w+)'\)", text)
