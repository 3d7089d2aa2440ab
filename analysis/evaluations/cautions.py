"""What makes the numbers of attacks say something else than what the target learnt: sentences for the first screen."""

from __future__ import annotations

from ...store.errors import NotEnoughData
from ..source import Source
from .likeness import caution_on_recipes, cautions_on_likeness
from .shifted_members import caution_on_shift

SHIFTED = "Members and non-members differ"
UNLIKE = "Shadow models unlike the target"
OTHER_RECIPE = "Shadow models of another recipe"
CAUTIONS = (SHIFTED, UNLIKE, OTHER_RECIPE)
"""The names that a report finds these warnings by among its notes."""


def cautions(source: Source) -> tuple[tuple[str, str], ...]:
    """Name and sentence of each warning; none where the lake has not what a check needs (a target with signals, shadow models)."""
    try:
        found = [
            (SHIFTED, caution_on_shift(source)),
            (OTHER_RECIPE, caution_on_recipes(source)),
            *((UNLIKE, text) for text in cautions_on_likeness(source)),
        ]
    except NotEnoughData:
        return ()
    return tuple((name, text) for name, text in found if text is not None)
