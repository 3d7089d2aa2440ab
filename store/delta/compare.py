"""Whether the Delta tables of a lake say what its manifests do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import CorruptLake, LosslakeError
from ..files.local import LocalFiles
from ..format import paths
from ..format.text import counted
from ..read.catalogue import Catalogue
from .log import PROTOCOL, State, read_state
from .publish import keeps_published, lies_there, named, planned
from .tables import TABLES, listed

_LASTING = ("samples", "signals", "traces")
"""Tables whose rows are replaced by compact, forget and remove alone, which publish; the others a commit changes as well."""

_AGAIN = "run 'losslake lake publish'"


@dataclass(frozen=True)
class Compared:
    """Sentences about tables that name what they should not, ``wrong``, and about those that lack something, ``behind``."""

    wrong: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()


def compare(lake: Catalogue) -> Compared:
    """What the tables of a published lake say and should not, or lack; nothing of a lake that is not published.

    What a process publishes in this moment is not told.
    """
    found = _compared(lake)
    if not (found.wrong or found.behind):
        return found
    again = _compared(lake)
    return Compared(
        tuple(each for each in found.wrong if each in again.wrong),
        tuple(each for each in found.behind if each in again.behind),
    )


def _compared(lake: Catalogue) -> Compared:
    files = lake.files
    if not isinstance(files, LocalFiles):
        return Compared()
    try:
        if keeps_published(lake) is None:
            return Compared()
    except CorruptLake as error:
        return Compared((f"{error}; {_AGAIN}",))
    states = {table: read_state(files, table) for table in TABLES}
    try:
        there = listed(lake, lake.experiments())
    except LosslakeError:  # damaged, which is told elsewhere
        return Compared()
    wrong: list[str] = []
    behind: list[str] = []
    for table, state in states.items():
        where = paths.delta_table(table)
        if state.damaged:
            wrong.append(f"{where} has a log that cannot be read; {_AGAIN}")
            continue
        wrong += _gone(files, table, state)
        try:
            _, wanted, about = planned(lake, table, state, there, None)
        except LosslakeError:
            continue
        names, ofs = named(state), {entry.of for entry in wanted}
        unwanted = sorted(add["path"] for of, add in names.items() if of not in ofs)
        if unwanted and table in _LASTING:
            wrong.append(
                f"{where} names {counted(len(unwanted), 'file')} of rows that are not committed any more, {unwanted[0]}; {_AGAIN}"
            )
        if state.untidy:
            wrong.append(f"{where} has older versions that were to be removed; {_AGAIN}")
        if lacking := len(ofs - names.keys()):
            behind.append(f"{where} lacks {counted(lacking, 'file')} of committed rows; {_AGAIN}")
        elif unwanted and table not in _LASTING:
            behind.append(
                f"{where} names {counted(len(unwanted), 'file')} of rows that were replaced since; {_AGAIN}"
            )
        elif state.about is None or state.protocol != PROTOCOL or state.about != about:
            behind.append(f"{where} is not described as it is; {_AGAIN}")
    return Compared(tuple(wrong), tuple(behind))


def _gone(files: LocalFiles, table: str, state: State) -> Iterator[str]:
    for of, add in named(state).items():
        if not lies_there(files, table, of, add):
            yield f"{paths.delta_table(table)} names {add['path']}, which is not there, or another file; {_AGAIN}"
