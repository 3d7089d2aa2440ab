"""Kinds of JSON values: what a value may be, said once and checked by one call.

A kind is a function of a value and its name that raises ValueError, naming it, for a value that is none. Types are exact:
True is no number, and a whole number is no text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Kind = Callable[[Any, str], None]


def anything(value: Any, name: str) -> None:
    """Whatever JSON can say."""


def text(value: Any, name: str) -> None:
    """A text that can be written: JSON can name half a character, and UTF-8 cannot hold it."""
    if type(value) is not str:
        raise wrong(value, name)
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{name} is no text")


def letters(value: Any, name: str) -> None:
    """Any text, also one that only JSON can hold: whoever shows it takes care."""
    if type(value) is not str:
        raise wrong(value, name)


def number(value: Any, name: str) -> None:
    """A number that a float can hold, and what is none or without end as JSON of Python's has it."""
    if type(value) is int:
        try:
            float(value)
        except OverflowError:
            raise wrong(value, name) from None
    elif type(value) is not float:
        raise wrong(value, name)


def truth(value: Any, name: str) -> None:
    """True or false."""
    if type(value) is not bool:
        raise wrong(value, name)


def whole(least: int = 0, end: int = 1 << 63) -> Kind:
    """A whole number from ``least`` on, below ``end``."""

    def check(value: Any, name: str) -> None:
        if type(value) is not int or not least <= value < end:
            raise wrong(value, name)

    return check


def one_of(*values: str) -> Kind:
    """One of some texts."""

    def check(value: Any, name: str) -> None:
        if type(value) is not str or value not in values:
            raise wrong(value, name)

    return check


def or_null(kind: Kind) -> Kind:
    """Of a kind, or null."""

    def check(value: Any, name: str) -> None:
        if value is not None:
            kind(value, name)

    return check


def either(*kinds: Kind) -> Kind:
    """Of the first kind that takes it."""

    def check(value: Any, name: str) -> None:
        for kind in kinds:
            try:
                return kind(value, name)
            except ValueError:
                continue
        raise wrong(value, name)

    return check


def listed(kind: Kind) -> Kind:
    """A list of values of one kind."""

    def check(value: Any, name: str) -> None:
        if type(value) is not list:
            raise wrong(value, name)
        for each in value:
            kind(each, name)

    return check


def mapping(kind: Kind) -> Kind:
    """An object with any names, and values of one kind."""

    def check(value: Any, name: str) -> None:
        if type(value) is not dict:
            raise wrong(value, name)
        if not all(map(str.isascii, value)):
            for key in value:
                text(key, f"a name in {name}")
        if kind is not anything:
            for key, each in value.items():
                kind(each, f"{key[:50]} of {name}")

    return check


def record(
    entries: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None, *, closed: bool = False
) -> Kind:
    """An object with these entries, where they are there with the ``optional`` ones, and ``closed`` with no other."""
    required, may = tuple(entries.items()), tuple((optional or {}).items())
    known = {*entries, *(optional or {})}

    def check(value: Any, name: str) -> None:
        if type(value) is not dict:
            raise wrong(value, name)
        try:
            for entry, kind in required:
                if entry not in value:
                    raise ValueError(f"it has no {entry}")
                kind(value[entry], entry)
            for entry, kind in may:
                if entry in value:
                    kind(value[entry], entry)
        except ValueError as error:
            raise (ValueError(f"{name}: {error}") if name else error) from None
        if closed and not known.issuperset(value):
            odd = next(entry for entry in value if entry not in known)
            raise ValueError(f"{name or 'it'} has {odd[:100]!r}, which nobody knows")

    return check


def wrong(value: Any, name: str) -> ValueError:
    """What a kind raises for a value that is none."""
    try:
        shown = repr(value)[:100]
    except (ValueError, RecursionError):  # thousands of digits, or nested deeply
        shown = f"a {type(value).__name__} that is too large to show"
    return ValueError(f"{name or 'it'} is {shown}")


def check_nesting(value: Any, deepest: int) -> None:
    """Raises ValueError for JSON that is nested more than ``deepest`` times."""
    level: list[Any] = [value]
    for _ in range(deepest + 1):
        level = [
            inner
            for each in level
            for inner in (each.values() if type(each) is dict else each)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return
    raise ValueError(f"it is nested more than {deepest} times")
