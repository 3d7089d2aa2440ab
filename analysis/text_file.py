"""Writing a text that a command was asked for."""

from __future__ import annotations

from pathlib import Path

from ..store.errors import LosslakeError


def write_text(path: Path, text: str) -> None:
    """Write or replace a file and make its folder. Raises LosslakeError where that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise LosslakeError(f"cannot write {path}: {error.strerror or error}") from error
