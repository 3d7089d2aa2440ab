"""An estimator trained in passes over its members, by partial_fit: the epochs of its trace."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ...store.errors import InvalidInput, InvalidOption
from ..random_streams import order_of
from ..recipe import Recipe
from .fitting import check_clones, cloned, not_trained, with_states
from .stages import has_stages, last_step

_COUNTS = "counts the records that partial_fit is given, and a second pass would count each of them twice"


def check_passes(made: Any, recipe: Recipe) -> None:
    """Raises InvalidOption where a recipe with epochs is of an estimator, unfitted, that is not trained in so many passes."""
    passes, last = recipe.passes, last_step(made)
    if passes is None:
        return
    name, leave = type(last).__name__, "leave --epochs out"
    if has_stages(made):
        raise InvalidOption(
            f"{name} is fitted in one call, and the epochs of its trace are its own rounds or trees; {leave}, and say how many there are by a "
            "parameter of its, such as --set n_estimators=200"
        )
    if not hasattr(last, "partial_fit"):
        raise InvalidOption(
            f"{name} has no partial_fit with these parameters, so it is fitted in one call and not in passes (another fit by warm_start is no later "
            f"epoch of one training); {leave}"
        )
    if passes > 1:
        counting = [type(part).__name__ for part in (last, *_parts(last)) if _counts(part)]
        if counting:
            raise InvalidOption(f"{counting[0]} {_COUNTS}; give --epochs 1, or {leave}")
    for option in recipe.model_options:
        if option.rpartition("__")[2] == "max_iter":
            raise InvalidOption(
                f"{option} says how many passes fit makes, and partial_fit makes those of --epochs; give one of the two"
            )


def passes_of(made: Any, x: np.ndarray, y: np.ndarray, seed: int, passes: int) -> Iterator[Any]:
    """A clone of the estimator, after one pass over the records x (n, F) and their classes y (n,), after two, ...: the same object.

    A pass is one call of partial_fit with all of them, in an order of its own that is drawn from the seed as a network's
    batches are. Of a pipeline the last step is trained so; those before it are fitted once, on the same records, before the
    first pass. The random states of all are drawn from the seed, as for one fit.

    Raises InvalidInput where it cannot be trained, and where it counts records and would count them twice.
    """
    name = type(made).__name__
    check_clones(made)
    model = with_states(cloned(made), seed)
    with not_trained(name):
        last, given = _ready(model, x, y)
    order = order_of(seed)
    first = {"classes": np.unique(y)} if _takes_classes(last) else {}
    for number in range(1, passes + 1):
        if number == 2 and _counts(last):
            raise InvalidInput(f"{type(last).__name__} {_COUNTS}; give --epochs 1")
        rows = torch.randperm(len(y), generator=order).numpy()
        with not_trained(name):
            last.partial_fit(_rows_of(given, rows), y[rows], **(first if number == 1 else {}))
        yield model


def _ready(model: Any, x: Any, y: np.ndarray) -> tuple[Any, Any]:
    """The last step and what it is given; the steps before it are fitted, in their place in the pipeline."""
    from sklearn.pipeline import Pipeline

    if not isinstance(model, Pipeline):
        return model, x
    if len(model.steps) > 1:
        before = model[:-1]
        x = before.fit_transform(x, y)
        model.steps[:-1] = before.steps  # a pipeline with a memory fits copies
    if hasattr(x, "tocsr"):  # a sparse matrix of whatever layout; not of each are rows taken
        x = x.tocsr()
    return _ready(model.steps[-1][1], x if hasattr(x, "shape") else np.asarray(x), y)


def _rows_of(given: Any, rows: np.ndarray) -> Any:
    """Rows of an array, a sparse matrix or a frame of pandas or Polars, as the step before gave it."""
    return given.iloc[rows] if hasattr(given, "iloc") else given[rows]


def _takes_classes(last: Any) -> bool:
    """Whether partial_fit is told of all classes with the first records; who is not sees them all among these, as a pass has all members."""
    taken = inspect.signature(last.partial_fit).parameters.values()
    return any(each.name == "classes" or each.kind is inspect.Parameter.VAR_KEYWORD for each in taken)


def _parts(model: Any) -> list[Any]:
    return [value for value in model.get_params(deep=True).values() if hasattr(value, "fit")]


def _counts(model: Any) -> bool:
    """Whether partial_fit adds records up, rather than learns them again: naive Bayes, by its class or by what it keeps."""
    from sklearn.naive_bayes import BernoulliNB, CategoricalNB, ComplementNB, GaussianNB, MultinomialNB

    kinds = (BernoulliNB, CategoricalNB, ComplementNB, GaussianNB, MultinomialNB)
    return isinstance(model, kinds) or hasattr(model, "class_count_")
