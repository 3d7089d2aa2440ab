"""The SQL texts of losslake, one statement a file, and how to read them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files


def read_sql(name: str, given: Iterable[str] = ()) -> str:
    """The text of ``sql/NAME.sql``. Parameters stand in it as ``$name`` and are bound, never formatted in.

    ``given`` are names of its common table expressions whose rows are there as tables, ``given_NAME``, and read from them.
    """
    text = (files(__package__) / f"{name}.sql").read_text(encoding="utf-8")
    for table in given:
        # Each begins a line with its name and ends with a line that begins with its parenthesis.
        text, found = re.subn(
            rf"^(with )?{table} as \(\n.*?^\)",
            rf"\1{table} as (from given_{table})",
            text,
            flags=re.MULTILINE | re.DOTALL,
        )
        if found != 1:
            raise ValueError(f"sql/{name}.sql has no common table expression {table}")
    return text
