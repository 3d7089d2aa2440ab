"""How much memory a file of a stranger's may take: a small one may unpack to more than there is.

A file may take a hundred times its size, and a gigabyte in any case, but no more than 32 GB; ``--input-gb``, or
LOSSLAKE_INPUT_GB, says another limit, in gigabytes. It is looked at while a file is read, before the memory is used.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from ...store.errors import InvalidInput, InvalidOption

VARIABLE = "LOSSLAKE_INPUT_GB"

_GB = 1_000_000_000
_ALWAYS, _GROWTH, _MOST = _GB, 100, 32 * _GB


def room_for(*paths: Path) -> int:
    """How many bytes the files may take in memory together. Raises InvalidOption where LOSSLAKE_INPUT_GB is no number above 0."""
    given = os.environ.get(VARIABLE)
    if given:
        try:
            limit = float(given)
        except ValueError:
            limit = math.nan
        if not limit > 0:
            raise InvalidOption(f"{VARIABLE} is {given!r}; give a number of gigabytes above 0")
        return int(min(limit * _GB, 1e18))
    size = 0
    for path in paths:
        size += path.stat().st_size
    return max(_ALWAYS, min(_GROWTH * size, _MOST))


def check_room(taken: float, *paths: Path) -> None:
    """Raises InvalidInput where files would take more than they may."""
    if taken > (room := room_for(*paths)):
        needed = math.ceil(taken / _GB)
        raise InvalidInput(
            f"{paths[0]}: takes more than {room / _GB:.3g} GB once it is unpacked, of a file of "
            f"{_shown(sum(path.stat().st_size for path in paths))}; where you trust it, raise the limit, with --input-gb or "
            f"{VARIABLE}, to {max(needed, 2)} or more"
        )


def _shown(size: int) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:.3g} GB"
