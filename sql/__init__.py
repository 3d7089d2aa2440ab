"""The SQL texts of losslake, one statement a file, and how to read them."""

from __future__ import annotations

from importlib.resources import files


def read_sql(name: str) -> str:
    """The text of ``sql/NAME.sql``. Parameters stand in it as ``$name`` and are bound, never formatted in."""
    return (files(__package__) / f"{name}.sql").read_text(encoding="utf-8")
