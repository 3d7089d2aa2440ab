"""What is typed into the SQL shell, or comes through a pipe: whole queries, and commands that begin with a dot."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import duckdb

from ..errors import InvalidInput


def ended(text: str) -> bool:
    """Whether a query is complete: a semicolon ends it that stands in no string and no comment."""
    if ";" not in text:
        return False
    try:
        tokens = [place for place, kind in duckdb.tokenize(text) if kind != duckdb.token_type.comment]
        return bool(tokens) and text.encode()[tokens[-1] : tokens[-1] + 1] == b";"
    except (duckdb.Error, UnicodeError):
        return text.rstrip().endswith(";")


def is_command(text: str) -> bool:
    return text.lstrip().startswith(".")


def piped() -> Iterator[str]:
    """The queries and commands on standard input; the last query needs no semicolon."""
    pending = ""
    try:
        for line in sys.stdin:
            if not pending and is_command(line):
                yield line
                continue
            if pending or line.strip():
                pending += line
            if ";" in line and ended(pending):
                yield pending
                pending = ""
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the input is not UTF-8 text: {error}") from error
    if pending.strip():
        yield pending
