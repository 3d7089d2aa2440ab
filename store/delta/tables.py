"""What each Delta table has to name, by what the manifests list: files of the lake, and copies where no file of the lake will do.

A Delta table is one schema, and values of its own for each file in the columns that folders say. So a file is named as it is where
every row of it counts and its columns are of the table's types. Signals and traces say in a column which run a row is of, as files that
runs share have many; those that an older losslake wrote for a run alone do not. A copy takes the place of these, of a shared
file of which not all rows count (after a compaction that was stopped), and of samples or scores with a column that Delta cannot hold, or that
another file has in another type. Classes, runs and metrics lie in manifests: they are written out, a file an experiment.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import CorruptLake, NotFound, in_one_line
from ..files.filesystem import Files
from ..format.manifest import DataFile
from ..format.records import Experiment, Result, Run
from ..format.schema import METRICS, OF_RUNS, RUN, SAMPLES, SCORES, SIGNALS, TRACES
from ..format.tables import with_run
from ..query.views import CLASSES, RUNS, classes_table, metrics_table, runs_table, table_files
from ..read.catalogue import Catalogue, results, with_runs
from ..read.data_rows import read_rows
from .columns import Column, Type, cast_rows, columns_of, common_type

TABLES = ("samples", "classes", "runs", "signals", "traces", "scores", "metrics")

FOLDERS: Mapping[str, tuple[str, ...]] = {
    "scores": ("experiment", "analysis", "target"),
    **dict.fromkeys(("samples", "classes", "runs", "signals", "traces", "metrics"), ("experiment",)),
}
"""The columns of each table that are the same in all rows of a file, which its log says and the file does not."""

_OWN: Mapping[str, pa.Schema] = {
    "samples": SAMPLES,
    "classes": CLASSES,
    "runs": RUNS,
    "signals": pa.schema([RUN, *SIGNALS]),
    "traces": pa.schema([RUN, *TRACES]),
    "scores": SCORES,
    "metrics": METRICS,
}
_WITH_MORE = ("samples", "scores")
"""Tables whose files may have columns of their own."""

OF = "losslake.of"
"""The tag of a named file that says what it is of: see `Entry`."""

COLUMNS = "losslake.columns"
"""The tag that says which columns the file of the lake has."""


@dataclass(frozen=True)
class Entry:
    """What a table has to name: ``of`` says which rows in which form, so what was named under it before will do.

    ``source`` is the lake's file to name, None where ``rows`` are to be written instead, a part at a time; ``columns`` are what it has.
    """

    of: str
    folders: Mapping[str, str]
    source: DataFile | None
    rows: Callable[[], Iterator[pa.Table]] | None
    columns: Sequence[Column] | None = None


@dataclass(frozen=True)
class Listed:
    """What the manifests of some experiments list: those that are there, their runs and their results."""

    experiments: Sequence[Experiment]
    runs: Sequence[Run]
    results: Sequence[Result]


def listed(lake: Catalogue, names: Iterable[str]) -> Listed:
    """What is committed of these experiments; nothing of one that is not there."""
    experiments: list[Experiment] = []
    runs: list[Run] = []
    found: list[Result] = []
    for name in names:
        try:
            known, its = with_runs(lake, name)
        except NotFound:
            continue
        experiments.append(known)
        runs += its
        found += results(lake, name)
    return Listed(experiments, runs, found)


def entries(
    lake: Catalogue,
    table: str,
    there: Listed,
    known: Mapping[str, Mapping[str, Any]],
    others: Iterable[Column],
) -> tuple[dict[str, Type], list[Entry]]:
    """The columns of a table and what it has to name of the experiments listed.

    ``known`` has the tags of what is named already, by what it is of; ``others`` are the columns of the files of other experiments.
    """
    folders = dict.fromkeys(FOLDERS[table], "string")
    if table in OF_RUNS:
        return {**folders, **_own(table)}, list(_of_runs(lake, table, there, known))
    if table in _WITH_MORE:
        return _with_more(lake, table, there, known, others)
    columns = {**folders, **{name: kind for name, kind in _own(table).items() if name not in folders}}
    return columns, list(_written_out(table, there, columns))


def _own(table: str) -> dict[str, Type]:
    return {each.name: each.type for each in columns_of(_OWN[table])}


# --- signals and traces ---------------------------------------------------------------------------------------


def _of_runs(
    lake: Catalogue, table: str, there: Listed, known: Mapping[str, Mapping[str, Any]]
) -> Iterator[Entry]:
    by_experiment: dict[str, list[Run]] = {each.name: [] for each in there.experiments}
    for run in there.runs:
        by_experiment[run.experiment].append(run)
    for experiment, runs in by_experiment.items():
        folders = {"experiment": experiment}
        files = table_files(runs, table)
        lying = {file.path: (run, file) for run in runs for file in run.files if file.table == table}
        for path in files.own:
            run, file = lying[path]
            copied = f"{path} with run"
            if path in known or (copied not in known and RUN.name in _schema(lake.files, path).names):
                yield Entry(path, folders, file, None)
            else:
                yield Entry(copied, folders, None, _part_of(lake, [(run, file)]))
        for path in files.whole:
            yield Entry(path, folders, lying[path][1], None)
        for path, names in files.part.items():
            counted = [
                (run, file) for run in runs for file in run.files if file.path == path and file.table == table
            ]
            yield Entry(f"{path} of {_digest(sorted(names))}", folders, None, _part_of(lake, counted))


def _part_of(lake: Catalogue, parts: Sequence[tuple[Run, DataFile]]) -> Callable[[], Iterator[pa.Table]]:
    """The rows of runs in a file, each with its run."""

    def rows() -> Iterator[pa.Table]:
        for run, file in parts:
            yield with_run(read_rows(lake.files, file, None, None), run.run)

    return rows


# --- samples and scores ---------------------------------------------------------------------------------------


def _with_more(
    lake: Catalogue,
    table: str,
    there: Listed,
    known: Mapping[str, Mapping[str, Any]],
    others: Iterable[Column],
) -> tuple[dict[str, Type], list[Entry]]:
    told = {of.partition(" ")[0]: tags[COLUMNS] for of, tags in known.items() if COLUMNS in tags}
    found = []
    for folders, file in _files_with_more(table, there):
        own = (
            columns_from(told[file.path]) if file.path in told else columns_of(_schema(lake.files, file.path))
        )
        found.append((folders, file, own))
    # In the order of names: the same, whoever has published before.
    more = sorted(
        {column for _, _, own in found for column in map(_hashable, own)} | set(map(_hashable, others))
    )
    columns = _united(table, [_column(each) for each in more])
    entries = []
    for folders, file, own in found:
        if all(each.as_it_is and columns.get(each.name) == each.type for each in own):
            entries.append(Entry(file.path, folders, file, None, own))
        else:
            kinds = {each.name.casefold(): each.name for each in own}
            form = {name: kind for name, kind in columns.items() if name.casefold() in kinds}
            entries.append(
                Entry(f"{file.path} as {_digest(form)}", folders, None, _cast(lake, file, columns), own)
            )
    return columns, entries


def _files_with_more(table: str, there: Listed) -> Iterator[tuple[Mapping[str, str], DataFile]]:
    if table == "samples":
        for experiment in there.experiments:
            for file in experiment.files:
                if file.table == "samples":
                    yield {"experiment": experiment.name}, file
    else:
        for result in there.results:
            if result.file is not None:
                folders = {name: str(getattr(result, name)) for name in FOLDERS["scores"]}
                yield folders, result.file


def _united(table: str, more: Sequence[Column]) -> dict[str, Type]:
    """The columns of a table whose files have these, in whatever types."""
    columns: dict[str, Type] = {**dict.fromkeys(FOLDERS[table], "string"), **_own(table)}
    names = {name.casefold(): name for name in columns}
    types: dict[str, list[Type]] = {}
    for each in more:
        name = names.setdefault(each.name.casefold(), each.name)
        if name not in columns:
            types.setdefault(name, []).append(each.type)
    return columns | {name: common_type(kinds) for name, kinds in types.items()}


def _cast(lake: Catalogue, file: DataFile, columns: Mapping[str, Type]) -> Callable[[], Iterator[pa.Table]]:
    def rows() -> Iterator[pa.Table]:
        yield cast_rows(read_rows(lake.files, file, None, None), columns)

    return rows


def columns_to_text(columns: Sequence[Column]) -> str:
    """Columns as a tag says them."""
    return json.dumps([list(each) for each in columns], sort_keys=True)


def columns_from(text: str) -> list[Column]:
    """What `columns_to_text` made a text of. Raises CorruptLake for any other."""
    try:
        return [Column(*each) for each in json.loads(text)]
    except (ValueError, TypeError) as error:
        raise CorruptLake(f"a Delta log has a damaged tag: {error}") from error


def _hashable(column: Column) -> str:
    return json.dumps(list(column), sort_keys=True)


def _column(text: str) -> Column:
    return Column(*json.loads(text))


# --- classes, runs and metrics -----------------------------------------------------------------------------------------


def _written_out(table: str, there: Listed, columns: Mapping[str, Type]) -> Iterator[Entry]:
    for experiment in there.experiments:
        name = experiment.name
        if table == "classes":
            rows = classes_table([experiment])
        elif table == "runs":
            rows = runs_table([run for run in there.runs if run.experiment == name])
        else:
            rows = metrics_table([result for result in there.results if result.experiment == name])
        if len(rows):
            rows = cast_rows(rows.drop_columns(["experiment"]), columns)
            of = f"{table}/experiment={name} {_digest(rows.to_pylist())}"
            yield Entry(of, {"experiment": name}, None, functools.partial(iter, [rows]))


# --- inside ---------------------------------------------------------------------------------------------------


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _schema(files: Files, path: str) -> pa.Schema:
    """The columns of a Parquet file, of the types that its writer had: some readers go by these. Raises CorruptLake where it cannot be read."""
    try:
        with files.open_input(path) as source:
            footer = pq.read_metadata(source)
        told = (footer.metadata or {}).get(b"ARROW:schema")
        if told is None:
            return footer.schema.to_arrow_schema()
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(told)))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptLake(
            f"{path} in {files.root} cannot be read: {in_one_line(error)}; run 'losslake lake verify'"
        ) from error
