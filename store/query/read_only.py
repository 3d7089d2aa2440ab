"""What an ad-hoc statement may do: read the lake's views and compute. Everything else is refused before it runs.

DuckDB's own lock (see `connection.connect`) keeps files and settings out of reach; but a file that a query may read
it may also overwrite, and a CTE may hold INSERT, DELETE or COPY. So the parsed statement is looked at as well.

What a user can rely on: a text that passes opens no file but those that the lake's manifests list, and those to read
alone; it changes no data, no setting, no variable and no seed, loads nothing, and learns nothing of the process
(environment, settings, secrets, where the lake lies). It holds for text, not for Python code, which needs no SQL to
write files.

What runs in one's own process (`Lake.sql`, `Lake.connect`) can end it or hold it up: DuckDB is no sandbox against faults of its
own, and a value that is nested very deeply overflows its stack (`json_transform`, `from_json`, a cast to variant). A time limit
holds between the batches of rows of one expression, and not while a text is parsed; so texts with more parts than `_MOST_PARTS`
are refused. ``losslake sql`` asks in a process of its own (`shell.apart`), which may die: SQL of people one does not trust
belongs there, with limits of the operating system.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb

from ..errors import QueryRefused
from .engine_errors import first_lines

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

_FUNCTIONS_REFUSED = {
    # what they tell is none of the lake's: settings, the environment, paths of files
    "current_setting",
    "getenv",
    "getvariable",
    # what they leave behind: the seed of random(), a sequence, a line in a log, a thread that sleeps
    "currval",
    "nextval",
    "pg_sleep",
    "setseed",
    "setval",
    "sleep_ms",
    "write_log",
    # plans a text of its own, which nothing here has looked at
    "json_serialize_plan",
}
"""Functions of one value that do more than compute it."""

_TABLES_REFUSED = {
    "duckdb_databases",
    "duckdb_logs",
    "pg_prepared_statements",
    "pg_settings",
    "pragma_database_list",
}
"""DuckDB's own views that tell of the process and not of the lake."""

_SHOWN = {"tables", "__show_tables_expanded"}
"""What SHOW may show beside the columns of a view."""

_MOST_TEXT, _MOST_PARTS, _MOST_CTES = 4_000_000, 100_000, 2_000
"""Characters, words and signs, and CTEs of a query. The parser takes a second for as many; for CTEs it grows with the square."""

_PARTS = re.compile(r"\w+|[^\w\s]")
_CTES = re.compile(r"\bas\s*(?:not\s+|materialized\s*){0,2}\(", flags=re.IGNORECASE)

_EXPLAIN = re.compile(r"\s*explain(\s+analyze)?(\s*\([\w\s,]*\))?\s+(?=\w)", flags=re.IGNORECASE)


def one_query(connection: duckdb.DuckDBPyConnection, text: str) -> duckdb.Statement:
    """The one statement of ``text``, if it only reads. Raises QueryRefused with the reason otherwise."""
    statements = parsed(connection, text)
    if len(statements) != 1:
        raise QueryRefused(f"one statement at a time, not {len(statements)}")
    statement = statements[0]
    kind = _kind_of(statement)
    if kind == duckdb.StatementType.SELECT:
        _check_tree(connection, statement.query)
        return statement
    if kind == duckdb.StatementType.EXPLAIN:
        # What follows begins with a word and not with a comment or a parenthesis, so it is what will be explained.
        head = _EXPLAIN.match(statement.query)
        form = re.search(r"\bformat\W+(\w+)", (head and head[2]) or "", flags=re.IGNORECASE)
        if form and form[1].casefold() not in (
            "text",
            "json",
        ):  # a plan tells where the lake lies: these are cleaned
            raise QueryRefused(f"EXPLAIN takes FORMAT text or json here, not {form[1]}")
        inside = parsed(connection, statement.query[head.end() :]) if head else []
        if len(inside) == 1 and _kind_of(inside[0]) == duckdb.StatementType.SELECT:
            _check_tree(connection, inside[0].query)
            return statement
        raise QueryRefused("EXPLAIN [ANALYZE] takes a query here, written right behind it")
    if kind == duckdb.StatementType.MULTI:
        raise QueryRefused("PIVOT needs its columns spelled out here: PIVOT ... ON column IN (value, ...)")
    raise QueryRefused(
        f"only queries run here, this is a {kind.name} statement; write results with --out FILE instead"
    )


def _kind_of(statement: duckdb.Statement) -> duckdb.StatementType:
    try:
        return statement.type
    except ValueError as error:  # a kind that DuckDB has and its Python package has no name for
        raise QueryRefused("only queries run here, this is another statement") from error


def parsed(connection: duckdb.DuckDBPyConnection, text: str) -> list[duckdb.Statement]:
    """The statements of a text. Raises QueryRefused for one that cannot be read, or would take long to."""
    if "\0" in text:
        raise QueryRefused("the query holds a NUL character")
    _check_size(text)
    try:
        return connection.extract_statements(text)
    except (duckdb.Error, UnicodeError) as error:
        raise QueryRefused(first_lines(error)) from error


def _check_size(text: str) -> None:
    """Raises QueryRefused for a text that holds up the whole process while it is parsed: nothing can stop the parser."""
    advice = "read long lists from a table of your own (Connection.register), or ask in several queries"
    if len(text) > _MOST_TEXT:
        raise QueryRefused(f"the query is longer than {_MOST_TEXT} characters; {advice}")
    if len(text) > _MOST_CTES * 4:
        if len(_PARTS.findall(text)) > _MOST_PARTS:
            raise QueryRefused(f"the query has more than {_MOST_PARTS} words, numbers and signs; {advice}")
        if len(_CTES.findall(text)) > _MOST_CTES:
            raise QueryRefused(f"the query has more than {_MOST_CTES} parts of the form AS (...); {advice}")


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
        _check_part(part)


def _check_part(part: dict[str, Any]) -> None:
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
    name = str(part.get("function_name", "")).casefold()
    if name in _FUNCTIONS_REFUSED:
        raise QueryRefused(f"{name}() is not for queries over a lake: it does more than compute a value")
    if kind in ("BASE_TABLE", "SHOW_REF"):
        name = str(part.get("table_name", ""))
        if re.search(r"[./\\:*?]", name) or name.casefold() in _TABLES_REFUSED:
            raise QueryRefused(f"queries read the lake's views, not {name[:100]!r} (try 'show tables')")
        if part.get("show_type") == "SHOW_SPECIAL" and name.strip('"') not in _SHOWN:
            raise QueryRefused(f"SHOW {name[:100]} is not for queries over a lake (try 'show tables')")


def _parts(tree: Any) -> Iterator[dict[str, Any]]:
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
