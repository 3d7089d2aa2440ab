"""Publishing: Delta Lake tables over the lake's own files, for Polars, deltalake, DuckDB and whatever else reads such tables.

A table lies in ``delta/TABLE`` and names files below its own folder alone: readers disagree about paths that lead out of it (Polars and
deltalake's Arrow reader open neither ``../..`` nor file://). So each file of the lake that a table names has a second name there, a
symbolic link. No row is copied by that, a copied or moved lake keeps it, and a file that is removed, with a forgotten sample, is gone
under both names; an engine that cleans up (VACUUM) comes near no file of the lake.

Whoever publishes reads a table's version first, then the manifests, and adds the next version unless another process has added one since;
then it begins anew. Whoever changes manifests publishes afterwards. So the last version is of manifests as they are, or its
publisher was stopped: the next command that publishes mends that, and 'lake verify' tells it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import time
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow.parquet as pq

from ..errors import CorruptLake, InvalidOption, LosslakeError, NotFound, in_one_line
from ..files.filesystem import Files
from ..files.local import LocalFiles
from ..format import manifest, paths
from ..format.manifest import DataFile
from ..read.catalogue import Catalogue
from ..write import leases
from ..write.table_file import write_parts
from .columns import Column, Type, schema_of, statistics
from .links import link, linked
from .log import COPY, PROTOCOL, Action, State, put_version, read_state, tidy
from .tables import (
    COLUMNS,
    FOLDERS,
    OF,
    TABLES,
    Entry,
    Listed,
    columns_from,
    columns_to_text,
    entries,
    listed,
)

_TRIES = 30
"""How often others may be faster before it is given up."""

_MISSED = 5
"""How often they may replace what is being published."""


@dataclass(frozen=True)
class Published:
    """A table as it is published: its ``version``, how many ``files`` it names, of which ``copies`` are not the lake's, and rows."""

    table: str
    version: int
    files: int
    copies: int
    rows: int


def publish(lake: Catalogue, *, keep: bool | None = None) -> list[Published]:
    """Bring the Delta tables of a lake up to what is committed, and make them where there are none; doing it again changes nothing.

    ``keep``: from now on every commit does so, or none; None leaves that as it is, which is none in the beginning. Raises InvalidOption
    for a lake in an object store, OlderFormat for one that has to be migrated, CorruptLake where a file that a manifest
    lists cannot be read, LosslakeError where others remove the tables meanwhile.
    """
    files = _local(lake.files)
    leases.hold(files)
    try:
        before = _keeps(files)
    except CorruptLake:
        before = None
    wanted = bool(before) if keep is None else keep
    if before is None or wanted != before:
        files.put(paths.PUBLISHED, manifest.dump({"kind": "published", "keep": wanted}))
    done = _publish(lake, files, None)
    if not done:
        raise LosslakeError(
            f"another process removes the Delta tables of the lake {lake.path}; 'losslake lake publish' when it has ended"
        )
    return done


def unpublish(lake: Catalogue) -> int:
    """Remove the Delta tables of a lake; the number of files that went. None of the lake's own is touched."""
    files = _local(lake.files)
    leases.hold(files)
    files.delete(
        paths.PUBLISHED
    )  # first: from now on nobody brings them up to date, and who does takes back what it adds
    found = files.list(paths.DELTA)
    _remove_tables(files, found)
    return len(found)


def keeps_published(lake: Catalogue) -> bool | None:
    """Whether every commit brings the tables up to date; None where the lake is not published."""
    return _keeps(lake.files)


def follow(lake: Catalogue, experiment: str | None, *, rewritten: bool) -> None:
    """Bring the tables of a published lake up to date after something of an experiment, or of any, was committed.

    ``rewritten``: files were replaced or removed. Then it is done in any case, and what prevents it is raised; after a commit
    only where the lake is set so, and what prevents it costs the tables and not what is committed.
    """
    if not isinstance(lake.files, LocalFiles):
        return
    scope = None if experiment is None else [experiment]
    if rewritten:
        if _keeps(lake.files) is not None:
            _publish(lake, lake.files, scope)
        else:
            _remove_unpublished(lake.files)
        return
    with contextlib.suppress(LosslakeError):
        if _keeps(lake.files):
            _publish(lake, lake.files, scope)


# --- publishing -----------------------------------------------------------------------------------------------


