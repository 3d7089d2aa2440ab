"""Tables as text for the screen, drawn by rich (which is imported only then): boxes around the rows of a query, bare columns for results.

What stands in a cell comes from anybody. It is never markup, and no character of it drives the terminal.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..format.outgoing import printable

if TYPE_CHECKING:
    from rich.table import Table

_LEAST = 6
"""Characters that a column keeps however narrow the screen is, if it has so many."""

_MOST = 48
"""Characters of a cell that are shown at most; what is longer is read better as CSV or JSON."""

_GAP = "…"


def draw_table(
    names: Sequence[str], rows: Sequence[Sequence[object]], *, gap_after: int | None = None
) -> str:
    """Rows under their column names in a box that fits the terminal (120 characters in a pipe).

    Long cells are cut; columns that do not fit even so are left out in the middle, and rows are after
    ``gap_after``: both show as an ellipsis. Numbers stand to the right.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    width = shutil.get_terminal_size((120, 24)).columns
    head, *body = [
        [printable(name) for name in names],
        *([cell_text(value) for value in row] for row in rows),
    ]
    widths = [max(map(cell_len, column)) for column in zip(head, *body, strict=True)]
    if gap_after is not None:
        body.insert(gap_after, [_GAP] * len(names))
    kept = _columns_that_fit(widths, width)

    # Text that does not wrap, in columns that could: of these alone rich narrows the widest first.
    def shown(line: list[str]) -> list[Text]:
        texts = [_GAP if place is None else line[place] for place in kept]
        return [Text(text, no_wrap=True, overflow="ellipsis") for text in texts]

    table = Table(box=box.SQUARE, border_style="dim", header_style="bold")
    for place, name in zip(kept, shown(head), strict=True):
        right = place is not None and all(_is_number(row[place]) for row in rows)
        table.add_column(name, justify="right" if right else "left", max_width=_MOST)
    for line in body:
        table.add_row(*shown(line))
    return drawn(table, width)


def _columns_that_fit(widths: Sequence[int], width: int) -> list[int | None]:
    """The columns to show where each is as narrow as it may be; None for those left out in the middle."""
    kept: list[int | None] = [*range(len(widths))]
    left = len(kept)
    while (
        1 + sum(3 + (1 if place is None else min(_LEAST, widths[place])) for place in kept) > width
        and left > 1
    ):
        left -= 1
        kept = [*range((left + 1) // 2), None, *range(len(widths) - left // 2, len(widths))]
    return kept


def drawn(table: Table, width: int) -> str:
    """The lines of a table. They are styled where standard output is a terminal, and NO_COLOR does not forbid it."""
    from rich.console import Console

    console = Console(width=width, height=24, markup=False, emoji=False, highlight=False)
    with console.capture() as captured:  # written by rich itself, a pipe that is closed would end the process
        console.print(table)
    return captured.get().rstrip("\n")


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
    return printable(str(value)[: 10 * _MOST])


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
