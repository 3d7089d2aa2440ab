"""What to do now, for each level of a verdict: which records to look at, which defence to try, what to collect to know more."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from .data import Report
from .verdict import FEWEST_MEMBERS, RESOLVED_FROM, Judgement, rests_on_likeness

MANY_SHADOWS = 64
"""Shadow models from which LiRA gains little from more."""


@dataclass(frozen=True)
class Step:
    """Something to do now, and the command for it; empty where it is not one command."""

    what: str
    command: str = ""


def steps(report: Report) -> tuple[Step, ...]:
    """What to do now, the most telling first. Commands take the lake from --lake or LOSSLAKE_LAKE."""
    return next_steps(
        report.judgement,
        report.experiment.name,
        report.target.run if report.target else None,
        len(report.shadows),
    )


def next_steps(judged: Judgement, experiment: str, target: str | None, shadows: int) -> tuple[Step, ...]:
    """What to do now after this verdict on a target with so many shadow models."""
    of = f"--experiment {shlex.quote(experiment)}"
    on = of if target is None else f"{of} --target {shlex.quote(target)}"
    if target is None:
        return (Step("Collect a target, to say something about one model.", f"losslake collect target {of}"),)
    more = max(MANY_SHADOWS, 2 * shadows)
    collect = Step(
        f"Collect shadow models, to {more} in all: the attack grows stronger, and so does what it shows.",
        f"losslake collect shadows {of} --count {more}",
    )
    attack = judged.attack.scored.name if judged.attack else "lira"
    name = shlex.quote(attack)
    found = (
        Step(
            "Look at the records with the highest scores: repeated, mislabelled or sensitive ones first.",
            f"losslake report {on} --out report.html",
        ),
        Step(
            "See which classes the attack names more often.",
            f"losslake analyze by-group {name} {on} --by label",
        ),
    )
    beside = f"losslake report {on} --with {shlex.quote(experiment + '-private')} --out defended.html"
    defend = (
        Step(
            "Train the same records with DP-SGD as another experiment, with the options of this target added, and shadow models likewise.",
            f"losslake collect target --experiment {shlex.quote(experiment + '-private')} --dp-epsilon 4",
        ),
        Step("Set the two beside each other.", beside),
    )
    if judged.level == "clear leak":
        return (*found, *defend)
    if judged.level == "signs" and rests_on_likeness(judged):
        alike = Step(
            "Make sure that members and non-members are drawn alike: if shadow models that trained on neither find the members easier, this is no leak."
        )
        return (alike, collect)
    if judged.level == "signs":
        return (collect, *found[1:], *defend)
    gate = Step(
        "Keep watch: fail a pipeline where the next model is worse.",
        f"losslake analyze gate {on} --max-auc 0.6",
    )
    if judged.level == "none found":
        return (collect, gate) if shadows < MANY_SHADOWS else (gate,)
    hold = Step(
        f"Hold out more records from the target, so that at least {FEWEST_MEMBERS} members and {10 * RESOLVED_FROM} non-members "
        "are scored: that many resolve a false-positive rate of 10%, ten times as many 1%."
    )
    check = Step(
        "Check that memberships and shadow models are this target's: same data, same recipe.",
        f"losslake lake runs {of}",
    )
    return {"too few records": (hold,), "worse than guessing": (check,)}.get(judged.rule, (collect,))
