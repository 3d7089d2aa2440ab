"""The formats of the lake's manifests, and how one of an older format says the same in today's.

1: every run has data files of its own.
2: a file may hold the rows of several runs (`manifest.Shared`), and an experiment's manifest may list samples that were
   forgotten (`forgotten.Forgetting`), as may a result's those that it was computed without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .schema import FORMAT

Step = Callable[[dict[str, Any]], dict[str, Any]]


def _to_2(content: dict[str, Any]) -> dict[str, Any]:
    return content


STEPS: tuple[Step, ...] = (_to_2,)
"""Step i turns a manifest's content of format i + 1 into that of format i + 2. It touches no file."""


def upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """A manifest's content as today's format has it."""
    for step in STEPS[content["format"] - 1 :]:
        content = step(content)
    return {**content, "format": FORMAT}
