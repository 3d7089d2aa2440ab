"""Whether a committed run is the one that would be trained now."""

from __future__ import annotations

from ...store.errors import AlreadyExists
from ...store.format.records import Run
from ..recipe import Recipe, to_json
from ..signals.ask import Recording
from ..train.plan import RunPlan


def check_same(run: Run, plan: RunPlan, recipe: Recipe, recording: Recording) -> None:
    """Raises AlreadyExists where a committed run was not made from this plan, recipe and recording."""
    info = run.info
    stored = {
        # What a recipe does not tell of had its default when the run was made.
        **(to_json(Recipe()) if info.recipe else {}),
        **info.recipe,
        "seed": info.seed,
        "role": info.role,
        "parent": info.parent,
        **_choices(info.extra),
    }
    wanted = {**to_json(recipe), "seed": plan.seed, "role": plan.role, "parent": plan.parent}
    wanted |= _choices({**plan.extra, "recording": recording.to_json()})
    for name, value in wanted.items():
        if stored.get(name) != value:
            raise AlreadyExists(
                f"run {run.run!r} of experiment {run.experiment!r} is in the lake, but was made with {name} = "
                f"{stored.get(name)!r}, not {value!r}; give the same options, or choose another run or experiment name"
            )


def _choices(extra: object) -> dict[str, object]:
    """What of a run's extra facts was chosen beforehand, rather than found; what it does not tell was the default."""
    chosen: dict[str, object] = {"recording.grad_norms": "none"}
    if isinstance(extra, dict):
        for key in ("recording", "design"):
            if isinstance(extra.get(key), dict):
                chosen |= {f"{key}.{name}": value for name, value in extra[key].items()}
    return chosen
