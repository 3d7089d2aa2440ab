"""What the report says to do is a command that runs: models that the user has to name are named, and defences are of such models."""

from __future__ import annotations

from typing import Any

import pytest
from losslake.analysis.evaluations.likeness import SHIFTED
from losslake.analysis.report.next_steps import next_steps
from losslake.analysis.report.verdict import Judgement, Level
from losslake.store.format.records import Experiment

MINE = {"model": "mine:network", "lr": 0.1}
FOREST = {"model": "sklearn.ensemble:RandomForestClassifier", "estimator": "scikit-learn 1.7.2"}


def commands(level: Level, recipe: dict[str, Any]) -> str:
    experiment = Experiment("e", samples=100, created="", digest="", dataset={"spec": "digits"}, files=())
    found = next_steps(Judgement(level, "more than guessing"), experiment, "target", 8, recipe=recipe)
    return "\n".join(f"{step.what} {step.command}" for step in found)


@pytest.mark.parametrize("recipe", [MINE, FOREST])
def test_more_shadow_models_are_of_the_model_named(recipe: dict[str, Any]) -> None:
    assert (
        f"losslake collect shadows --experiment e --count 64 --model {recipe['model']}\n"
        in commands("none found", recipe) + "\n"
    )


def test_without_shadow_models_they_come_before_what_they_are_to_show() -> None:
    experiment = Experiment("e", samples=100, created="", digest="", dataset={"spec": "digits"}, files=())
    shifted = Judgement("signs", "more than guessing", warned=frozenset({SHIFTED}))
    first = {shadows: next_steps(shifted, experiment, "target", shadows)[0].what for shadows in (0, 8)}
    assert first[0].startswith("Collect shadow models, to 64 in all")
    assert first[8].startswith("Make sure that members and non-members are drawn alike")


def test_of_a_named_architecture_nothing_is_said_again() -> None:
    assert "--count 64\n" in commands("none found", {"model": "mlp"})


def test_an_estimator_is_not_trained_by_dp_sgd() -> None:
    assert "--dp-epsilon 4" in commands("clear leak", MINE)
    said = commands("clear leak", FOREST)
    assert "DP-SGD" not in said
    assert "--dp-epsilon" not in said
    assert "shallower trees" in said
