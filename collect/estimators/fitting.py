"""Fitting an estimator anew: a clone of it on other records, with random states of its own; and what its parameters are."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from ...store.errors import InvalidInput, InvalidOption, LosslakeError
from ..callables import a

Train = Callable[[Any, int], Any]
"""train(members, seed) -> a trained model; the members as they were given to the audit: (X, y), a frame or a data set."""

SEEDS = ("random_state", "random_seed")
"""What an estimator's seed is called; the second is CatBoost's."""

_LARGEST_SEED = 2**31 - 1


def trainer_of(model: Any, train: Train | None) -> Train:
    """What fits a shadow model: ``train``, or a clone of the estimator, each with a seed of its own.

    Raises InvalidOption for a model that cannot be cloned, and for one whose clone is fitted already.
    """
    if train is not None:
        if not callable(train):
            raise InvalidOption(
                f"train is {a(type(train).__name__)}; give a function (members, seed) -> model"
            )
        return train
    name = type(model).__name__
    if not (hasattr(model, "fit") and hasattr(model, "get_params")):
        raise InvalidOption(
            f"shadow models of {a(name)} take train=, a function (members, seed) -> a model trained on these members as this one was"
        )
    check_clones(model)
    return lambda members, seed: with_states(cloned(model), seed).fit(*members)


def cloned(model: Any) -> Any:
    """An unfitted estimator of the same parameters. Raises InvalidOption where there is none."""
    from sklearn.base import clone

    try:
        return clone(model)
    except (RuntimeError, TypeError, ValueError) as error:
        # CatBoost keeps copies of its parameters, which sklearn takes for others.
        with suppress(Exception):
            given = model.get_params(deep=False)
            parts = [value for value in model.get_params(deep=True).values() if hasattr(value, "fit")]
            made = type(model)(**given)
            if not parts and made.get_params(deep=False) == given:
                return made
        raise InvalidOption(
            f"{type(model).__name__} cannot be cloned, so shadow models take train=, a function (members, seed) -> a model trained on these members as "
            f"this one was: {error}"
        ) from error


def check_clones(model: Any) -> None:
    """Raises InvalidOption for an estimator, or one with a part, whose clone is fitted already."""
    from sklearn.base import clone

    its_clone = cloned(model)
    parts = [value for value in model.get_params(deep=True).values() if hasattr(value, "fit")]
    for part in (model, *parts):
        if isinstance(part, type):
            continue
        if (its_clone if part is model else clone(part, safe=False)) is part:
            raise InvalidOption(
                f"{type(part).__name__} stays fitted when it is cloned, so that shadow models would know the members; give train="
            )


def with_states(estimator: Any, seed: int) -> Any:
    """The estimator, with the random states of it and of its parts drawn from the seed."""
    stream = np.random.default_rng(seed)
    given = estimator.get_params(deep=True)
    parts = {"": estimator, **{f"{name}__": each for name, each in given.items() if hasattr(each, "fit")}}
    for prefix, part in parts.items():  # CatBoost's parameters are those that somebody gave
        if not any(prefix + name in given for name in SEEDS) and SEEDS[0] in _taken_by(part):
            given[prefix + SEEDS[0]] = None
    states = {
        name: int(stream.integers(_LARGEST_SEED))
        for name, value in sorted(given.items())
        if name.rpartition("__")[2] in SEEDS and (value is None or isinstance(value, (int, np.integer)))
    }
    return estimator.set_params(**states)


def _taken_by(part: Any) -> Container[str]:
    """The parameters that the class of a part is made with."""
    try:
        return () if isinstance(part, type) else inspect.signature(type(part)).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return ()


def trained(train: Train, given: Any, seed: int, name: str) -> Any:
    """The shadow model. Raises InvalidInput where the training fails, or returns nothing."""
    with not_trained(name):
        model = train(given, seed)
    if model is None:
        raise InvalidInput(f"train returned nothing for {name}; it must return the trained model")
    return model


@contextmanager
def not_trained(name: str) -> Iterator[None]:
    """Whatever a training of somebody's raises in the block is an InvalidInput that names the model."""
    try:
        yield
    except LosslakeError:
        raise
    except Exception as error:
        raise InvalidInput(f"{name} could not be trained: {type(error).__name__}: {error}") from error


def parameters(model: Any, *, parts: bool = True) -> dict[str, Any]:
    """The parameters of an estimator, apart from its seeds; empty for what has none. ``parts``: with the classes of its own estimators."""
    if not hasattr(model, "get_params") or isinstance(model, type):
        return {}
    found: dict[str, Any] = {}
    for name, value in model.get_params(deep=True).items():
        if name.rpartition("__")[2] in SEEDS:
            continue
        if hasattr(value, "get_params"):
            if parts:
                found[name] = class_of(value)
            continue
        plain = value is None or isinstance(value, (bool, int, float, str))
        found[name] = value if plain and json.dumps(value) else type(value).__name__
    return found


def class_of(value: Any) -> str:
    """The module and name of a value's class."""
    return f"{type(value).__module__}.{type(value).__qualname__}"
