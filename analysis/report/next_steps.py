"""What to do now, for each level of a verdict: which records to look at, which defence to try, what to collect to know more."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ...store.format.records import Experiment
from ..remedies import of_audit, of_own_loop
from ..statistics.roc import RESOLVED_FROM
from .data import Report
from .verdict import FEWEST_MEMBERS, Judgement, is_strong, rests_on_likeness

MANY_SHADOWS = 64
"""Shadow models from which LiRA gains little from more."""


@dataclass(frozen=True)
class Step:
    """Something to do now, and the command for it; empty where it is not one command. ``needs`` a lake: nothing without the command."""

    what: str
    command: str = ""
    needs: Literal["", "a lake"] = ""


def steps(report: Report) -> tuple[Step, ...]:
    """What to do now, the most telling first. Commands take the lake from --lake or LOSSLAKE_LAKE."""
    found = next_steps(
        report.judgement,
        report.experiment,
        report.target.run if report.target else None,
        len(report.shadows),
        with_classes=not report.exposed or any(record.label is not None for record in report.exposed),
        shell=report.shell,
        recipe=report.target.info.recipe if report.target else {},
        constant=bool(report.target and report.target.info.extra.get("says_the_same")),
    )
    if report.kept:
        return found
    # No command can ask a lake that is gone.
    keep = audit_call({"lake": "audits"}, shell=report.shell)
    return (
        *(replace(step, command="") for step in found if step.needs != "a lake"),
        Step(f"Keep the lake, so that commands, SQL and further shadow models go on from it: {keep}."),
    )


def audit_call(options: Mapping[str, object], *, shell: bool) -> str:
    """An audit with these options, as Python says it, or a shell."""
    if not shell:
        return f"losslake.audit(..., {', '.join(f'{name}={value!r}' for name, value in options.items())})"
    words = " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in options.items())
    return f"losslake audit ... {words}"


def next_steps(
    judged: Judgement,
    experiment: Experiment,
    target: str | None,
    shadows: int,
    *,
    with_classes: bool = True,
    shell: bool = False,
    recipe: Mapping[str, Any] | None = None,
    constant: bool = False,
) -> tuple[Step, ...]:
    """What to do now after this verdict on a target with so many shadow models.

    ``with_classes``: records have labels. ``shell``: of an audit, whose reader calls it from a shell. ``recipe`` is the target's.
    ``constant``: it says the same of all records.
    """
    trained = recipe or {}
    model = str(trained.get("model", ""))
    # A function or a class runs only where the user names it again.
    named = f" --model {shlex.quote(model)}" if ":" in model else ""
    of, own_loop = f"--experiment {shlex.quote(experiment.name)}", of_own_loop(experiment)
    private = f"--experiment {shlex.quote(experiment.name + '-private')}"
    on = of if target is None else f"{of} --target {shlex.quote(target)}"
    if target is None and own_loop:
        return (
            Step(
                f"Record a target with lake.start_run({experiment.name!r}, ...), to say something about one model."
            ),
        )
    if target is None:
        return (Step("Collect a target, to say something about one model.", f"losslake collect target {of}"),)
    more = max(MANY_SHADOWS, 2 * shadows)
    with_them = judged.attack is None or is_strong(judged.attack)
    stronger = f"to {more} in all: " + (
        "the attack grows stronger, and so does what it shows"
        if with_them
        else "attacks that compare with them find what this one cannot, and tell a leak from members that are easier by themselves"
    )
    audited = of_audit(experiment)
    collect = (
        Step(f"Have shadow models fitted, {stronger}: {audit_call({'shadows': more}, shell=shell)}.")
        if audited
        else Step(
            f"Train shadow models with your own loop, {stronger}: for run in lake.shadow_runs({experiment.name!r}, count={more})."
        )
        if own_loop
        else Step(
            f"Collect shadow models, {stronger}.", f"losslake collect shadows {of} --count {more}{named}"
        )
    )
    attack = judged.attack.scored.name if judged.attack else "lira"
    name = shlex.quote(attack)
    found = (
        Step(
            "Look at the records with the highest scores: repeated, mislabelled or sensitive ones first."
        ),  # which the report shows, in which this is said
        *(
            [
                Step(
                    "See which classes the attack names more often.",
                    f"losslake analyze by-group {name} {on} --by label",
                )
            ]
            if with_classes
            else []
        ),
    )
    beside = f"losslake report {on} --with {shlex.quote(experiment.name + '-private')} --out defended.html"
    defend = (
        Step(
            "Train the same records with a defence, and audit that model likewise in the same lake: "
            f"{audit_call({'lake': 'audits', 'experiment': experiment.name + '-private'}, shell=shell)}."
        )
        if audited
        else Step(
            "Train the same records with a defence (DP-SGD by Opacus, say) as another experiment, and shadow models likewise: "
            f"lake.start_run({experiment.name + '-private'!r}, ...)."
        )
        if own_loop
        else Step(
            "Fit a model that holds less of single records (shallower trees, fewer rounds, a stronger penalty: --set) to the same records, as another "
            f"experiment, {experiment.name}-private, and shadow models likewise."
        )
        if trained.get("estimator")
        else Step(
            "Train the same records with DP-SGD as another experiment, with the options of this target added, and shadow models likewise.",
            f"losslake collect target {private} --dp-epsilon 4",
        ),
        Step("Set the two beside each other.", beside, "a lake"),
    )
    if judged.level == "clear leak":
        return (*found, *defend)
    if judged.level == "signs" and rests_on_likeness(judged):
        drawn = Step(
            "Make sure that members and non-members are drawn alike: if shadow models that trained on neither find the members easier, this is no leak."
        )
        # A printed verdict has room for the first step alone: without shadow models these come before what they are to show.
        return (drawn, collect) if shadows else (collect, drawn)
    if judged.level == "signs":
        return (collect, *found[1:], *defend)
    gate = Step(
        "Keep watch: fail a pipeline where the next model is worse.",
        f"losslake analyze gate {on} --max-auc 0.6",
        "a lake",
    )
    if judged.level == "none found":
        return (collect, gate) if shadows < MANY_SHADOWS else (gate,)
    hold = Step(
        f"Hold out more records from the target, so that at least {FEWEST_MEMBERS} members and {10 * RESOLVED_FROM} non-members "
        "are scored: that many resolve a false-positive rate of 10%, ten times as many 1%."
    )
    same = Step(
        "Draw members and non-members from the same records by chance; judge by LiRA with in- and out-models, which leans least on how they differ.",
        collect.command,
    )
    alike = Step(
        "Train shadow models by the target's recipe, on as many records, and compare again.",
        f"losslake lake runs {of}",
    )
    check = Step(
        "Check that memberships and shadow models are this target's: same data, same recipe.",
        f"losslake lake runs {of}",
    )
    other = Step(
        "See that this is the model that was meant, with the records as it takes them: it says the same of all, and no attack finds anything in that."
    )
    finer = Step(
        "Ask the model for finer answers, probabilities in place of classes where it has them: records that it says the same of cannot be told apart."
    )
    unlike = Step(
        "See where the shadow models' answers differ from the model's: where they are the same, what it says does not depend on which of these "
        "records it was given."
    )
    by_rule = {
        "one score": (other,) if constant else (unlike,) if with_them else (collect, finer),
        "ties": (collect, finer),
        "members differ": (same,),
        "too few records": (hold,),
        "worse than guessing": (check,),
        "models unlike": (alike,),
    }
    return by_rule.get(judged.rule, (collect,))
