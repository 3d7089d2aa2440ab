"""How long work tells how far it is: a protocol that the command line draws a bar for."""

from __future__ import annotations

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