def _publish(lake: Catalogue, files: LocalFiles, experiments: Sequence[str] | None) -> list[Published]:
    """The tables as they are then; none where another process removes them meanwhile: what was added has gone again."""
    leases.hold(files)
    missed = 0
    for attempt in itertools.count():
        if not files.exists(paths.PUBLISHED):
            _remove_unpublished(files)
            return []
        # Before the manifests: what another process publishes from now on is newer than this, and this is not put then.
        states = {table: read_state(files, table) for table in TABLES}
        whole = experiments is None or any(state.damaged or state.about is None for state in states.values())
        scope = None if whole else experiments
        done: list[Published] = []
        try:
            there = listed(lake, lake.experiments() if scope is None else scope)
            for table in TABLES:
                state = _bring_up(lake, files, table, states[table], there, scope)
                if state is None:
                    break
                done.append(_summary(table, state))
            else:
                if files.exists(paths.PUBLISHED):
                    return done
        except (CorruptLake, NotFound):
            # Others have replaced or removed it since its manifest was read. Where that is not so it is damaged.
            missed += 1
            if missed > _MISSED:
                raise
        if attempt >= _TRIES:
            raise LosslakeError(
                f"other processes publish the lake {lake.path} all the time; 'losslake lake publish' when they have ended"
            )
        time.sleep(random.uniform(0.0, min(0.01 * (attempt + 1), 0.2)))
    raise AssertionError("the last attempt returns or raises")


def _remove_unpublished(files: Files) -> None:
    """Remove what is left of tables of a lake that is not published: of a process that was stopped, or published while others removed them."""
    found = files.list(paths.DELTA)
    # In this order: what others have made since they published the lake anew is not among it.
    if not files.exists(paths.PUBLISHED):
        _remove_tables(files, found)


def _remove_tables(files: Files, found: Iterable[str]) -> None:
    for path in sorted(found, key=lambda path: "/_delta_log/" not in path):
        files.delete(path)


def _bring_up(
    lake: Catalogue,
    files: LocalFiles,
    table: str,
    state: State,
    there: Listed,
    experiments: Sequence[str] | None,
) -> State | None:
    """Let a table name what is ``there``, all there is or of some experiments; None where another process was faster."""
    columns, wanted, about = planned(lake, table, state, there, experiments)
    if experiments is not None and _changed_types(state, columns):
        # A column of this experiment has another type than in the files of others.
        everything = listed(lake, lake.experiments())
        return _bring_up(lake, files, table, state, everything, None)
    there_already = {
        of: add
        for of, add in named(state).items()
        if experiments is not None or lies_there(files, table, of, add)
    }
    concerned = [add for add in state.adds.values() if _is_of(add, experiments)]
    kept = {entry.of for entry in wanted if entry.of in there_already}
    removed = [add for add in concerned if there_already.get(_of(add)) is not add or _of(add) not in kept]
    new = [_make(files, table, entry) for entry in wanted if entry.of not in kept]
    if new or removed or about != state.about or state.protocol != PROTOCOL:
        for folder in {add["path"].partition("/")[0] for add in new}:
            files.settle(f"{paths.delta_table(table)}/{folder}")
        gone = {add["path"] for add in removed} - {add["path"] for add in new}
        after = put_version(files, table, state, about, new, gone)
        if after is None:
            _delete_copies(files, table, new)
            return None
        state = after
    tidy(files, table, state)
    if removed or experiments is None:
        _delete_copies(files, table, [add for add in removed if add["path"] not in state.adds])
        _sweep(files, table, state)
    return replace(state, untidy=False)


def planned(
    lake: Catalogue, table: str, state: State, there: Listed, experiments: Sequence[str] | None
) -> tuple[dict[str, Type], list[Entry], Action]:
    """The columns of a table, what it has to name, and how its log describes it."""
    known = {of: add.get("tags") or {} for of, add in named(state).items()}
    others: list[Column] = []
    if experiments is not None:
        for add in state.adds.values():
            if not _is_of(add, experiments) and COLUMNS in (add.get("tags") or {}):
                others += columns_from(add["tags"][COLUMNS])
    columns, wanted = entries(lake, table, there, known, others)
    about = {
        "name": table,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps(schema_of(columns)),
        "partitionColumns": list(FOLDERS[table]),
        "configuration": {},
    }
    before = state.about or {"id": str(uuid.uuid4()), "createdTime": int(time.time() * 1000)}
    return columns, wanted, {**before, **about}


