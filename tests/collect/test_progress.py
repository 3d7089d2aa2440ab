"""Progress on a terminal and elsewhere."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from losslake.collect import progress as module
from losslake.collect.progress import ProgressLines
from warm import HANGS

WORK = """
import sys, time
from losslake.collect.progress import ProgressLines
progress = ProgressLines("shadows")
progress.start(4, "epochs")
try:
    for epoch in range(4):
        time.sleep(float(sys.argv[1]) if epoch else 0)
        progress.advance(1, "[b]run[/b] :smile: \\x1b[31m")
        progress.note(f"epoch [red]{epoch}[/red]\\x07")
finally:
    progress.finish()
"""


def test_plain_lines_are_few_and_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = ProgressLines("target")
    progress.start(3, "epochs")
    for epoch in range(3):
        progress.advance(1, f"epoch {epoch}")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "_EVERY", 0)
    progress.advance(0, "[red]one[/red] :smile: \x1b[31m")
    progress.note("two\x1b[31m\u202e")
    progress.finish()
    line = r"target: 3/3 epochs, [\d.e+]+ epochs/s, 0:00  \[red\]one\[/red\] :smile: ·\[31m\n"
    assert re.fullmatch(rf"{line}target: two·\[31m·\n{line}", capsys.readouterr().err)


def test_the_time_left_is_told_from_what_came_after_the_first_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers took 30 seconds to start, then an epoch took one: by all of it, 70 would be left after the first."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    progress = ProgressLines("shadows")
    progress.start(80, "epochs")
    said = []
    for moment, epochs in ((30.0, 1), (30.5, 1), (40.0, 9), (109.0, 69)):
        now[0] = moment
        progress.advance(epochs, "")
        said += capsys.readouterr().err.splitlines()
    assert said == [
        "shadows: 1/80 epochs after 0:30",
        "shadows: 80/80 epochs, 0.734 epochs/s, 1:49",
    ]
    progress = ProgressLines("shadows")
    now[0] = 0.0
    progress.start(80, "epochs")
    for moment, epochs in ((10.0, 1), (20.0, 10)):
        now[0] = moment
        progress.advance(epochs, "")
    assert capsys.readouterr().err == "shadows: 11/80 epochs, 1 epochs/s, 1:09 left\n"


def on_a_terminal(
    seconds: float, *, columns: int = 100, until: Callable[[subprocess.Popen[bytes], str], None] | None = None
) -> str:
    """What the work writes to a terminal."""
    ours, theirs = pty.openpty()
    _set_width(theirs, columns)
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(seconds)],
        stdin=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm"},
    )
    os.close(theirs)
    seen = ""
    try:
        while True:
            seen += os.read(ours, 65536).decode()
            if until is not None:
                until(process, seen)
    except OSError:  # its other end is closed
        process.wait(HANGS)
        return seen
    finally:
        process.kill()
        os.close(ours)


def _set_width(terminal: int, columns: int) -> None:
    import fcntl
    import struct
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


def test_a_terminal_that_does_not_know_how_wide_it_is() -> None:
    assert "shadows: 4/4 epochs" in on_a_terminal(0.0, columns=0)


@pytest.mark.parametrize("columns", [100, 40])
def test_a_bar_with_notes_above_it(columns: int) -> None:
    seen = on_a_terminal(0.0, columns=columns)
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", seen)
    assert "\x1b[31m" not in plain
    assert "shadows: epoch [red]3[/red]·\r\n" in plain
    last = plain.split("\r")[-2]
    assert last.startswith("━" * 8)
    assert len(last) <= columns - 3
    assert "shadows: 4/4 epochs" in last if columns == 100 else "…" in last
    assert ("[b]run[/b] :smile: ·[31m" in last) is (columns == 100)
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")


def test_ctrl_c_leaves_the_bar_and_the_cursor() -> None:
    sent = []

    def interrupt(process: subprocess.Popen[bytes], seen: str) -> None:
        if "epoch [red]0" in seen and not sent:
            sent.append(process.send_signal(signal.SIGINT))

    seen = on_a_terminal(600, until=interrupt)
    before, _, after = seen.rpartition("Traceback")
    assert "KeyboardInterrupt" in after
    assert re.search(r"shadows: [12]/4 epochs", before)
    assert before.endswith(("\n\x1b[?25h", "\n"))
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")


def test_a_dumb_terminal_gets_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    progress = ProgressLines("target")
    progress.start(1, "runs")
    progress.advance(1, "")
    progress.finish()
    assert re.fullmatch(r"target: 1/1 runs, \S+ runs/s, 0:00\n", capsys.readouterr().err)
