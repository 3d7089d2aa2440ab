"""The fleet of leave-one-out models: the target's own training set, without one record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np

from ...store.errors import InvalidOption, NotEnoughData
from ...store.format.records import Run
from ...store.lake import Lake
from ..data.training import TrainingData
from ..recipe import Recipe
from ..train.run import RunPlan
from .design import derived, lay_down
from .running import Running
from .setup import choose_target, members_of, open_fleet, recipe_of_run

_LEAVE_OUT = 16
_FLEET = "leave-out"


def collect_leave_one_out(
    lake: Lake,
    experiment: str,
    *,
    samples: Sequence[int],
    repeats: int,
    target: str | None = None,
    recipe: Recipe | None = None,
    **running: Unpack[Running],
) -> list[Run]:
    """Train ``repeats`` models leave-out-ID-0, ... on the target's members without sample ID, for each of ``samples``.

    What Attack L compares with (Ye et al. 2022, section 4.5). A sample that is no member leaves nothing out: its models
    train on the target's members as they are. Every model has a seed of its own, another than the target's, so that
    either way the target's loss stands among those of models that differ from it in the seed and did not train on the
    sample. ``extra`` keeps the sample_id. Models for a second target are called leave-out-TARGET-ID-K.

    ``recipe`` is the target's by default, ``running`` as in `Running`. What is committed is not trained again.

    Raises InvalidOption for samples that are not in the audit pool and for no samples or repeats, NotEnoughData for a
    target with fewer than two members, and what `collect_shadows` raises.
    """
    if repeats < 1:
        raise InvalidOption(f"repeats is {repeats}; it must be 1 or more")
    about = choose_target(lake, experiment, target)
    fleet = open_fleet(lake, experiment, recipe or recipe_of_run(about), running, about=[about])
    data = fleet.prepared.data
    chosen = _checked(samples, data, experiment)
    members = members_of(lake, about)
    if members.sum() < 2:
        raise NotEnoughData(
            f"run {about.run!r} of experiment {experiment!r} has {members.sum()} members; leaving one out takes two or more"
        )
    block = lay_down(lake, experiment, _FLEET, 1, seed=fleet.seed, options={}, target=about.run)[0]
    prefix = _FLEET if block["first"] == 0 else f"{_FLEET}-{about.run}"
    left_out = [(sample, repeat) for sample in chosen for repeat in range(repeats)]
    plans = [
        RunPlan(
            f"{prefix}-{sample}-{repeat}",
            "leave_one_out",
            derived(block["seed"], _LEAVE_OUT, sample, repeat),
            about.run,
            {"design": block, "sample_id": sample},
        )
        for sample, repeat in left_out
    ]

    def without(number: int) -> np.ndarray:
        rest = members.copy()
        rest[left_out[number][0]] = False
        return rest

    return fleet.train(plans, without)


def _checked(samples: Sequence[int], data: TrainingData, experiment: str) -> list[int]:
    """The samples, each once, in their order."""
    chosen = list(dict.fromkeys(samples))
    if not chosen:
        raise InvalidOption("no sample given; name some with --sample or --samples-from")
    for sample in chosen:
        if not 0 <= sample < len(data):
            raise InvalidOption(
                f"there is no sample {sample} in experiment {experiment!r} (0 to {len(data) - 1})"
            )
        if data.forgotten[sample]:
            raise InvalidOption(f"sample {sample} of experiment {experiment!r} was forgotten; name others")
        if data.population[sample]:
            raise InvalidOption(
                f"sample {sample} of experiment {experiment!r} belongs to the population, which no run trains on and no "
                "attack is about; name audit samples"
            )
    return chosen
