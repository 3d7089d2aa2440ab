"""What somebody told a command that means nothing for the model or the records at hand: refused, as it would be ignored in silence."""

from __future__ import annotations

from collections.abc import Mapping

from ...store.errors import InvalidOption
from ..data.training import TrainingData
from ..estimators.named import is_estimator
from ..recipe import OF_ESTIMATORS, RECIPE_FIELDS, Recipe

_OF_NETWORKS = (
    *(name for name in RECIPE_FIELDS if name not in (*OF_ESTIMATORS, "epochs")),
    "grad_norms",
    "features",
    "compiled",
    "stack",
    "checkpoint_every",
    "restart",
)


def refuse_meaningless(recipe: Recipe, told: Mapping[str, str], data: TrainingData) -> None:
    """Raises InvalidOption for an option that was ``told``, as `command_options.told` says, whatever its value is."""
    networks = [name for name in _OF_NETWORKS if name in told]
    if networks and is_estimator(recipe):
        raise InvalidOption(
            f"{_all(networks, told)} of networks, and {recipe.model} is an estimator; leave {_it(networks)} out, and give its own parameters "
            "with --set NAME=VALUE"
        )
    if "momentum" in told and recipe.optimizer != "sgd" and _chosen_for(told, "momentum", "optimizer"):
        raise InvalidOption(
            f"{told['momentum']} is of sgd, and the optimizer is {recipe.optimizer}, which has moments of its own; leave it out"
        )
    views = [
        name for name in ("flip", "crop") if name in told and (_flag(told, name) or getattr(recipe, name))
    ]
    if views and not data.pictures:
        raise InvalidOption(
            f"{_all(views, told)} of pictures, and these records are not given as pictures; leave {_it(views)} out"
        )


def _flag(told: Mapping[str, str], name: str) -> bool:
    return told.get(name, "").startswith("--")


def _chosen_for(told: Mapping[str, str], name: str, of: str) -> bool:
    """Whether a field was told beside, or on top of, what it is of: a flag for the one leaves a file's fields for the other behind."""
    return _flag(told, name) or not _flag(told, of)


def _all(names: list[str], told: Mapping[str, str]) -> str:
    return f"{' and '.join(told[name] for name in names)} {'is' if len(names) == 1 else 'are'}"


def _it(names: list[str]) -> str:
    return "it" if len(names) == 1 else "them"