def _make(files: LocalFiles, table: str, entry: Entry) -> Action:
    """Give an entry a name below the table's folder; the action that adds it."""
    folder = "/".join(f"{name}={value}" for name, value in entry.folders.items())
    tags = {OF: entry.of} | ({COLUMNS: columns_to_text(entry.columns)} if entry.columns else {})
    if entry.source is not None:
        name = f"{folder}/{entry.source.path.rpartition('/')[2]}"
        link(files, f"{paths.delta_table(table)}/{name}", entry.source.path)
        size = (entry.source.shared or entry.source).bytes
    else:
        name = f"{folder}/{leases.token(files)}{COPY}"
        written = _write_copy(files, table, f"{paths.delta_table(table)}/{name}", entry)
        size = written.bytes
    path = f"{paths.delta_table(table)}/{name}"
    try:
        with files.open_input(path) as source:
            footer = pq.read_metadata(source)
    except (OSError, ValueError) as error:
        raise CorruptLake(
            f"{path} in {files.root} cannot be read: {in_one_line(error)}; run 'losslake lake verify'"
        ) from error
    return {
        "path": name,
        "partitionValues": dict(entry.folders),
        "size": size,
        "modificationTime": int(files.modified(path) * 1000),
        "dataChange": True,
        "stats": json.dumps(statistics(footer)),
        "tags": tags,
    }


def _write_copy(files: Files, table: str, path: str, entry: Entry) -> DataFile:
    parts = iter(()) if entry.rows is None else entry.rows()
    first = next(parts)
    return write_parts(files, table, path, first.schema, itertools.chain([first], parts))


def _delete_copies(files: Files, table: str, adds: Iterable[Action]) -> None:
    for add in adds:
        if add["path"].endswith(COPY):
            files.delete(f"{paths.delta_table(table)}/{add['path']}")


def _sweep(files: LocalFiles, table: str, state: State) -> None:
    """Delete what a table does not name and what leads nowhere any more, or was a link before somebody copied the lake."""
    folder = paths.delta_table(table)
    for path in files.list(folder):
        name = path[len(folder) + 1 :]
        if name.startswith("_") or name.endswith(COPY) or name in state.adds:
            continue
        if not files.exists(path) or linked(files, path) is None:
            files.delete(path)


# --- what there is --------------------------------------------------------------------------------------------


def named(state: State) -> dict[str, Action]:
    """The files that a table names, by what they are of."""
    return {_of(add): add for add in state.adds.values()}


def _of(add: Action) -> str:
    return str((add.get("tags") or {}).get(OF) or f"nothing {add['path']}")


def _is_of(add: Action, experiments: Collection[str] | None) -> bool:
    return experiments is None or add["partitionValues"].get("experiment") in experiments


def lies_there(files: LocalFiles, table: str, of: str, add: Action) -> bool:
    """Whether a file that a table names is there: a link that leads to what it is of, or a copy with as many bytes."""
    path = f"{paths.delta_table(table)}/{add['path']}"
    try:
        if not add["path"].endswith(COPY) and linked(files, path) != of:
            return False
        return files.size(path) == add["size"]
    except LosslakeError:
        return False


def _changed_types(state: State, columns: Mapping[str, Type]) -> bool:
    """Whether a column that a table has is to have another type."""
    before = json.loads(state.about["schemaString"])["fields"] if state.about else []
    return any(field["name"] in columns and columns[field["name"]] != field["type"] for field in before)


def _summary(table: str, state: State) -> Published:
    adds = state.adds.values()
    return Published(
        table,
        state.version,
        len(adds),
        sum(add["path"].endswith(COPY) for add in adds),
        sum(json.loads(add["stats"])["numRecords"] for add in adds),
    )


def _keeps(files: Files) -> bool | None:
    if not files.exists(paths.PUBLISHED):
        return None
    return bool(manifest.load(files, paths.PUBLISHED)["keep"])


def _local(files: Files) -> LocalFiles:
    if not isinstance(files, LocalFiles):
        raise InvalidOption(
            f"{files.root} is an object store, and losslake publishes no Delta tables there: a table may name files below its own folder "
            "alone where all its readers are to find them, a store has no links, and no row is copied; 'losslake lake export' "
            "writes a database of it"
        )
    return files
