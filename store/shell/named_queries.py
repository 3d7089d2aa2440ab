"""The queries in sql/, by name: what they take, and what must be there for them beside the lake's views."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from ... import sql
from ...sql import read_sql
from ..errors import InvalidOption, QueryRefused
from ..format.tables import empty_table
from ..query.engine_errors import engine_errors

if TYPE_CHECKING:
    from ..spark.connection import SparkConnection

    AnyConnection = duckdb.DuckDBPyConnection | SparkConnection

_NO_QUERIES = {"views", "views_spark", "macros_duckdb", "macros_spark"}

_UNUSED = {
    "phi_medians": (
        {"center": "mean"},
        pa.schema(
            [
                ("sample_id", pa.int32()),
                ("query", pa.int16()),
                ("median_in", pa.float64()),
                ("median_out", pa.float64()),
            ]
        ),
    )
}
"""Relations that a query names and does not read where its parameters are these: an empty one will do."""


@dataclass(frozen=True)
class Parameter:
    """A $parameter as the header of its query has it: ``[takes; default default]`` behind its name.

    ``takes`` are texts in quotes, true, false and numbers as they stand, or one of the words run, text, share (0 to 1),
    percentage (above 0, to 100) and whole number. ``default`` is such a value or a SELECT over the lake's views and the parameters before it; None: the
    parameter must be given.
    """

    name: str
    takes: tuple[str, ...]
    default: str | None


@dataclass(frozen=True)
class NamedQuery:
    """A text of sql/. ``reads`` are relations that its analysis computes before, ``purpose`` its first sentence."""

    name: str
    text: str
    purpose: str
    takes: tuple[Parameter, ...]
    reads: tuple[str, ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of what it takes."""
        return tuple(parameter.name for parameter in self.takes)

    @property
    def usage(self) -> str:
        """What to write behind its name; in brackets what has a default."""
        shown = (f"{each.name}=..." if each.default is None else f"[{each.name}=...]" for each in self.takes)
        return " ".join(shown)


def query_names() -> list[str]:
    """The names of all of them, sorted."""
    names = (entry.name for entry in files(sql).iterdir())
    return sorted({name[:-4] for name in names if name.endswith(".sql")} - _NO_QUERIES)


def find_query(name: str) -> NamedQuery:
    """The query of that name. Raises InvalidOption with the names there are."""
    known = query_names()
    if name not in known:
        raise InvalidOption(f"there is no query {name!r} (queries: {', '.join(known)})")
    text = read_sql(name)
    lines = text.splitlines()
    head = "\n".join(line for line in lines if line.startswith("--"))
    section = re.search(r"^-- Reads:(.*?)^-- Grain:", head, flags=re.MULTILINE | re.DOTALL)
    reads = re.findall(r"^(?:-- )? +(\w+) +\(", section[1], flags=re.MULTILINE) if section else []
    words = re.sub(r"\n-- ", " ", head.removeprefix("-- ").partition("\n-- Parameters:")[0])
    purpose = re.split(r"\. (?=[A-Z])", words)[0].rstrip(".")
    return NamedQuery(name, text, purpose, _parameters(head), tuple(reads))


def _parameters(head: str) -> tuple[Parameter, ...]:
    told = re.sub(r"\s*\n--\s*", " ", head.partition("-- Parameters:")[2])
    found = []
    for names, takes, default in re.findall(
        r"((?:\$\w+,\s*)*\$\w+)\s+\[([^];]*)(?:; default ([^]]*))?\]", told
    ):
        for name in re.findall(r"\w+", names):
            found.append(Parameter(name, tuple(re.split(r",\s*", takes)), default or None))
    return tuple(found)


def parse_parameters(given: Sequence[str]) -> dict[str, Any]:
    """Parameters written ``name=value``. A number, true, false, null or "quoted text" is what JSON says, the rest text."""
    parsed: dict[str, Any] = {}
    for part in given:
        name, sign, value = part.partition("=")
        if not sign or not re.fullmatch(r"\w+", name):
            raise InvalidOption(f"{part!r} is no parameter; write name=value")
        if name in parsed:
            raise InvalidOption(f"the parameter {name} is given twice")
        parsed[name] = _value(value)
    return parsed


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, list | dict) or (isinstance(value, float) and not math.isfinite(value)):
        return text
    return value


