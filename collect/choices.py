"""What to say about a name that does not exist: the valid ones, and the one that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from ..store.errors import InvalidOption


def unknown_choice(what: str, given: object, valid: Iterable[str], *, more: str = "") -> InvalidOption:
    """The error for `given` where one of `valid` was expected; returned, so that callers `raise` it.

    `what` names the thing ("model", "recipe field"); `more` is appended, for forms that no list can name.
    """
    names = list(valid)
    by_folded = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(str(given).casefold(), by_folded, n=1)
    hint = f" Did you mean {by_folded[near[0]]!r}?" if near else ""
    listed = f"valid: {', '.join(names)}" if names else "it takes none"
    return InvalidOption(f"unknown {what} {given!r};{hint} {listed}{more}".replace("; Did", ". Did"))
