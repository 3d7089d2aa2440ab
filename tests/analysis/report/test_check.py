"""The numbers of a report that ``--check`` compares: all that it holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from losslake.analysis.report.check import differing, numbers_of
from losslake.analysis.report.write import write_report

from .test_report import make

SAMPLES = 120


def leaves(told: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of each number and truth value in JSON."""
    if isinstance(told, dict | list):
        for step, inner in told.items() if isinstance(told, dict) else enumerate(told):
            yield from leaves(inner, (*path, step))
    elif isinstance(told, bool | int | float):
        yield path


NO_NUMBERS = {"schema", "audit", "cautions", "can_be_asked", "notes", "absent"}
FOLLOW = {"resolved", "strength", "interval"}


def test_whichever_number_is_changed_is_found(tmp_path: Path) -> None:
    """Each of them in turn, and some of the many that are alike, in a report that compares models."""
    lake = make(tmp_path / "lake", samples=SAMPLES)
    make(Path(lake.path), samples=SAMPLES, leak=0.5, experiment="before")
    write_report(lake, "e", tmp_path / "compared.json", compare=["before"])
    swept = 0
    held = json.loads((tmp_path / "compared.json").read_text("utf-8"))
    assert differing(numbers_of(held), held) == ()
    for record in held["most_exposed"]:
        del record["loss_trace"], record["gradient_norm_trace"]
    own = list(numbers_of(held))
    for at, place in enumerate(leaves(held)):
        of_many = place[0] in ("most_exposed", "findings", "other_scores", "runs")
        if place[0] in NO_NUMBERS or place[-1] in FOLLOW or (of_many and at % 19):
            continue
        inner = held
        for step in place[:-1]:
            inner = inner[step]
        was = inner[place[-1]]
        inner[place[-1]] = not was if isinstance(was, bool) else was + 1
        changed = list(numbers_of(held))
        inner[place[-1]] = was
        assert changed != own, place
        if swept % 20 == 0:
            assert differing(changed, held), place
        swept += 1
    assert swept > 200
    for name, value in (("change", None), ("tpr", None), ("newly_named", None)):
        model = held["over_time"]["models"][1]
        was, model[name] = model[name], value
        changed = list(numbers_of(held))
        model[name] = was
        assert differing(changed, held), name
    whole, held["over_time"] = held["over_time"], None
    changed = list(numbers_of(held))
    held["over_time"] = whole
    assert differing(changed, held)
