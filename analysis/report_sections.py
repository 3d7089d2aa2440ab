"""The report's sections, in the order of the page: each is built when its data is there."""

from __future__ import annotations

from collections.abc import Callable

from .report_data import Report
from .report_parts import Section
from .report_sections_attacks import agreement, attacks, known_losses
from .report_sections_defences import defended
from .report_sections_groups import groups
from .report_sections_models import fleets, trained
from .report_sections_more import bounds, further, notes, queries, questions
from .report_sections_records import exposed, lt_iqr, memorization
from .report_sections_training import evolution, traces

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
