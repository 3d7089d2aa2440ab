"""Asking an estimator, or a function, about a batch of records: its outputs as numbers, a row a record; or why there are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...store.errors import InvalidInput, LosslakeError
from ..callables import a

ROWS_AT_ONCE = 65_536
"""Records in a call of an estimator."""


def no_probabilities(name: str, *, more: str = "") -> InvalidInput:
    """The error for an estimator that tells distances from a boundary alone; ``more``: what else to do than calibrate it."""
    return InvalidInput(
        f"{name} has a decision_function and no predict_proba: a distance from a boundary is no log-odds, so no loss of a record "
        f"follows from it. Calibrate it (CalibratedClassifierCV){more}"
    )


def called(function: Callable[[Any], Any], x: Any, name: str, what: str) -> np.ndarray:
    """The outputs for a batch, a row a record. Raises InvalidInput where the model fails, or answers in another shape."""
    rows = len(x) if not hasattr(x, "shape") else int(x.shape[0])
    try:
        answer = function(x)
    except LosslakeError:
        raise
    except Exception as error:  # whatever a model of somebody's raises
        raise InvalidInput(
            f"{name} cannot be asked about the {what}: {type(error).__name__}: {_first_line(error)}{_of_a_frame(x)}{_of_one_number(x)}"
        ) from error
    if hasattr(answer, "detach"):
        answer = (answer if answer.is_complex() else answer.detach().float()).detach().cpu().numpy()
    if np.iscomplexobj(answer):
        raise InvalidInput(f"{name} gives complex numbers, which are neither probabilities nor logits")
    try:
        outputs = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"{name} gives {a(type(answer).__name__)} that is no array of numbers (batch, classes)"
        ) from error
    if outputs.ndim not in (1, 2) or len(outputs) != rows:
        raise InvalidInput(
            f"{name} gives outputs of shape {outputs.shape} for a batch of {rows} records; they must be (batch, classes), or one "
            f"number a record of two classes{_of_a_frame(x)}"
        )
    return outputs


def _first_line(error: Exception) -> str:
    """What went wrong; scikit-learn's errors go on with the records."""
    return next(iter(str(error).splitlines()), "").removesuffix(":")


def _of_one_number(x: Any) -> str:
    """What to do where a model fails on records of one number each that are no rows."""
    if getattr(x, "ndim", 0) != 1 or getattr(getattr(x, "dtype", None), "kind", "O") not in "biuf":
        return ""
    return f". X has one number a record, shape ({len(x)},); give rows of one feature, X.reshape(-1, 1)"


def _of_a_frame(x: Any) -> str:
    """What to do where a model fails on a frame of columns with text, which it may take one column of."""
    text = [name for name in getattr(x, "columns", ()) if np.asarray(x[name]).dtype.kind in "OUST"]
    if not text:
        return ""
    return f". It was given the columns {', '.join(map(str, list(x.columns)[:5]))}; one that it takes as it is, such as a text, is named by features={text[0]!r}"
