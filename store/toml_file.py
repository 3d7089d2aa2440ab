"""Small TOML files that a user names: recipes, rules of a gate."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

_MOST = 1 << 20
"""Bytes; what is longer is some other file, or a device that never ends."""


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises OSError where it cannot be read, ValueError where it is no TOML."""
    with path.open("rb") as file:
        data = file.read(_MOST + 1)
    if len(data) > _MOST:
        raise ValueError(f"it is longer than {_MOST} bytes")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
