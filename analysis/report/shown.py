"""What a page says in words, beside what losslake says of the same lake: somebody may have written in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from .audit import Audit
from .data import Report
from .page import build, unstyled
from .words import verdict

UNSEEN = frozenset({"script", "style", "noscript", "svg", "figcaption", "button", "head"})
WITHIN = frozenset({"a", "b", "code", "dd", "dt", "em", "span", "strong", "td", "th", "time"})
"""Elements that begin no line of their own; a row of a table is one line."""

OF_THE_LAKE = frozenset({"questions", "notes", "sql"})
"""Sections on what has been asked so far and what else can be: it may be more by now."""

_FOLDED = re.compile(r"[\d,]+ more")


class _Lines(HTMLParser):
    """The lines of text in each section of a page, as a reader sees them; without charts, which say what else has been asked since."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: dict[str, list[str]] = {}
        self._section: str | None = None
        self._unseen = 0
        self._words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in UNSEEN:
            self._unseen += 1
        if tag not in WITHIN:
            self._end_line()
        if tag == "section":
            self._section = dict(attrs).get("id") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag in UNSEEN:
            self._unseen -= 1
        if tag not in WITHIN:
            self._end_line()
        elif tag in ("dd", "dt", "td", "th"):
            self._words.append(" ")
        if tag == "section":
            self._section = None

    def handle_data(self, data: str) -> None:
        if not self._unseen and self._section is not None:
            self._words.append(data)

    def _end_line(self) -> None:
        line = " ".join("".join(self._words).split())
        self._words.clear()
        if line and self._section is not None and not _FOLDED.fullmatch(line):
            self.found.setdefault(self._section, []).append(line)


def lines_of(page: str) -> dict[str, list[str]]:
    """The lines of text in each section of a page, by the section's name."""
    parser = _Lines()
    parser.feed(page)
    parser.close()
    return parser.found


def written_in(held: Mapping[str, Any], page: str | None, now: Report, audit: Audit) -> tuple[str, ...]:
    """Lines that a report shows, and that are none of those that losslake writes of the same numbers: somebody else wrote them.

    ``held`` are its numbers, ``page`` is its page where it is one, ``audit`` what it says that it is of. More lines than it has may be written
    by now. Charts and pictures are not looked at.
    """
    # A lake may have another name by now. Where commands are for a shell, they are others than for Python.
    named = replace(now, lake=audit.lake, audit=replace(now.audit, lake=audit.lake))
    told = verdict(named)
    strange = [
        f"{name} of the verdict: {held['verdict'].get(name)}"
        for name, own in (("title", told.title), ("text", told.text))
        if held["verdict"].get(name) != own
    ]
    if page is None:
        return tuple(strange)
    written: dict[str, set[str]] = {}
    for shell in (False, True):
        report = replace(named, shell=shell)
        for section, lines in lines_of(unstyled(report, verdict(report), build(report))).items():
            written.setdefault(section, set()).update(lines)
    strange += [
        f"{section}: {line}"
        for section, lines in lines_of(page).items()
        if section not in OF_THE_LAKE
        for line in lines
        if line not in written.get(section, ())
    ]
    return tuple(strange)
