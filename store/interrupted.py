"""Ctrl-C, kept in mind: a library in the middle of something may swallow it, or make an error of its own of it.

A command line listens from its start. What fails after Ctrl-C was told is told as stopped and as no fault, and a query that
would begin after it ends instead.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

_pressed = False


def listen() -> None:
    """Keep Ctrl-C in mind from now on; a process that ignores it, or has a way of its own, is left as it is."""
    if threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, _press)


def pressed() -> bool:
    """Whether Ctrl-C was pressed, and nobody has answered it."""
    return _pressed


def answered() -> None:
    """It was answered, by a session that goes on."""
    global _pressed
    _pressed = False


def press() -> None:
    """It was pressed."""
    global _pressed
    _pressed = True


def _press(number: int, frame: FrameType | None) -> None:
    press()
    signal.default_int_handler(number, frame)
