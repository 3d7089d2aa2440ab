"""Names from outside (experiments, runs, analyses) become parts of paths: what they may look like."""

from __future__ import annotations

import re

from .errors import InvalidOption

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(kind: str, name: str) -> str:
    """Return ``name`` if it can safely be part of a path inside the lake, else raise InvalidOption."""
    if _NAME.fullmatch(name) is None or name.endswith("."):
        raise InvalidOption(
            f"{kind} name {name[:120]!r} is not usable: take letters, digits, '.', '_' and '-', "
            "start with a letter or digit, end without a dot, at most 100 characters"
        )
    return name
