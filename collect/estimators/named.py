"""The estimator that a recipe names, and by which libraries it is one: a class as of scikit-learn, or a function that makes one."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...store.errors import InvalidInput, InvalidOption
from ..callables import a, is_callable_spec, load_callable, unknown_choice
from ..recipe import Recipe
from .asking import no_probabilities
from .fitting import SEEDS
from .passes import check_passes

_DISTRIBUTIONS = {"sklearn": "scikit-learn"}


def with_estimator(recipe: Recipe) -> Recipe:
    """The recipe with the libraries of the estimator that its model names; as it is where the model is a network.

    An estimator is a class with fit, or a function that does not take input_shape and classes, as those of networks do; of a function that
    takes any keywords, what it returns for model_options alone decides. It is made once, so that what is wrong with it is told before any run. Raises InvalidOption, InvalidInput; InvalidOption too where
    the recipe, of a run, names other versions than those here.
    """
    if not _names_estimator(recipe):
        _refuse_libraries(recipe, None)
        return recipe
    made = make_estimator(recipe)
    check_passes(made, recipe)
    libraries = _libraries(made)
    _refuse_libraries(recipe, libraries)
    return replace(recipe, estimator=libraries)


def is_estimator(recipe: Recipe) -> bool:
    """Whether the recipe's model is an estimator, as `with_estimator` finds it. Raises InvalidOption, InvalidInput where it cannot be found."""
    return recipe.estimator is not None or _names_estimator(recipe)


def make_estimator(recipe: Recipe) -> Any:
    """The estimator, unfitted, with the recipe's model_options. Raises InvalidOption, InvalidInput for what is none."""
    spec, options = recipe.model, dict(recipe.model_options)
    found = load_callable(spec)
    if isinstance(found, type):
        made = _of_class(found, spec, options)
    else:
        made = _of_function(found, spec, options)
    if not _is_one(made):
        raise InvalidInput(
            f"{spec} makes {a(type(made).__name__)}, which is no estimator: it needs fit and get_params, as scikit-learn's have. A function that "
            "makes a network takes input_shape and classes"
        )
    for option in options:
        if option.rpartition("__")[2] in SEEDS:
            raise InvalidOption(
                f"{option} of {spec} is drawn from each run's own seed; leave it out, and give --seed for all of them"
            )
    name = type(made).__name__
    if not hasattr(made, "predict_proba"):
        if hasattr(made, "decision_function"):
            raise no_probabilities(
                name,
                more=", in a function of yours that --model names"
                + (
                    ", or take a loss of probabilities: --set loss=log_loss"
                    if name == "SGDClassifier"
                    else ""
                ),
            )
        raise InvalidInput(
            f"{spec} makes {a(name)} without predict_proba, so no loss of a record follows from what it says; take a classifier that gives "
            "probabilities"
        )
    return made


def _names_estimator(recipe: Recipe) -> bool:
    if not is_callable_spec(recipe.model):
        return False
    found = load_callable(recipe.model)
    if isinstance(found, type):
        return _is_one(found)
    try:
        taken = inspect.signature(found).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    if {"input_shape", "classes"} & set(taken):
        return False
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values()):
        return True
    try:  # it takes whatever it is given: what it makes of an estimator's arguments says which of the two it is
        return _is_one(found(**recipe.model_options))
    except Exception:  # as where it looks for input_shape among them
        return False


def _is_one(made: Any) -> bool:
    return hasattr(made, "fit") and hasattr(made, "get_params")


def _of_class(found: type, spec: str, options: Mapping[str, Any]) -> Any:
    try:
        made = found()
    except TypeError as error:
        raise InvalidOption(
            f"{spec} cannot be made without arguments: {error}; name a function of yours that makes it"
        ) from error
    taken = inspect.signature(found).parameters.values()
    known = {
        **made.get_params(deep=True),
        **{each.name: None for each in taken},
    }  # CatBoost tells what was given alone
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken):  # XGBoost's takes any
        for name in options:
            if name not in known:
                named = [each for each in known if not each.endswith(SEEDS)]
                raise unknown_choice(f"parameter of {spec}", name, named)
    return made.set_params(**options)


def _of_function(found: Any, spec: str, options: Mapping[str, Any]) -> Any:
    try:
        inspect.signature(found).bind(**options)
    except TypeError as error:
        raise InvalidOption(
            f"{spec} cannot be called with {', '.join(options) or 'no arguments'}: {error}. A function that makes a network takes input_shape "
            "and classes, one that makes an estimator what --set gives"
        ) from error
    try:
        return found(**options)
    except Exception as error:  # whatever a function of somebody's raises
        raise InvalidInput(f"{spec} failed: {type(error).__name__}: {error}") from error


def _refuse_libraries(recipe: Recipe, here: str | None) -> None:
    if recipe.estimator is None or recipe.estimator == here:
        return
    if here is None:
        raise InvalidOption(
            f"recipe field estimator is {recipe.estimator!r}, but model {recipe.model} is no estimator; leave it out"
        )
    raise InvalidOption(
        f"the recipe is of {recipe.estimator}, and here is {here}: other versions may fit other models; install those, or collect the target "
        "anew under another experiment name"
    )


def _libraries(made: Any) -> str:
    """The packages of an estimator and of its parts with their versions: "scikit-learn 1.7.2, xgboost 3.0.4"."""
    parts = [made, *(value for value in made.get_params(deep=True).values() if hasattr(value, "fit"))]
    found = [_library(part if isinstance(part, type) else type(part)) for part in parts]
    return ", ".join(sorted({each for each in found if each is not None})) or "no library with a version"


def _library(kind: type) -> str | None:
    """The package of a class, or of the nearest one that it is made from, that tells its version."""
    for each in kind.__mro__:
        package = each.__module__.partition(".")[0]
        version = getattr(sys.modules.get(package), "__version__", None)
        if isinstance(version, str):
            return f"{_DISTRIBUTIONS.get(package, package)} {version}"
    return None
