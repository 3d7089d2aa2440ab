"""How long work tells how far it is: a protocol that the command line draws a bar for."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Protocol


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


class ProgressLines:
    """A `Progress` for people: done of total, rate, time left, and the latest note."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._talking = sys.stderr.isatty()
        self._total = 0
        self._done = 0
        self._unit = ""
        self._note = ""
        self._began = 0.0
        self._shown = 0.0

    def start(self, total: int, unit: str) -> None:
        self._total, self._unit = total, unit
        self._began = self._shown = time.monotonic()

    def advance(self, n: int, note: str) -> None:
        self._done += n
        self._note = note or self._note
        now = time.monotonic()
        if now - self._shown >= (0.1 if self._talking else _EVERY):
            self._shown = now
            self._show(self._line(now - self._began))

    def note(self, sentence: str) -> None:
        clear = "\r\x1b[2K" if self._talking else ""
        sys.stderr.write(f"{clear}{self._title}: {sentence}\n")
        sys.stderr.flush()

    def finish(self) -> None:
        if self._total:
            self._show(self._line(time.monotonic() - self._began))
        if self._talking and self._total:
            sys.stderr.write("\n")

    def _line(self, seconds: float) -> str:
        rate = self._done / seconds if seconds > 0 else 0.0
        left = (
            f"{_clock((self._total - self._done) / rate)} left"
            if rate > 0 and self._done < self._total
            else _clock(seconds)
        )
        share = f"{self._done}/{self._total} {self._unit}"
        return f"{self._title}: {share}, {rate:.3g} {self._unit}/s, {left}{f'  {self._note}' if self._note else ''}"

    def _show(self, line: str) -> None:
        if not self._talking:
            sys.stderr.write(line + "\n")
        else:
            wide = shutil.get_terminal_size((100, 24)).columns - 1
            filled = int(20 * self._done / self._total) if self._total else 0
            bar = "█" * filled + "░" * (20 - filled)
            sys.stderr.write(f"\r\x1b[2K{f'{bar} {line}'[:wide]}")
        sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
