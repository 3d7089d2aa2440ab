"""Text on its way out: names, keys, labels and groups come from anybody, and each way out has one gate that all of it passes.

A terminal gets no character that drives it, nor one that it cannot show; a chart none that Vega's expressions, SVG or PDF
cannot hold; HTML none that it cannot hold; a spreadsheet no cell that it takes for a formula. Files for programs (JSON, Parquet) have every character.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import re
import sys
from collections.abc import Iterator
from typing import Any, Literal, TextIO, cast

# Bold, dim and colours that can be read, which rich and Python's tracebacks use; nothing that hides or moves.
_ALLOWED = re.compile(
    r"(\x1b\[(?:(?:0|1|2|3|4|22|3[1-6]|39|9[1-6])(?:;(?=\d)|(?=m)))*m)|\r(\n)|[^\n\t -~]", re.ASCII
)
_ODD = re.compile(r"[^\n\t -~]")
_PLAIN = {"…": "...", "·": ".", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "−": "-"}

Format = Literal["table", "csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = ("table", "csv", "json", "parquet")
"""How rows are written: a table for eyes, the others for programs."""

FORMULA = r"^'*[=+\-@\t\r\n＝＋－＠]"
"""Text that a spreadsheet may compute instead of show, or that an apostrophe before it made harmless already."""


def printable(text: str) -> str:
    """The text with a dot for each character that drives a terminal, ends a line or turns the direction of writing."""
    return text if text.isprintable() else "".join(map(_dot, text))


def _dot(letter: str) -> str:
    # A space of another width is no danger, and common in names.
    return letter if letter.isprintable() else " " if letter.isspace() and letter in _SPACES else "·"


_SPACES = {chr(code) for code in (0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)}


def for_terminal(text: str) -> str:
    """What a terminal may get of a text of several lines: bold, dim and colours stay, all else that drives it is a dot."""
    return _ALLOWED.sub(lambda found: found[1] or found[2] or _dot(found[0]), text)


def drawable(value: Any) -> Any:
    """A chart's specification whose every text can stand in an expression of Vega, in SVG and in PDF.

    What cannot is spelled out (``[U+2028]``), so that two groups stay two. Rows given as JSON text are looked through as well. A NUL in SVG
    ends the process that draws it.
    """
    if isinstance(value, str):
        return spelled(value)
    if isinstance(value, dict):
        return {spelled(str(key)): _drawable_part(str(key), inner) for key, inner in value.items()}
    return [drawable(inner) for inner in value] if isinstance(value, list | tuple) else value


def _drawable_part(key: str, value: Any) -> Any:
    if key == "values" and isinstance(value, str):
        if (
            value.isprintable() and "\\" not in value
        ):  # nothing is escaped, and so there is nothing to spell out
            return value
        return json.dumps(drawable(json.loads(value)), allow_nan=False, separators=(",", ":"))
    if key == "datasets":  # where Altair puts the rows of charts that it composes, by their name
        return {name: _drawable_part("values", rows) for name, rows in value.items()}
    return drawable(value)


def spelled(text: str) -> str:
    """The text with each character that is no visible one spelled out as its number (``[U+2028]``); spaces and line feeds stay."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter == "\n" or letter in _SPACES else f"[U+{ord(letter):04X}]"
        for letter in text
    )


def _escape(letter: str) -> str:
    code = ord(letter)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def whole_text(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON can name and UTF-8 cannot hold: U+FFFD stands for each."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    part = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter) or _escape(letter) for letter in part), error.end


codecs.register_error("losslake-terminal", _stand_in)


class _Gate:
    """A text stream of which every text passes `for_terminal`, in signs that its encoding has."""

    def __init__(self, stream: TextIO) -> None:
        self.behind = stream
        self._signs = codecs.lookup(getattr(stream, "encoding", None) or "utf-8").name

    @property
    def encoding(self) -> str:
        # click goes round a stream that says ASCII, and writes UTF-8 into it.
        return "iso8859-1" if self._signs == "ascii" else self._signs

    def write(self, text: str) -> int:
        if isinstance(text, str) and (_ODD.search(text) or not text.isascii()):
            text = for_terminal(text)
            if not self._signs.startswith("utf"):
                text = text.encode(self._signs, "losslake-terminal").decode(self._signs)
        return self.behind.write(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


@contextlib.contextmanager
def guarded_terminal() -> Iterator[None]:
    """In the block nothing that is printed reaches standard output or error but through `for_terminal`."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        cast(TextIO, _Gate(stream) if stream is not None else None) for stream in before
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def unguarded(stream: TextIO) -> TextIO:
    """The stream behind the gate, for those who draw: a bar moves the cursor. All text in it has passed `printable`."""
    return stream.behind if isinstance(stream, _Gate) else stream
