"""What people write by hand and read: lengths of time (``40 s``, ``3 min``, ``5 h``, ``2 d``), and small TOML files."""

from __future__ import annotations

import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

from ..errors import InvalidOption

_UNITS = {"d": 86_400, "h": 3_600, "min": 60, "s": 1}

_LONGEST_TOML = 1 << 20
"""Bytes; what is longer is some other file, or a device that never ends."""


def age(since: timedelta) -> str:
    """How long ago, in the largest unit that says it."""
    seconds = max(0, int(since.total_seconds()))
    for unit, size in _UNITS.items():
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def took(seconds: float) -> str:
    """How long something took, in its two largest units: ``0.4 s``, ``45 s``, ``3 min 20 s``, ``2 d 5 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    left = round(seconds)
    parts: list[str] = []
    for unit, size in _UNITS.items():
        if left >= size or parts:
            parts.append(f"{left // size} {unit}")
            left %= size
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if not part.startswith("0 "))


def counted(count: int, unit: str, units: str = "") -> str:
    """How many: ``1 run``, ``3 runs``; ``units`` are many where that is not the unit with an s."""
    return f"{count} {unit}" if count == 1 else f"{count} {units or f'{unit}s'}"


def bytes_in_words(count: int) -> str:
    """How many bytes, in the largest unit below a thousand: ``512 B``, ``1.4 MB``."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def parse_age(text: str) -> timedelta:
    """``1d``, ``12 h``, ``30min``, ``90s`` or ``0``. Raises InvalidOption for anything else."""
    match = re.fullmatch(r"\s*(\d{1,9})\s*(d|h|min|s)\s*|\s*0\s*", text)
    if match is None:
        raise InvalidOption(
            f"{text!r} is no length of time; write a number and d, h, min or s, such as 1d or 12h"
        )
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]]) if match[1] else timedelta()


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises OSError where it cannot be read, ValueError where it is no TOML."""
    with path.open("rb") as file:
        data = file.read(_LONGEST_TOML + 1)
    if len(data) > _LONGEST_TOML:
        raise ValueError(f"it is longer than {_LONGEST_TOML} bytes")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
