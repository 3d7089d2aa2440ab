"""Names from outside (experiments, runs, analyses) become parts of paths: what they may look like."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import InvalidOption

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{digit}" for port in ("com", "lpt") for digit in "123456789"),
}
"""What Windows takes for a device, with any extension: no file of a lake may be called so."""

NO_TARGET = "all"
"""Stands where a run's name would for an analysis that looks at all runs alike; no run is called so."""


def check_name(kind: str, name: str) -> str:
    """Return ``name`` if it can safely be part of a path inside the lake, else raise InvalidOption."""
    if not isinstance(name, str):
        raise InvalidOption(f"{kind} name {name!r} is not usable: a name is text")
    if _NAME.fullmatch(name) is None or name.endswith("."):
        raise InvalidOption(
            f"{kind} name {name[:120]!r} is not usable: take letters, digits, '.', '_' and '-', "
            "start with a letter or digit, end without a dot, at most 100 characters"
        )
    if name.partition(".")[0].casefold() in _DEVICES or (kind == "run" and name.casefold() == NO_TARGET):
        raise InvalidOption(f"{kind} name {name!r} is reserved; choose another")
    return name


def check_distinct(kind: str, name: str, existing: Iterable[str]) -> None:
    """Raises InvalidOption where ``name`` differs from an existing one in upper and lower case only.

    On many disks the two would be one folder, so a lake that held both could not be copied there.
    """
    for other in existing:
        if other != name and other.casefold() == name.casefold():
            raise InvalidOption(
                f"{kind} name {name!r} is too close to {other!r}, which exists; choose another"
            )
