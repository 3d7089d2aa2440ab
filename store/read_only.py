"""What an ad-hoc statement may do: read the lake's views and compute. Everything else is refused before it runs.

DuckDB's own lock (see `views.connect`) keeps files and settings out of reach; but a file that a query may read
it may also overwrite, and a CTE may hold INSERT, DELETE or COPY. So the parsed statement is looked at as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb

from .engine_errors import first_lines
from .errors import QueryRefused

_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
"""Parts of a statement that only read; every other kind of ..._NODE changes something."""

_TABLE_FUNCTIONS = {
    "unnest",
    "range",
    "generate_series",
    "repeat",
    "json_each",
    "json_tree",
    "pragma_table_info",
    "duckdb_columns",
    "duckdb_functions",
    "duckdb_keywords",
    "duckdb_types",
    "duckdb_views",
}
"""What may stand in FROM beside tables: nothing here opens a file, runs a text as SQL or has an effect."""

_EXPLAIN = re.compile(r"\s*explain(\s+analyze)?(\s*\([\w\s,]*\))?\s+(?=\w)", flags=re.IGNORECASE)


def one_query(connection: duckdb.DuckDBPyConnection, text: str) -> duckdb.Statement:
    """The one statement of ``text``, if it only reads. Raises QueryRefused with the reason otherwise."""
    statements = _parsed(connection, text)
    if len(statements) != 1:
        raise QueryRefused(f"one statement at a time, not {len(statements)}")
    statement = statements[0]
    kind = statement.type
    if kind == duckdb.StatementType.SELECT:
        _check_tree(connection, statement.query)
        return statement
    if kind == duckdb.StatementType.EXPLAIN:
        # What follows begins with a word and not with a comment or a parenthesis, so it is what will be explained.
        head = _EXPLAIN.match(statement.query)
        inside = _parsed(connection, statement.query[head.end() :]) if head else []
        if len(inside) == 1 and inside[0].type == duckdb.StatementType.SELECT:
            _check_tree(connection, inside[0].query)
            return statement
        raise QueryRefused("EXPLAIN [ANALYZE] takes a query here, written right behind it")
    if kind == duckdb.StatementType.MULTI:
        raise QueryRefused("PIVOT needs its columns spelled out here: PIVOT ... ON column IN (value, ...)")
    raise QueryRefused(
        f"only queries run here, this is a {kind.name} statement; write results with --out FILE instead"
    )


def _parsed(connection: duckdb.DuckDBPyConnection, text: str) -> list[duckdb.Statement]:
    if "\0" in text:
        raise QueryRefused("the query holds a NUL character")
    try:
        return connection.extract_statements(text)
    except (duckdb.Error, UnicodeError) as error:
        raise QueryRefused(first_lines(error)) from error


def _check_tree(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    try:
        rows = connection.execute("select json_serialize_sql($query)", {"query": query}).fetchall()
        tree = json.loads(rows[0][0])
    except (duckdb.Error, ValueError, RecursionError) as error:
        raise QueryRefused(
            f"the query is too large or too deep to be checked: {first_lines(error)}"
        ) from error
    if tree.get("error", True):
        raise QueryRefused(f"only queries run here: {tree.get('error_message', 'this is none')}")
    for part in _parts(tree):
        kind = str(part.get("type", ""))
        if kind.endswith("_NODE") and kind not in _NODES:
            what = kind.removesuffix("_NODE").removesuffix("_QUERY")
            raise QueryRefused(
                f"only queries run here, this one holds {what}; write results with --out FILE instead"
            )
        if kind == "TABLE_FUNCTION":
            name = str(part.get("function", {}).get("function_name", ""))
            if name.casefold() not in _TABLE_FUNCTIONS:
                raise QueryRefused(
                    f"{name}() is not for queries over a lake; they read its views (try 'show tables')"
                )
        if kind == "BASE_TABLE" and re.search(r"[./\\:*?]", str(part.get("table_name", ""))):
            raise QueryRefused(
                f"queries read the lake's views, not files such as {str(part['table_name'])[:100]!r} (try 'show tables')"
            )


def _parts(tree: Any) -> Iterator[dict[str, Any]]:
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
