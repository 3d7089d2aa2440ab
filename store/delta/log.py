"""The log of one Delta table: reading its state, adding a version, and keeping nothing of versions before.

A log is a folder of small files (https://github.com/delta-io/delta/blob/master/PROTOCOL.md): ``N.json`` says what version N adds and
removes, ``N.checkpoint.parquet`` all that is there at N, ``_last_checkpoint`` where the newest of these is. A version is there when
its file is, which is put in one step unless one of that number is there: of two who publish at once one wins.

A version that can be read names files that are there. So one that removes something gets a checkpoint at once, and what is older
is deleted: also what it said of rows that were forgotten since. The log may be cut at any instant; a version is never put twice.
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...version import __version__
from ..errors import CorruptLake
from ..files.filesystem import Files
from ..format import paths

Action = dict[str, Any]

FEATURE = "losslake"
"""A feature that whoever writes must know, and nobody does: other engines read the tables and refuse to change them."""

PROTOCOL: Action = {"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": [FEATURE]}

COPY = "-copy.parquet"
"""How the names of files end that were written for a table; all others are links."""

LONGEST = 16
"""Versions after a checkpoint until there is the next one."""

_TRIES = 5
_WAIT = 0.05

_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet")
_HINT = "_last_checkpoint"


@dataclass(frozen=True)
class State:
    """What a table is at ``version`` (-1: there is none): the files that it names, by path, and its description.

    ``damaged``: what lies there cannot be read as a log. ``untidy``: there are older versions that have to go.
    """

    version: int = -1
    adds: Mapping[str, Action] = field(default_factory=dict)
    about: Action | None = None
    protocol: Action | None = None
    damaged: bool = False
    untidy: bool = False


def read_state(files: Files, table: str) -> State:
    """The newest version of a table's log."""
    for attempt in range(_TRIES):
        commits, checkpoints = _versions(files, table)
        try:
            return _replayed(files, table, commits, checkpoints)
        except (CorruptLake, pa.ArrowException, ValueError, KeyError, TypeError, AttributeError):
            # Another process may have cut it in this moment.
            if attempt:
                time.sleep(_WAIT)
    commits, checkpoints = _versions(files, table)
    return State(max([-1, *commits, *checkpoints]), damaged=True, untidy=True)


def put_version(
    files: Files, table: str, state: State, about: Action, adds: Iterable[Action], removed: Iterable[str]
) -> State | None:
    """Add a version after ``state``; the table as it is then, None where another process was faster."""
    now = int(time.time() * 1000)
    new = list(adds)
    gone = [state.adds[path] for path in removed]
    actions: list[Action] = [
        {"commitInfo": {"timestamp": now, "operation": "PUBLISH", "engineInfo": f"losslake/{__version__}"}}
    ]
    if state.protocol != PROTOCOL:
        actions.append({"protocol": PROTOCOL})
    if state.about != about:
        actions.append({"metaData": about})
    actions += [{"remove": _removal(add, now)} for add in gone]
    actions += [{"add": add} for add in new]
    version = state.version + 1
    path = f"{paths.delta_log(table)}/{version:020d}.json"
    if not files.put_if_absent(path, "".join(f"{json.dumps(action)}\n" for action in actions).encode()):
        return None
    # Others may have gone on and deleted what was at this number before it was put here, or removed the table.
    commits, checkpoints = _versions(files, table)
    if max(checkpoints, default=-1) > version or state.version not in (-1, *commits, *checkpoints):
        files.delete(path)
        return None
    left = {path: add for path, add in state.adds.items() if add not in gone}
    return replace(
        state,
        version=version,
        adds=left | {add["path"]: add for add in new},
        about=about,
        protocol=PROTOCOL,
        untidy=state.untidy or state.damaged or bool(gone),
    )


def tidy(files: Files, table: str, state: State) -> None:
    """Write a checkpoint of ``state`` where one is due, and delete what is older than the newest one."""
    commits, checkpoints = _versions(files, table)
    newest = max(checkpoints, default=-1)
    if state.version > newest and (state.untidy or state.version - newest > LONGEST):
        files.put(_checkpoint_path(table, state.version), _checkpoint(state))
    while True:
        commits, checkpoints = _versions(files, table)
        newest = max(checkpoints, default=-1)
        if newest < 0:
            return
        if _hinted(files, table) != newest:
            size = files.size(_checkpoint_path(table, newest))
            hint = {"version": newest, "size": len(state.adds) + 2, "sizeInBytes": size}
            files.put(f"{paths.delta_log(table)}/{_HINT}", json.dumps(hint).encode())
        if max(_versions(files, table)[1], default=newest) == newest:
            break  # else another process has gone on, and may have pointed there before
    for version in sorted(each for each in commits if each < newest):
        files.delete(f"{paths.delta_log(table)}/{version:020d}.json")
    for version in sorted(each for each in checkpoints if each < newest):
        files.delete(_checkpoint_path(table, version))


def named_copies(files: Files) -> set[str]:
    """The files written for tables that a table names, or may: its log cannot be read."""
    found = set()
    states: dict[str, State] = {}
    for path in files.list(paths.DELTA, COPY):
        table, name = path.split("/", 2)[1:]
        state = states[table] = states.get(table) or read_state(files, table)
        if state.damaged or name in state.adds:
            found.add(path)
    return found


