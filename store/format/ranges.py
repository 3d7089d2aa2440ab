"""Range queries: neighbours of a sample that models are asked about, and what a run says of those it holds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from ..errors import InvalidOption
from .records import Run
from .schema import PLAIN_QUERIES

MOST_VIEWS = 1024
"""Views that a range can have: so many query numbers are set aside for each kind."""


@dataclass(frozen=True)
class RangeKind:
    """A way of drawing neighbours. ``first`` is the query number of its view 0; numbers stand in lakes for good.

    ``amount`` is what its parameter is called and ``default`` what it is where none is given; it must lie above 0
    and, where ``whole``, be a whole number up to ``most``, else below ``most``.
    """

    first: int
    amount: str
    default: float
    most: float
    whole: bool = False


RANGE_KINDS: Mapping[str, RangeKind] = {
    "crop": RangeKind(PLAIN_QUERIES, "PIXELS", 4.0, 64.0, whole=True),
    "flip-crop": RangeKind(PLAIN_QUERIES + MOST_VIEWS, "PIXELS", 4.0, 64.0, whole=True),
    "noise": RangeKind(PLAIN_QUERIES + 2 * MOST_VIEWS, "SIGMA", 0.1, 1000.0),
    "impute": RangeKind(PLAIN_QUERIES + 3 * MOST_VIEWS, "SHARE", 0.2, 1.0),
}

RANGE_FORMS = tuple(f"{name}:N[:{kind.amount}]" for name, kind in RANGE_KINDS.items())


@dataclass(frozen=True)
class Range:
    """``views`` neighbours of each sample, of one kind: pixels, sigma or share by ``amount``.

    View k of a sample is the same whatever ``views`` is.
    """

    kind: str
    views: int
    amount: float

    @property
    def queries(self) -> range:
        """The query numbers of the views."""
        first = RANGE_KINDS[self.kind].first
        return range(first, first + self.views)

    def __str__(self) -> str:
        """The canonical spec, such as crop:8:4."""
        return f"{self.kind}:{self.views}:{self.amount:.12g}"


def parse_range(spec: str) -> Range:
    """A range from KIND:N or KIND:N:AMOUNT. Raises InvalidOption for any other text."""
    name, *given = spec.split(":")
    kind = RANGE_KINDS.get(name)
    if kind is None or not 1 <= len(given) <= 2:
        raise InvalidOption(f"range query {spec!r} is not understood; write one of {', '.join(RANGE_FORMS)}")
    views = int(given[0]) if re.fullmatch("[0-9]{1,4}", given[0]) else 0
    if not 1 <= views <= MOST_VIEWS:
        raise InvalidOption(f"query {spec!r} must ask for 1 to {MOST_VIEWS} views, not {given[0]!r}")
    try:
        amount = float(f"{float(given[1]):.12g}") if len(given) == 2 else kind.default
    except ValueError:
        amount = math.nan
    if kind.whole:
        fits = amount.is_integer() and 1 <= amount <= kind.most
        bounds = f"a whole number from 1 to {kind.most:g}"
    else:
        fits = 0 < amount < kind.most
        bounds = f"a number above 0 and below {kind.most:g}"
    if fits:
        return Range(name, views, amount)
    raise InvalidOption(f"{kind.amount} of query {spec!r} must be {bounds}, not {given[1]!r}")


def ranges_of(run: Run) -> dict[str, Range]:
    """The ranges that a run recorded, by kind. What says nothing of a range, or of an unknown one, has none."""
    recording = run.info.extra.get("recording")
    specs = recording.get("queries") if isinstance(recording, Mapping) else None
    found = {}
    for spec in specs if isinstance(specs, list | tuple) else ():
        with suppress(InvalidOption):
            drawn = parse_range(str(spec))
            found[drawn.kind] = drawn
    return found