@contextlib.contextmanager
def ready(connection: AnyConnection, query: NamedQuery, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """While the block lasts the connection can run the query, with the parameters that this gives.

    Those that are not given are the analysis's defaults. Raises InvalidOption where parameters are missing, too many or none
    of what the query takes, and where the connection shows several experiments, whose samples would mix; QueryRefused
    where the query reads what only an analysis provides.
    """
    missing = [each.name for each in query.takes if each.default is None and each.name not in given]
    unknown = [name for name in given if name not in query.parameters]
    if missing or unknown:
        wrong = f"needs {', '.join(missing)}" if missing else f"takes no {', '.join(unknown)}"
        raise InvalidOption(f"the query {query.name} {wrong}; give: {query.usage}")
    shown = [name for (name,) in _rows(connection, "select distinct experiment from samples order by 1", {})]
    if len(shown) > 1:
        raise InvalidOption(
            f"the query {query.name} is of one experiment, and this lake has {', '.join(shown[:8])}; choose one with "
            "--experiment NAME"
        )
    parameters: dict[str, Any] = {}
    for each in query.takes:
        parameters[each.name] = (
            _checked(connection, query, each, given[each.name])
            if each.name in given
            else _default(connection, each, parameters)
        )
    with contextlib.ExitStack() as stack:
        for name in query.reads:
            unless, schema = _UNUSED.get(name, ({}, None))
            if schema is None or any(parameters.get(key) != value for key, value in unless.items()):
                but = "".join(f" (unless {key}={value})" for key, value in unless.items())
                raise QueryRefused(
                    f"the query {query.name} reads the relation {name!r}{but}, which only its analysis computes: run it with "
                    f"'losslake analyze', or give the relation in a WITH of your own ('.queries {query.name}' shows the text)"
                )
            connection.register(name, empty_table(schema))
            stack.callback(connection.unregister, name)
        yield parameters


_IN_WORDS = {
    "share": "a number from 0 to 1",
    "percentage": "a number above 0, up to 100",
    "whole number": "a whole number from 0",
}


def _checked(connection: AnyConnection, query: NamedQuery, parameter: Parameter, value: Any) -> Any:
    """The value given for a parameter. Raises InvalidOption for one that the header does not allow."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    runs: list[str] = []
    for kind in parameter.takes:
        match kind:
            case "text" if isinstance(value, str):
                return value
            case "share" if number and 0 <= value <= 1:
                return value
            case "percentage" if number and 0 < value <= 100:
                return value
            case "whole number" if number and 0 <= value < 2**31 and value == int(value):
                return int(value)
            case "run":
                runs = [name for (name,) in _rows(connection, "select distinct run from runs order by 1", {})]
                called = str(value) if number else value  # a run may be called 0
                if called in runs:
                    return called
            case "text" | "share" | "percentage" | "whole number":
                pass
            case _:
                allowed = _literal(kind)
                if type(allowed) is type(value) and allowed == value:
                    return value
    takes = [kind if kind != "run" else f"a run ({', '.join(runs[:8])})" for kind in parameter.takes]
    takes = [_IN_WORDS.get(kind, kind) for kind in takes]
    more = "" if parameter.default is None else "; left out, it is as in the analysis"
    raise InvalidOption(
        f"the query {query.name} takes no {parameter.name}={value}; it is {' or '.join(takes)}{more}"
    )


def _default(connection: AnyConnection, parameter: Parameter, before: Mapping[str, Any]) -> Any:
    text = parameter.default
    assert text is not None
    if not text.startswith("select "):
        return _literal(text)
    used = {name: before[name] for name in re.findall(r"\$(\w+)", text)}
    ((value,),) = _rows(connection, text, used)
    return value


def _literal(text: str) -> Any:
    """A value as headers have it: 'text', true, false or a number."""
    return text[1:-1] if text.startswith("'") else json.loads(text)


def _rows(connection: AnyConnection, text: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    if isinstance(connection, duckdb.DuckDBPyConnection):
        with engine_errors(connection):
            return connection.execute(text, dict(parameters)).fetchall()
    return [tuple(row.values()) for row in connection.query(text, parameters).to_pylist()]
