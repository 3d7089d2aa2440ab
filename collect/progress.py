"""How long work tells how far it is: a protocol that the command line draws a bar for."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Protocol

from ..store.format.outgoing import printable, unguarded

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


GETTING_READY = "getting ready"
"""What a command says before it imports torch and loads data, which may take a while."""


class Progress(Protocol):
    """Told by collectors. Always called from the thread that called the collector."""

    def start(self, total: int, unit: str) -> None:
        """Work of ``total`` units (epochs, runs) begins."""

    def advance(self, n: int, note: str) -> None:
        """``n`` more units are done; 0 for a note alone. ``note`` is a few words about the latest, or empty."""

    def note(self, sentence: str) -> None:
        """Something that a person should read, and not only while the work goes on."""

    def finish(self) -> None:
        """The work has ended, well or not."""


class Silent:
    """Progress that nobody watches."""

    def start(self, total: int, unit: str) -> None:
        pass

    def advance(self, n: int, note: str) -> None:
        pass

    def note(self, sentence: str) -> None:
        pass

    def finish(self) -> None:
        pass


_EVERY = 15.0
"""Seconds between plain lines."""

_KNOWN_FROM = 1.0
"""Seconds of work, after the first step is done, from which on a rate and the time left are told."""

_REFRESH = 0.5
"""Seconds between two looks of the bar, which the working thread itself draws."""


class ProgressLines:
    """A `Progress` for people: done of total, rate, time left, and the latest note; behind a bar on a terminal."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Bar | None = None
        self._total = self._done = 0
        self._unit = self._note = ""
        self._began = self._shown = 0.0
        self._first: tuple[float, int] | None = None

    def start(self, total: int, unit: str) -> None:
        self._total, self._unit = total, unit
        self._began = self._shown = time.monotonic()
        self._done, self._first = 0, None
        if total and sys.stderr.isatty():
            self._bar = _bar(total)
        if self._bar:
            self._show()

    def advance(self, n: int, note: str) -> None:
        self._done += n
        self._note = note or self._note
        now = time.monotonic()
        if n and self._first is None:
            self._first = now, self._done
        if now - self._shown >= (_REFRESH if self._bar else _EVERY):
            self._shown = now
            self._show()

    def note(self, sentence: str) -> None:
        line = printable(f"{self._title}: {sentence}")
        if self._bar:
            self._bar.console.print(line)  # above the bar
        else:
            print(line, file=sys.stderr, flush=True)

    def finish(self) -> None:
        if self._total:
            self._show()
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _show(self) -> None:
        if self._bar:
            # Room for the ^C that a terminal echoes: on a line of its own it would part the bar from its place.
            columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            self._bar.console.width = max(columns - 3, 8)
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=self._done, description=self._line(), refresh=True)
        else:
            print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        now = time.monotonic()
        seconds = now - self._began
        share = f"{self._done}/{self._total} {self._unit}"
        note = f"  {self._note}" if self._note else ""
        if self._done >= self._total:
            rate = self._done / seconds if seconds > 0 else 0.0
            return printable(f"{self._title}: {share}, {rate:.3g} {self._unit}/s, {_clock(seconds)}{note}")
        # What the first one took is the start of workers and the reading of data, too: it says nothing of the others.
        since, already = self._first or (now, self._done)
        if self._done == already or now - since < _KNOWN_FROM:
            return printable(f"{self._title}: {share} after {_clock(seconds)}{note}")
        rate = (self._done - already) / (now - since)
        left = _clock((self._total - self._done) / rate)
        return printable(f"{self._title}: {share}, {rate:.3g} {self._unit}/s, {left} left{note}")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _bar(total: int) -> Bar | None:
    """A started bar and the text behind it; None on a terminal where nothing can be redrawn.

    It is drawn again when it is told to, and by nothing that runs beside the training. The cursor stays visible, so that a process that is killed leaves the terminal as it was.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    console = Console(file=unguarded(sys.stderr), markup=False, emoji=False, highlight=False)
    if not console.is_interactive:
        return None
    text = TextColumn(
        "{task.description}",
        markup=False,
        table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
    )
    bar = Progress(
        BarColumn(min(20, console.width // 5)),
        text,
        console=console,
        expand=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    bar.add_task("", total=total)
    bar.start()
    console.show_cursor()
    return bar
