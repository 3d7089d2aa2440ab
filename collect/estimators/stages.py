"""What an estimator says after each stage of its fit, where it has stages: boosting rounds, the trees of a forest."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...store.errors import InvalidInput

_SAME = 1e-4
"""How far the last stage may lie from what the model says, which is float32 arithmetic in another order."""

Predict = Callable[[Any], Any]


def has_stages(model: Any) -> bool:
    """Whether `stages_of` has something to tell of such an estimator, fitted or not; of a pipeline, its last step."""
    last = last_step(model)
    return hasattr(last, "staged_predict_proba") or _rounds(last) is not None or _is_forest(last)


def stages_of(model: Any, x: np.ndarray, said: np.ndarray) -> Iterator[np.ndarray]:
    """Probabilities (n, C) of the records x after one stage, two, ... of a fitted estimator that `has_stages`.

    A boosting's stages are its rounds, a forest's its trees: after k of them it says what the first k say together. The last
    is ``said``, what the model says. Raises InvalidInput where it is not.
    """
    last, given = last_step(model), _before_last(model, x)
    stage = said[:0]
    for stage in _stages(last, given):
        yield np.asarray(stage, dtype=np.float64)
    if np.shape(stage) != said.shape or not np.allclose(stage, said, rtol=_SAME, atol=_SAME):
        raise InvalidInput(
            f"{type(last).__name__} says another thing after its last stage than when it is asked: its stages are no trace of its fit; "
            "leave traces out"
        )


def kind_of_stages(model: Any) -> str | None:
    """What the stages of such an estimator are, "trees" or "boosting rounds"; None where it has none."""
    if not has_stages(model):
        return None
    return "trees" if _is_forest(last_step(model)) else "boosting rounds"


def number_of_stages(model: Any) -> int:
    """How many stages the fit of a fitted estimator had; 1 where it has none."""
    last = last_step(model)
    if not has_stages(last):
        return 1
    if _rounds(last) is not None and not hasattr(last, "staged_predict_proba"):
        return _number_of_rounds(last)
    for name in ("n_iter_", "tree_count_"):  # scikit-learn's histograms, CatBoost
        if isinstance(getattr(last, name, None), (int, np.integer)):
            return int(getattr(last, name))
    return len(last.estimators_)


def _stages(last: Any, x: Any) -> Iterator[Any]:
    if hasattr(last, "staged_predict_proba"):
        yield from last.staged_predict_proba(x)
    elif _is_forest(last):
        total: Any = 0.0
        for number, tree in enumerate(last.estimators_, start=1):
            total = total + tree.predict_proba(x)
            yield total / number
    else:
        ask = _rounds(last)
        assert ask is not None
        for rounds in range(1, _number_of_rounds(last) + 1):
            yield ask(x, rounds)


def _rounds(last: Any) -> Callable[[Any, int], Any] | None:
    """Asks a model of XGBoost's or LightGBM's about its first rounds alone; None for others."""
    if not hasattr(last, "predict_proba"):
        return None
    taken = inspect.signature(last.predict_proba).parameters
    if "iteration_range" in taken:
        return lambda x, rounds: last.predict_proba(x, iteration_range=(0, rounds))
    if "num_iteration" in taken:
        return lambda x, rounds: last.predict_proba(x, num_iteration=rounds)
    return None


def _number_of_rounds(last: Any) -> int:
    if hasattr(last, "get_booster"):
        return int(last.get_booster().num_boosted_rounds())
    return int(last.booster_.current_iteration())


def _is_forest(last: Any) -> bool:
    from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

    return isinstance(last, (RandomForestClassifier, ExtraTreesClassifier))


def last_step(model: Any) -> Any:
    """The last step of a pipeline, and of one in it; what is no pipeline itself."""
    from sklearn.pipeline import Pipeline

    return last_step(model.steps[-1][1]) if isinstance(model, Pipeline) and model.steps else model


def _before_last(model: Any, x: Any) -> Any:
    from sklearn.pipeline import Pipeline

    if not isinstance(model, Pipeline) or not model.steps:
        return x
    inner = model[:-1].transform(x) if len(model.steps) > 1 else x
    return _before_last(model.steps[-1][1], inner)
