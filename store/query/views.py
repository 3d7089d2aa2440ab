"""The lake's views: which files an engine reads for them, what creates them in DuckDB, and those that are tables."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...sql import read_sql
from ..errors import CorruptLake
from ..format.manifest import DataFile
from ..format.records import Experiment, Result, Run
from ..format.schema import METRICS, SAMPLES, SCORES, SIGNALS, TRACES
from ..format.tables import empty_table, table_of_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    import duckdb

VIEWS = ("samples", "classes", "runs", "signals", "traces", "trace_points", "scores", "metrics", "risk")

OF_RESULTS = ("scores", "metrics", "risk")
"""Those of what analyses found, of which each is a manifest of its own."""

COLUMNS = {"samples": SAMPLES, "signals": SIGNALS, "traces": TRACES, "scores": SCORES}
"""The columns of the views over files, in the files; the folders say the rest, `PARTITIONS`. Of the others classes, runs and
metrics are tables, trace_points and risk follow from these."""

PARTITIONS = {
    "samples": ("experiment",),
    "signals": ("experiment", "run"),
    "traces": ("experiment", "run"),
    "scores": ("experiment", "analysis", "target"),
}

_END = re.compile(r";\n")
"""Where a statement of views.sql ends; DuckDB's parser, which has no connection here, would start an engine of its own to say so."""

_VARIABLE = r"getvariable\('(\w+)'\)"

LISTS = sorted(re.findall(_VARIABLE, read_sql("views")))
"""The variables of views.sql. Those called ..._files hold lists of files, the others which rows of such files count."""

FILE_LISTS = [name for name in LISTS if name.endswith("_files")]

# Variables keep file names, which come from outside, out of the text of the views.
_SET_LIST = {name: f"set variable {name} = $list" for name in LISTS}

CLASSES = pa.schema([("experiment", pa.string()), ("label", pa.int32()), ("label_name", pa.string())])

RUNS = pa.schema(
    [
        ("experiment", pa.string()),
        ("run", pa.string()),
        ("role", pa.string()),
        ("seed", pa.int64()),
        ("dataset", pa.string()),
        ("model", pa.string()),
        ("recipe", pa.string()),
        ("epochs", pa.int32()),
        ("members", pa.int64()),
        ("train_accuracy", pa.float64()),
        ("test_accuracy", pa.float64()),
        ("seconds", pa.float64()),
        ("device", pa.string()),
        ("created", pa.timestamp("ms", tz="UTC")),
        ("versions", pa.string()),
        ("parent", pa.string()),
        ("extra", pa.string()),
    ]
)


# --- files ----------------------------------------------------------------------------------------------------


@dataclass
class TableFiles:
    """Where the rows of a table of runs lie: ``own`` files have those of one run, of ``whole`` shared ones all count.

    Of the other shared files, ``part``, only the rows of the runs named count: a file may outlive its place in the
    manifest of a run.
    """

    own: list[str] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)
    part: dict[str, list[str]] = field(default_factory=dict)


def table_files(runs: Iterable[Run], table: str) -> TableFiles:
    """The paths of the files that ``runs`` list for ``table``, signals or traces."""
    found = TableFiles()
    shared: dict[str, list[tuple[str, DataFile]]] = {}
    for run in runs:
        for file in run.files:
            if file.table == table and file.shared is None:
                found.own.append(file.path)
            elif file.table == table:
                shared.setdefault(file.path, []).append((run.run, file))
    for path, parts in shared.items():
        if sum(file.rows for _, file in parts) == max(file.shared.rows for _, file in parts if file.shared):
            found.whole.append(path)
        else:
            found.part[path] = [run for run, _ in parts]
    return found


def file_lists(
    experiments: Iterable[Experiment],
    runs: Sequence[Run],
    results: Iterable[Result],
    location: Callable[[str], str],
) -> dict[str, list[Any]]:
    """The variables of views.sql; ``location`` says what an engine opens for a path."""
    samples = [file.path for each in experiments for file in each.files if file.table == "samples"]
    lists: dict[str, list[Any]] = {
        "samples_files": [location(path) for path in samples],
        "scores_files": [location(result.file.path) for result in results if result.file is not None],
    }
    for table in ("signals", "traces"):
        files = table_files(runs, table)
        lists[f"{table}_files"] = [location(path) for path in files.own]
        lists[f"{table}_shared_files"] = [location(path) for path in files.whole]
        lists[f"{table}_part_files"] = [location(path) for path in files.part]
        lists[f"{table}_part_rows"] = [
            {"part_file": location(path), "part_run": run}
            for path, names in files.part.items()
            for run in names
        ]
    return lists


