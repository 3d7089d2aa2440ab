"""The report's sections, in the order of the page: each is built when its data is there."""

from __future__ import annotations

from collections.abc import Callable

from ..data import Report
from ..parts import Section
from .attacks import agreement, attacks, known_losses
from .defences import defended
from .groups import groups
from .models import fleets, trained
from .more import bounds, further, notes, queries, questions
from .records import exposed, lt_iqr, memorization
from .training import evolution, traces

SECTIONS: tuple[Callable[[Report], Section | None], ...] = (
    attacks,
    exposed,
    lt_iqr,
    traces,
    evolution,
    memorization,
    groups,
    agreement,
    known_losses,
    fleets,
    bounds,
    defended,
    further,
    trained,
    notes,
    questions,
    queries,
)
"""A new section is one more function here, from a report to a section, or None where its data is not there."""


def build(report: Report) -> tuple[Section, ...]:
    """The sections whose data is there, in order."""
    return tuple(found for found in (builder(report) for builder in SECTIONS) if found is not None)
