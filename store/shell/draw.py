"""A table in characters that fits a given width, whatever is in it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_LEAST = 6
"""Characters that a column keeps however narrow the screen is, if it has so many."""

_MOST = 48
"""Characters of a cell that are shown at most; what is longer is read better as CSV or JSON."""

_GAP = "…"


def draw_table(
    names: Sequence[str], rows: Sequence[Sequence[object]], width: int, *, gap_after: int | None = None
) -> str:
    """Rows under their column names, at most ``width`` characters wide (but never under about 20).

    Long cells are cut; columns that do not fit even so are left out in the middle, and rows are after
    ``gap_after``: both show as an ellipsis. Numbers stand to the right. Control characters are not passed on.
    """
    columns = [
        [_printable(name), *(cell_text(row[place]) for row in rows)] for place, name in enumerate(names)
    ]
    right = [all(_is_number(row[place]) for row in rows) for place in range(len(names))]
    widths = [min(_MOST, max(map(_wide, column))) for column in columns]
    kept = _fit(widths, width)
    lines = []
    for line in range(len(rows) + 1):
        cells = []
        for place in kept:
            if place is None:
                cells.append(_GAP)
            else:
                cells.append(_padded(columns[place][line], widths[place], right[place]))
        lines.append("│ " + " │ ".join(cells) + " │")
    if gap_after is not None:
        cells = [
            _padded(_GAP, 1 if place is None else widths[place], place is not None and right[place])
            for place in kept
        ]
        lines.insert(gap_after + 1, "│ " + " │ ".join(cells) + " │")
    rules = ["─" * (3 if place is None else widths[place] + 2) for place in kept]
    top, middle, bottom = (f"{a}{b.join(rules)}{c}" for a, b, c in ("┌┬┐", "├┼┤", "└┴┘"))
    return "\n".join([top, lines[0], middle, *lines[1:], bottom])


def cell_text(value: object) -> str:
    """A value as a reader wants to see it: six digits of a number that is not whole, NULL for none."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        shown = [cell_text(part) for part in value[:16]]
        return f"[{', '.join(shown)}{', ' + _GAP if len(value) > 16 else ''}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{cell_text(key)}: {cell_text(part)}' for key, part in value.items())}}}"
    if isinstance(value, bytes):
        return f"{value[:16].hex()}{_GAP if len(value) > 16 else ''} ({len(value)} bytes)"
    return _printable(str(value))


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _fit(widths: list[int], width: int) -> list[int | None]:
    """Narrow ``widths`` in place until they fit; the columns to show, None for a gap."""

    def total(places: Sequence[int | None]) -> int:
        return 1 + sum(3 + (1 if place is None else widths[place]) for place in places)

    every: list[int | None] = list(range(len(widths)))
    while total(every) > width and max(widths) > _LEAST:
        widest = widths.index(max(widths))
        widths[widest] -= 1
    kept = every
    left = len(widths)
    while total(kept) > width and left > 1:
        left -= 1
        kept = [*range((left + 1) // 2), None, *range(len(widths) - left // 2, len(widths))]
    return kept


def _padded(text: str, width: int, right: bool) -> str:
    if _wide(text) > width:
        while text and _wide(text) > width - 1:
            text = text[:-1]
        text += _GAP
    space = " " * (width - _wide(text))
    return space + text if right else text + space


def _wide(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def _printable(text: str) -> str:
    if len(text) > 10 * _MOST:
        text = text[: 10 * _MOST]
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "·" for letter in text)