def _versions(files: Files, table: str) -> tuple[list[int], list[int]]:
    """The numbers of the versions that have a file of their own, and of those with a checkpoint."""
    names = [path.rpartition("/")[2] for path in files.list(paths.delta_log(table))]
    found = (
        [match for name in names if (match := pattern.fullmatch(name))] for pattern in (_COMMIT, _CHECKPOINT)
    )
    commits, checkpoints = ([int(match[1]) for match in matches] for matches in found)
    return commits, checkpoints


def _replayed(files: Files, table: str, commits: list[int], checkpoints: list[int]) -> State:
    """Raises CorruptLake and what readers of JSON and Parquet do for what is no log."""
    if not commits and not checkpoints:
        return State()
    first = max(checkpoints, default=-1)
    version = max([first, *commits])
    if missing := set(range(first + 1, version + 1)).difference(commits):
        raise CorruptLake(f"the log of {table} has no version {min(missing)}")
    actions = _read_checkpoint(files, table, first) if first >= 0 else []
    since: list[Action] = []
    for number in range(first + 1, version + 1):
        text = files.read(f"{paths.delta_log(table)}/{number:020d}.json").decode()
        since += [json.loads(line) for line in text.splitlines() if line]
    adds: dict[str, Action] = {}
    about = protocol = None
    for action in (*actions, *since):
        if "add" in action:
            adds[action["add"]["path"]] = action["add"]
        if "remove" in action:
            adds.pop(action["remove"]["path"], None)
        about = action.get("metaData", about)
        protocol = action.get("protocol", protocol)
    if about is None or protocol is None:
        raise CorruptLake(f"the log of {table} does not describe it")
    untidy = (
        any("remove" in action for action in since)
        or any(each < first for each in (*commits, *checkpoints))
        or (first >= 0 and _hinted(files, table) != first)
    )
    return State(version, adds, about, protocol, untidy=untidy)


def _removal(add: Action, now: int) -> Action:
    return {
        "path": add["path"],
        "deletionTimestamp": now,
        "dataChange": True,
        "extendedFileMetadata": True,
        "partitionValues": add["partitionValues"],
        "size": add["size"],
    }


def _hinted(files: Files, table: str) -> int | None:
    """The checkpoint that readers are pointed to."""
    path = f"{paths.delta_log(table)}/{_HINT}"
    try:
        version = json.loads(files.read(path))["version"] if files.exists(path) else None
    except (CorruptLake, ValueError, KeyError, TypeError):
        return None
    return version if type(version) is int else None


# --- checkpoints ----------------------------------------------------------------------------------------------

_TEXTS = pa.map_(pa.string(), pa.string())

_ADD = pa.struct(
    [
        ("path", pa.string()),
        ("partitionValues", _TEXTS),
        ("size", pa.int64()),
        ("modificationTime", pa.int64()),
        ("dataChange", pa.bool_()),
        ("stats", pa.string()),
        ("tags", _TEXTS),
    ]
)
_REMOVE = pa.struct([("path", pa.string()), ("deletionTimestamp", pa.int64()), ("dataChange", pa.bool_())])
_ABOUT = pa.struct(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        ("description", pa.string()),
        ("format", pa.struct([("provider", pa.string()), ("options", _TEXTS)])),
        ("schemaString", pa.string()),
        ("partitionColumns", pa.list_(pa.string())),
        ("createdTime", pa.int64()),
        ("configuration", _TEXTS),
    ]
)
_PROTOCOL = pa.struct(
    [
        ("minReaderVersion", pa.int32()),
        ("minWriterVersion", pa.int32()),
        ("readerFeatures", pa.list_(pa.string())),
        ("writerFeatures", pa.list_(pa.string())),
    ]
)
_SCHEMA = pa.schema([("add", _ADD), ("remove", _REMOVE), ("metaData", _ABOUT), ("protocol", _PROTOCOL)])
_MAPS = ("partitionValues", "tags", "configuration")


def _checkpoint_path(table: str, version: int) -> str:
    return f"{paths.delta_log(table)}/{version:020d}.checkpoint.parquet"


def _checkpoint(state: State) -> bytes:
    """A checkpoint's bytes: one row an action, which stands in the column of its kind."""
    rows = [("protocol", state.protocol), ("metaData", state.about)]
    rows += [("add", add) for add in state.adds.values()]
    columns = [
        pa.array([action if name == kind else None for name, action in rows], type=_SCHEMA.field(kind).type)
        for kind in _SCHEMA.names
    ]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA), sink, compression="zstd")
    return sink.getvalue()


def _read_checkpoint(files: Files, table: str, version: int) -> list[Action]:
    with files.open_input(_checkpoint_path(table, version)) as source:
        rows = pq.ParquetFile(source).read().to_pylist()
    return [{kind: _plain(action)} for row in rows for kind, action in row.items() if action is not None]


def _plain(action: Action) -> Action:
    """An action as a commit has it: without what it does not say, and with objects for maps."""
    found = {
        name: dict(value) if name in _MAPS else value for name, value in action.items() if value is not None
    }
    if "format" in found:
        found["format"] = {**found["format"], "options": dict(found["format"]["options"] or [])}
    return found
