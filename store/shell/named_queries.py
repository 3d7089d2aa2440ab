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

if TYPE_CHECKING:
    from ..spark.connection import SparkConnection

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
class NamedQuery:
    """A text of sql/. ``reads`` are relations that its analysis computes before, ``purpose`` its first sentence."""

    name: str
    text: str
    purpose: str
    parameters: tuple[str, ...]
    reads: tuple[str, ...]


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
    statement = "\n".join(re.sub(r"--.*", "", line) for line in lines)
    used = set(re.findall(r"\$(\w+)", statement))
    told = [word for word in dict.fromkeys(re.findall(r"\$(\w+)", head)) if word in used]
    section = re.search(r"^-- Reads:(.*?)^-- Grain:", head, flags=re.MULTILINE | re.DOTALL)
    reads = re.findall(r"^(?:-- )? +(\w+) +\(", section[1], flags=re.MULTILINE) if section else []
    words = re.sub(r"\n-- ", " ", head.removeprefix("-- ").partition("\n-- Parameters:")[0])
    purpose = re.split(r"\. (?=[A-Z])", words)[0].rstrip(".")
    return NamedQuery(name, text, purpose, (*told, *sorted(used - set(told))), tuple(reads))


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
def ready(
    connection: duckdb.DuckDBPyConnection | SparkConnection, query: NamedQuery, parameters: Mapping[str, Any]
) -> Iterator[None]:
    """While the block lasts the connection can run the query.

    Raises InvalidOption where parameters are missing or too many, QueryRefused where it reads what only an analysis
    provides.
    """
    missing = [name for name in query.parameters if name not in parameters]
    unknown = [name for name in parameters if name not in query.parameters]
    if missing or unknown:
        wrong = f"needs {', '.join(missing)}" if missing else f"takes no {', '.join(unknown)}"
        usage = " ".join(f"{name}=..." for name in query.parameters)
        raise InvalidOption(f"the query {query.name} {wrong}; give: {usage}")
    with contextlib.ExitStack() as stack:
        for name in query.reads:
            unless, schema = _UNUSED.get(name, ({}, None))
            if schema is None or any(parameters.get(key) != value for key, value in unless.items()):
                but = "".join(f" (unless {key}={value})" for key, value in unless.items())
                raise QueryRefused(
                    f"the query {query.name} reads the relation {name!r}{but}, which only its analysis computes: run it with "
                    f"'losslake analyze', or give the relation in a WITH of your own ('.queries {query.name}' shows the text)"
                )
            connection.register(name, schema.empty_table())
            stack.callback(connection.unregister, name)
        yield
