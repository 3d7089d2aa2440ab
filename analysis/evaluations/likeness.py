"""Whether members are like non-members, and shadow models like the target: what attacks take for granted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...store.errors import NotEnoughData
from ...store.format.records import Run
from ..scores import Finding
from ..source import Source
from ..statistics.metric import Metric
from .shifted_members import Shift, caution_on_shift, compares_with_itself, shifted_members
from .some_answers import some_answers
from .unlike_shadows import Floats, caution_on_recipes, cautions_on_likeness, z_of_non_members

SHIFTED = "Members and non-members differ"
UNLIKE = "Shadow models unlike the target"
OTHER_RECIPE = "Shadow models of another recipe"
CAUTIONS = (SHIFTED, UNLIKE, OTHER_RECIPE)
"""The names that a report finds these warnings by among its notes."""


def likeness(source: Source, scores: tuple[str, ...]) -> Finding:
    """Whether members are like non-members and shadow models like the target; if not, which scores stand.

    auc_untrained is the AUC against the target's membership of the records' mean loss under shadow models trained on neither,
    .5 where members were drawn by chance. z_mean and z_sd are mean and standard deviation, over records that neither it nor the
    target was trained on, of a model's phi less the others' mean, in units of the others' pooled standard deviation: about 0 and
    1 for a model like the others. Of large pools 10,000 records or so are looked at. test_accuracy is each model's, where it is known.

    Needs: a target with signals, and shadow runs; z-scores take two shadow models or more.
    """
    looked = _look(source)
    found: list[Metric] = []
    if looked.shift is not None:
        area = looked.shift.auc
        found.append(Metric("auc_untrained", area.value, area.ci_low, area.ci_high, area.n))
    runs = (looked.target, *looked.shadows)
    for run, mean, spread in zip(runs, looked.means.tolist(), looked.spreads.tolist(), strict=True):
        about = {"run": run.run, "role": run.info.role}
        if math.isfinite(mean):
            found += [Metric("z_mean", mean, parameters=about), Metric("z_sd", spread, parameters=about)]
        if run.info.test_accuracy is not None:
            found.append(Metric("test_accuracy", run.info.test_accuracy, parameters=about))
    told = _told(looked)
    notes = [f"{name}: {text}" for name, text in told]
    if SHIFTED in dict(told):
        notes += [
            f"{score} takes {'less of ' if compares_with_itself(score) else ''}such a difference between members and non-members for a leak"
            for score in dict.fromkeys(scores)
        ]
    return Finding(tuple(found), tuple(notes))


def cautions(source: Source) -> tuple[tuple[str, str], ...]:
    """Name and sentence of each warning; none where the lake has not what a check needs (a target with signals, shadow models)."""
    try:
        return _told(_look(source))
    except NotEnoughData:
        return ()


@dataclass(frozen=True, eq=False)
class _Looked:
    target: Run
    shadows: Sequence[Run]
    shift: Shift | None
    means: Floats
    spreads: Floats


def _look(source: Source) -> _Looked:
    target, shadows = source.need_target_table("signals"), source.need_shadows()
    answers = some_answers(source, target, shadows)
    of_models = z_of_non_members(answers.phi, answers.member)
    return _Looked(target, shadows, shifted_members(answers), *of_models)


def _told(looked: _Looked) -> tuple[tuple[str, str], ...]:
    of_models = (looked.target, looked.shadows, looked.means, looked.spreads)
    found = [
        (SHIFTED, caution_on_shift(looked.shift)),
        (OTHER_RECIPE, caution_on_recipes(looked.target, looked.shadows)),
        *((UNLIKE, text) for text in cautions_on_likeness(*of_models)),
    ]
    return tuple((name, text) for name, text in found if text is not None)
