"""Results as lines of text."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..store.format.out_file import out_file
from ..store.format.outgoing import printable
from ..store.shell.table import drawn
from .statistics.metric import Metric

_ROOM = 20
"""Characters within which the last cell of a line can be read."""

_QUIET = {"resolved", "non_members", "strength", "p_value", "interval"}


def metric_lines(metrics: Iterable[Metric]) -> list[str]:
    """One aligned line a metric: name with parameters, value, 95% interval (or a one-sided one), n. What cannot be measured says so."""
    rows = []
    for metric in metrics:
        shown = " ".join(
            f"{key}={_word(value)}" for key, value in metric.parameters.items() if key not in _QUIET
        )
        value = "not resolved" if metric.value is None else _number(metric.value)
        interval = ""
        if metric.ci_low is not None and metric.ci_high is not None:
            interval = f"{_number(metric.ci_low)} to {_number(metric.ci_high)}"
        if metric.ci_low is not None and metric.parameters.get("interval") == "one-sided":
            interval = f"{_number(metric.ci_low)} or more (one-sided, {metric.parameters['confidence']:.4g})"
        strength = metric.parameters.get("strength")
        count = "" if metric.n is None else str(metric.n)
        if strength:
            count = f"{count} ({strength})"
        rows.append((f"{metric.metric} {shown}".strip(), value, interval, count))
    return aligned(rows, ("metric", "value", "95% interval", "n"))


def leading_figures(metrics: Sequence[Metric]) -> str:
    """The first two kinds of metric in one line, each with its interval, and how many more there are.

    Of several of a kind the first stands for all; of rates at false-positive rates the lowest of these with a value.
    """
    kinds: dict[str, list[Metric]] = {}
    for metric in metrics:
        kinds.setdefault(metric.metric, []).append(metric)
    told = []
    for name, own in list(kinds.items())[:_FIGURES]:
        known = [metric for metric in own if metric.value is not None] or own
        by_rate = all("fpr" in metric.parameters for metric in known)
        metric = min(known, key=lambda each: float(each.parameters["fpr"])) if by_rate else known[0]
        told.append(_figure(name, metric))
    more = len(metrics) - len(told)
    return ", ".join(told) + (f", and {more} more" if more else "")


_FIGURES = 2


def _figure(name: str, metric: Metric) -> str:
    own = [f"{key}={_word(value)}" for key, value in metric.parameters.items() if key not in _QUIET]
    title = printable(" ".join([name, *own]))
    if metric.value is None:
        return f"{title} not resolved"
    if metric.ci_low is None:
        return f"{title} {_number(metric.value)}"
    high = " or more" if metric.ci_high is None else f" to {_number(metric.ci_high)}"
    return f"{title} {_number(metric.value)} ({_number(metric.ci_low)}{high})"


def aligned(
    rows: Iterable[Sequence[object]], head: Sequence[str] = (), *, shorten: str | None = None
) -> list[str]:
    """Rows of cells as lines, columns aligned, under a ``head`` if there is one; floats with four decimals.

    On a terminal that has room for it, the last cells are broken over several lines; else they are one line a row. Where a row is wider
    than a terminal, the column ``shorten`` of the head is cut: in a file and a pipe everything is whole.
    """
    from rich.cells import cell_len

    cells = [
        [_number(cell) if isinstance(cell, float) else printable(str(cell)) for cell in row] for row in rows
    ]
    *columns, last = zip(*([head] if head else []), *cells, strict=True)
    widths = [2 + max(map(cell_len, column)) for column in columns]
    if not sys.stdout.isatty():
        # Nothing is broken and nothing styled: no reason to load all of rich, a tenth of a command's start.
        return [_padded(row, widths, cell_len) for row in ([head] if head else []) + cells]
    screen = shutil.get_terminal_size().columns - 2  # what prints the lines may indent them
    if shorten is not None and shorten in head:
        at = head.index(shorten)
        others = sum(widths) - widths[at] + max(map(cell_len, last))
        cells = [[*row[:at], _cut(row[at], max(_ROOM, screen - others - 2)), *row[at + 1 :]] for row in cells]
        widths[at] = 2 + max(map(cell_len, [shorten, *(row[at] for row in cells)]))
    return _on_screen(cells, head, screen if screen - sum(widths) >= _ROOM else 1 << 16)


def _cut(cell: str, width: int) -> str:
    """What of a cell fits into a width of the screen, with a sign where more of it is."""
    from rich.text import Text

    text = Text(cell)
    text.truncate(width, overflow="ellipsis")
    return text.plain


def _padded(row: Sequence[str], widths: Sequence[int], length: Callable[[str], int]) -> str:
    """A line of cells, each but the last padded to its width on the screen."""
    padded = (cell + " " * (width - length(cell)) for cell, width in zip(row, widths, strict=False))
    return ("".join(padded) + row[-1]).rstrip()


def _on_screen(cells: Sequence[Sequence[str]], head: Sequence[str], width: int) -> list[str]:
    """The lines within a width, the last cell broken where it must be."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(head), header_style="bold")
    for name in head or [""] * len(cells[0]):
        table.add_column(name, no_wrap=len(table.columns) + 1 < len(cells[0]), overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    return [line.rstrip() for line in drawn(table, width).split("\n")]


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def write_text(path: Path, text: str) -> None:
    """Write or replace a file as `out_file` does. Raises LosslakeError where that cannot be done."""
    with out_file(path) as file:
        file.write(f"{text}\n".encode())