def lists_behind(connection: duckdb.DuckDBPyConnection) -> dict[str, list[Any]]:
    """The variables of views.sql in a connection; empty lists in one that is not a lake's."""
    found = {}
    for name in LISTS:
        rows = connection.execute("select getvariable($name)", {"name": name}).fetchall()
        found[name] = rows[0][0] or []
    return found


# --- DuckDB ---------------------------------------------------------------------------------------------------


def define_views(
    connection: duckdb.DuckDBPyConnection, lists: Mapping[str, list[Any]], without: Collection[str] = ()
) -> None:
    """Create the views over files, and an empty table of the same columns where there are no files; none of those ``without``."""
    for name, given in lists.items():
        connection.execute(_SET_LIST[name], {"list": given})
    views = view_statements(lists)
    for name in COLUMNS.keys() - views.keys() - set(without):
        partitions = [pa.field(part, pa.string()) for part in PARTITIONS[name]]
        empty = empty_table(pa.schema([*partitions, *COLUMNS[name]]))
        connection.from_arrow(empty).create(name)
    for name, statement in views.items():
        if name not in without:
            connection.execute(statement)


def view_statements(lists: Mapping[str, list[Any]]) -> dict[str, str]:
    """What creates each view of views.sql, without the parts whose lists are empty; none of a view without any part."""
    found = {}
    for text in _END.split(read_sql("views")):
        created = re.search(r"create view (\w+) as\n", text)
        if created:
            parts = text[created.end() :].split("\nunion all\n")
            there = [part for part in parts if all(lists[name] for name in re.findall(_VARIABLE, part))]
            if there:
                found[created[1]] = text[: created.end()] + "\nunion all\n".join(there)
    return found


def view_text(name: str) -> str:
    """The query behind a view of views.sql that reads no files."""
    return view_statements({each: [] for each in LISTS})[name].partition(f"create view {name} as\n")[2]


# --- tables ---------------------------------------------------------------------------------------------------


def classes_table(experiments: Iterable[Experiment]) -> pa.Table:
    """The ``classes`` view: one row a class that the experiment's data set has a name for."""
    rows = [
        {"experiment": each.name, "label": label, "label_name": str(name)}
        for each in experiments
        for label, name in _named_classes(each.dataset.get("classes"))
        if name is not None  # of a class whose records were all forgotten
    ]
    return table_of_rows(rows, CLASSES)


def _named_classes(names: Any) -> Iterable[tuple[int, Any]]:
    """Labels with the names of their classes, of a list by label or a mapping from it."""
    if isinstance(names, Mapping):
        return [(int(label), name) for label, name in names.items() if str(label).isdecimal()]
    return enumerate(names) if isinstance(names, Sequence) and not isinstance(names, str) else ()


def runs_table(runs: Iterable[Run]) -> pa.Table:
    """The ``runs`` view: one row a committed run."""
    texts: dict[str, str] = {}

    def text_of(value: Any) -> str:
        # Runs of a fleet say mostly the same, and this is had in a part of the time of the text. Unlike equality it tells 1
        # from 1.0 and from true.
        key = repr(value)
        if key not in texts:
            texts[key] = _json_text(value)
        return texts[key]

    rows: list[dict[str, Any]] = [
        {
            **vars(run.info),
            "experiment": run.experiment,
            "run": run.run,
            "members": run.members,
            "created": run.created,
            **{name: text_of(getattr(run.info, name)) for name in ("recipe", "versions", "extra")},
        }
        for run in runs
    ]
    try:
        for row in rows:
            row["created"] = datetime.fromisoformat(row["created"])
        return table_of_rows(rows, RUNS)
    except (TypeError, ValueError, OverflowError, pa.ArrowException) as error:
        raise CorruptLake(
            f"the manifest of a run holds a value of the wrong kind: {error}; run 'losslake lake verify'"
        ) from error


def metrics_table(found: Iterable[Result]) -> pa.Table:
    """The ``metrics`` view: one row a (result, metric)."""
    rows = [
        {
            "experiment": result.experiment,
            "analysis": result.analysis,
            "target": result.target,
            "variant": result.variant,
            "metric": metric["metric"],
            "parameters": _json_text(
                {k: v for k, v in metric.items() if k not in ("metric", "value", "ci_low", "ci_high", "n")}
            ),
            **{name: _number(metric.get(name)) for name in ("value", "ci_low", "ci_high")},
            "n": None if metric.get("n") is None else int(metric["n"]),
        }
        for result in found
        for metric in result.metrics
    ]
    return table_of_rows(rows, METRICS)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _json_text(value: Any) -> str:
    """JSON that every reader takes: numbers that are not finite become null."""
    text = json.dumps(value)
    if "NaN" in text or "Infinity" in text:
        text = json.dumps(json.loads(text, parse_constant=lambda _: None))
    return text
