"""What a page says in words, beside what losslake says of the same lake: somebody may have written in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from .audit import Audit
from .data import Report
from .page import build, uncharted
from .words import verdict

WITHIN = frozenset({"a", "b", "code", "dd", "dt", "em", "span", "strong", "td", "th", "time"})
"""Elements that begin no line of their own; a row of a table is one line."""

CHART = frozenset({"text", "tspan", "title", "desc"})
"""Elements of a picture whose words are the chart's; others end the picture for a reader's browser."""

PLACES = frozenset({"section", "header", "nav", "footer", "title"})
"""Elements whose lines are looked at apart; what stands between them is the page's."""

EMPTY = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
)

OF_THE_LAKE = frozenset({"nav", "questions", "notes", "sql"})
"""Places on what has been asked so far and what else can be: it may be more by now."""

_FOLDED = re.compile(r"[\d,]+ more")
_NONCE = re.compile(r"\b[0-9a-f]{64}\b")
_HOW_SHOWN = ("style", "hidden", "class", "http-equiv", "srcdoc")


class _Lines(HTMLParser):
    """The lines of text in each place of a page, as a reader sees them; without charts, which say what else has been asked since.

    Lines too are what shows or hides others: styles, scripts, attributes, and elements that a browser follows.
    """

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: dict[str, list[str]] = {}
        self._open: list[tuple[str, str]] = []  # elements, with the place that each makes
        self._words: list[str] = []
        self._sections: set[str] = set()

    @property
    def _place(self) -> str:
        return next((place for _, place in reversed(self._open) if place), "page")

    def _within(self, *tags: str) -> bool:
        return any(tag in tags for tag, _ in self._open)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in WITHIN or (tag == "a" and self._place == "nav"):
            self._end_line()
        given = {name: value or "" for name, value in attrs}
        if not self._within("svg"):
            told = {name: given[name] for name in given if name in _HOW_SHOWN or name.startswith("on")}
            if tag in EMPTY and tag != "img":
                told = given
            if told and set(told) != {"class"}:
                shown = " ".join(f'{name}="{value}"' for name, value in sorted(told.items()))
                self._add(f"<{tag} {_NONCE.sub('', shown)}>")
            elif tag in ("iframe", "object", "base", "form"):
                self._add(f"<{tag}>")
        if tag not in EMPTY:
            own = given.get("id") or "section" if tag == "section" else tag
            if tag == "section" and own in self._sections:
                self._add(f"a second section {own}")
            self._sections.add(own)
            self._open.append((tag, own if tag in PLACES and not self._within("svg") else ""))
            if tag == "script" and given.get("type") == "application/json":
                self._open[-1] = ("json", "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in WITHIN:
            self._end_line()
        elif tag in ("dd", "dt", "td", "th"):
            self._words.append(" ")
        names = [one for one, _ in self._open]
        ends = "json" if tag == "script" and names[-1:] == ["json"] else tag
        if ends in names:  # one that ends nothing is passed over, as by a browser
            del self._open[len(names) - 1 - names[::-1].index(ends) :]

    def handle_data(self, data: str) -> None:
        inner = self._open[-1][0] if self._open else ""
        if inner == "json" or (self._within("svg") and inner in (*CHART, "svg", "g")):
            return
        if self._within("figcaption") and not self._within("svg"):
            return
        if inner in ("script", "style"):
            self.found.setdefault(inner, []).append(" ".join(data.split()))
        else:
            self._words.append(data)

    def close(self) -> None:
        super().close()
        self._end_line()

    def _end_line(self) -> None:
        line = " ".join("".join(self._words).split())
        self._words.clear()
        if line and not _FOLDED.fullmatch(line):
            self._add(line)

    def _add(self, line: str) -> None:
        self.found.setdefault(self._place, []).append(line)


def lines_of(page: str) -> dict[str, list[str]]:
    """The lines of text in each place of a page, by the section's name or the element's."""
    parser = _Lines()
    parser.feed(page)
    parser.close()
    return parser.found


def written_in(held: Mapping[str, Any], page: str | None, now: Report, audit: Audit) -> tuple[str, ...]:
    """Lines that a report shows, and that are none of those that losslake writes of the same numbers: somebody else wrote them.

    ``held`` are its numbers, ``page`` is its page where it is one, ``audit`` what it says that it is of. More lines than it has may be written
    by now. Charts with their captions, and pictures, are not looked at.
    """
    # A lake may have another name by now. Where commands are for a shell, they are others than for Python.
    named = replace(
        now, lake=audit.lake, made=str(held.get("made")), audit=replace(now.audit, lake=audit.lake)
    )
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
        for section, lines in lines_of(uncharted(report, verdict(report), build(report))).items():
            written.setdefault(section, set()).update(lines)
    strange += [
        f"{section}: {line}"
        if section not in ("style", "script")
        else f"a {section} that losslake does not write"
        for section, lines in lines_of(page).items()
        if section not in OF_THE_LAKE
        for line in lines
        if line not in written.get(section, ())
    ]
    return tuple(strange)
