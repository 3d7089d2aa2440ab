"""Whether the shadow models are like the target: by recipe, by test accuracy, and by phi of records that neither trained on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...store.format.records import Run
from ..statistics.special import stdtrit

Floats = npt.NDArray[np.float64]

LEVEL = 0.01
"""How often a target like its shadow models is called unlike, over both statistics of phi together."""

FEWEST = 3
"""Shadow models from which their own spread is known well enough to compare the target with it."""

APART = 0.05
"""A difference in test accuracy that is told where fewer shadow models than that have one."""


_CALIBRATED = (
    "; what compares with shadow models (lira, rmia, attack-r, attack-s, calibrated, kde, shadow-nn) is calibrated on other models "
    "than the target"
)


def other_fields(target: Run, shadows: Sequence[Run]) -> dict[str, tuple[str, str, int]]:
    """Fields of the recipe that differ: the target's value, the commonest other one, in how many of the shadow runs."""
    found: dict[str, tuple[str, str, int]] = {}
    for name in sorted({key for run in (target, *shadows) for key in run.info.recipe}):
        mine = _written(target.info.recipe.get(name))
        theirs = Counter(_written(run.info.recipe.get(name)) for run in shadows)
        del theirs[mine]
        if theirs:
            found[name] = (mine, theirs.most_common(1)[0][0], theirs.total())
    return found


def _written(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def standing_out(values: Floats) -> float:
    """How far the first of ``values`` lies from the others, in standard errors of a prediction: Student's t with n - 2 degrees."""
    others = values[1:]
    spread = float(others.std(ddof=1)) * np.sqrt(1 + 1 / len(others))
    apart = float(values[0] - others.mean())
    return apart / spread if spread > 0 else (0.0 if apart == 0 else float(np.copysign(np.inf, apart)))


def beyond(errors: float, models: int, looks: int) -> bool:
    """Whether that is more than chance: two-sided at `LEVEL` over ``looks`` statistics, ``models`` the target is compared with."""
    return abs(errors) > float(stdtrit(models - 1, 1 - LEVEL / (2 * looks)))


def z_of_non_members(phi: npt.NDArray[np.floating], member: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each run's z among records that neither it nor the first run was trained on; (runs,) each.

    ``phi`` and ``member`` are (runs, samples). z is phi less its mean over the other runs without the record, in units of the pooled
    standard deviation of those runs. Each run is treated as each other, on records of one kind, so that runs of one kind are exchangeable.
    """
    runs, samples = phi.shape
    count, total, squares = np.zeros(samples), np.zeros(samples), np.zeros(samples)

    def answers(run: int) -> tuple[npt.NDArray[np.bool_], Floats]:
        out = ~member[run] & np.isfinite(phi[run])
        return out, np.where(out, phi[run], 0.0).astype(np.float64)

    for run in range(runs):
        out, values = answers(run)
        count += out
        total += values
        squares += values * values
    means, spreads = np.full(runs, np.nan), np.full(runs, np.nan)
    of_first, _ = answers(0)
    for run in range(runs):
        out, values = answers(run)
        n = count - out
        some = of_first & out & (n > 1)
        looked_at = int(some.sum())
        if looked_at < 2:
            continue
        n = np.where(some, n, 2.0)
        rest = total - values
        others = rest / n
        within = np.where(some, squares - values * values - rest * others, 0.0)
        scale = np.sqrt(max(float(within.sum()) / float((np.where(some, n, 1.0) - 1).sum()), 0.0))
        if scale > 0:
            z = np.where(some, (values - others) / (scale * np.sqrt(1 + 1 / n)), 0.0)
            means[run] = z.sum() / looked_at
            away = np.where(some, z - means[run], 0.0)
            spreads[run] = np.sqrt((away * away).sum() / looked_at)
    return means, spreads


def cautions_on_likeness(
    target: Run, shadows: Sequence[Run], means: Floats, spreads: Floats
) -> tuple[str, ...]:
    """Warnings for readers where the shadow models are unlike the target; what is compared with them is then off.

    ``means`` and ``spreads`` are those of `z_of_non_members`.
    """
    told = [*_accuracy(target, shadows), *_scale(means, spreads)]
    return tuple(f"{one}{_CALIBRATED}" for one in told)


def caution_on_recipes(target: Run, shadows: Sequence[Run]) -> str | None:
    """A warning for readers where shadow models were trained by another recipe than the target."""
    fields = other_fields(target, shadows)
    if not fields:
        return None
    shown = [
        f"{name} {theirs} for {mine} (in {many})" for name, (mine, theirs, many) in list(fields.items())[:6]
    ]
    more = f" and {len(fields) - 6} more fields" if len(fields) > 6 else ""
    return f"Of {len(shadows)} shadow models: {', '.join(shown)}{more}{_CALIBRATED}"


def _accuracy(target: Run, shadows: Sequence[Run]) -> list[str]:
    mine = target.info.test_accuracy
    theirs = [run.info.test_accuracy for run in shadows if run.info.test_accuracy is not None]
    if mine is None or not theirs:
        return []
    if len(theirs) < FEWEST:
        mean = sum(theirs) / len(theirs)
        few = f"Test accuracy {mine:.1%} against {mean:.1%} of the shadow models, too few to know how far that is chance"
        return [few] if abs(mine - mean) > APART else []
    if len(set(theirs)) == 1:
        return []
    values = np.array([mine, *theirs], dtype=np.float64)
    if not beyond(standing_out(values), len(theirs), 1):
        return []
    others = values[1:]
    return [
        f"Test accuracy {mine:.1%} against {others.mean():.1%} of the shadow models, whose standard deviation is {others.std(ddof=1):.1%}"
    ]


def _scale(means: Floats, spreads: Floats) -> list[str]:
    known = np.isfinite(means) & (spreads > 0)
    if not known[0] or known.sum() <= FEWEST:
        return []
    means, spreads = means[known], spreads[known]
    models = len(means) - 1
    apart = (standing_out(means), standing_out(np.log(spreads)))
    if not any(beyond(errors, models, 2) for errors in apart):
        return []
    return [
        f"The target's z-scores on its non-members have mean {means[0]:+.2f} and standard deviation {spreads[0]:.2f}, where those of "
        f"its shadow models have {means[1:].mean():+.2f} and {spreads[1:].mean():.2f} (0 and 1 of a model like the others)"
    ]
