"""What a finished model says of records: an estimator's probabilities, a module's or a function's outputs; or why it cannot be asked."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...store.errors import InvalidInput, InvalidOption, LosslakeError
from ..callables import a
from ..estimators.asking import ROWS_AT_ONCE, called, no_probabilities
from ..estimators.logits import Output
from .records import Records
from .rows import plain, rows_of, size_of

_WAITS = (1.0, 5.0, 15.0)
"""Seconds after which a function that failed is asked again: it may ask a server, and one failure among thousands must not cost them all."""


@dataclass(frozen=True, eq=False)
class Way:
    """How a model is asked.

    ask      records -> (outputs (n,) or (n, C), labels (n,) where the records alone tell them)
    output   what it gives, None: its outputs show it
    classes  the labels it knows, in the order of its outputs; None: class numbers
    columns  of a frame that it was fitted on; None where it does not say
    """

    name: str
    ask: Callable[[Records], tuple[Any, np.ndarray | None]]
    output: Output | None
    classes: list[Any] | None = None
    columns: list[str] | None = None


@dataclass(frozen=True, eq=False)
class Said:
    """What a model says of all records of an audit, in the order of sample ids.

    values    what an import takes: logits (N, C), or of texts loss (N,) and what there is of their tokens
    compared  (N, C), what two models that are the same would have the same
    losses    () -> (N,), the loss of each record
    """

    name: str
    values: Mapping[str, np.ndarray]
    compared: np.ndarray
    losses: Callable[[], np.ndarray]


def is_module(model: Any) -> bool:
    """Whether it is a module of torch, which is asked by whole records."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def way_of(
    model: Any,
    *,
    output: Output | None = None,
    classes: Sequence[Any] | None = None,
    batch_size: int = 512,
    forward: Callable[..., Any] | None = None,
    collate: Callable[..., Any] | None = None,
) -> Way:
    """How to ask this model. Raises InvalidInput for one from which no loss of a record follows, with the reason."""
    name = getattr(model, "__name__", type(model).__name__)
    if isinstance(model, type):
        raise InvalidInput(f"the model is the class {name}; give a trained model, {name}(...).fit(X, y)")
    known = None if classes is None else list(classes)
    if is_module(model):
        ask = _module(model, forward, collate)
        return Way(name, ask, output, known)
    if forward is not None or collate is not None:
        raise InvalidOption(
            "forward and collate say how a torch module is called; leave them out for other models"
        )
    own = _classes(model, name)
    if own is not None and known is not None and known != own:
        raise InvalidOption(f"classes are {known[:5]}, but {name} knows {own[:5]}; leave classes= out")
    columns = _columns(model)
    if hasattr(model, "predict_proba") and output != "logits":
        return Way(name, _estimator(model.predict_proba, name), "probabilities", own or known, columns)
    if hasattr(model, "decision_function"):
        if output != "logits":
            raise no_probabilities(
                name, more=", or, to take the distances for logits all the same, say output='logits'"
            )
        return Way(name, _estimator(model.decision_function, name), "logits", own or known, columns)
    if callable(model):
        return Way(name, _function(model, name, batch_size), output, own or known, columns)
    if hasattr(model, "predict"):
        why = (
            "it is a regressor, whose numbers give no loss of a label"
            if _is_regressor(model)
            else "of labels without probabilities no loss follows, and losslake has no attack on labels alone"
        )
        raise InvalidInput(
            f"{name} has predict alone: {why}. Where what it predicts are probabilities or logits, as a Booster's are, wrap it: "
            "lambda x: model.predict(x)"
        )
    raise InvalidInput(
        f"the model is {a(name)}; give a torch module, anything with predict_proba, or a function from a batch to logits or probabilities"
    )


def _is_regressor(model: Any) -> bool:
    base = sys.modules.get("sklearn.base")
    try:
        return base is not None and bool(base.is_regressor(model))
    except Exception:  # of what says nothing of its kind
        return False


def _classes(model: Any, name: str) -> list[Any] | None:
    if _attribute(model, "multilabel_") is True:
        raise InvalidInput(
            f"{name} says of several labels which a record has, each for itself; audit one of them by a function of its probabilities"
        )
    found = _attribute(model, "classes_")
    if found is None:
        return None
    if isinstance(found, list) and found and hasattr(found[0], "__len__") and not isinstance(found[0], str):
        raise InvalidInput(
            f"{name} predicts {len(found)} outputs a record; audit one of them by a function of its probabilities"
        )
    return list(found.tolist() if hasattr(found, "tolist") else found)


def _columns(model: Any) -> list[str] | None:
    found = _attribute(model, "feature_names_in_")
    return None if found is None else list(found)


def _attribute(model: Any, name: str) -> Any:
    """An attribute of what was fitted; None where it has none, or says so by an error of its own."""
    try:
        return getattr(model, name, None)
    except Exception:  # properties of XGBoost's and others' raise what they like
        return None


def _estimator(predict: Callable[[Any], Any], name: str) -> Callable[[Records], tuple[Any, None]]:
    def ask(records: Records) -> tuple[Any, None]:
        x = plain(records.inputs)
        parts = [
            called(
                predict,
                rows_of(x, np.arange(start, min(start + ROWS_AT_ONCE, size_of(x)))),
                name,
                records.what,
            )
            for start in range(0, size_of(x), ROWS_AT_ONCE)
        ]
        return np.concatenate(parts), None

    return ask


def _function(
    model: Callable[[Any], Any], name: str, batch_size: int
) -> Callable[[Records], tuple[Any, None]]:
    answered = 0

    def patient(x: Any) -> Any:
        for wait in (*_WAITS, None):
            try:
                return model(x)
            except LosslakeError:
                raise
            except Exception as error:  # whatever somebody's function raises
                # What never answered, and has a connection, will not answer later either.
                if wait is None or not (answered or isinstance(error, OSError)):
                    raise
                time.sleep(wait)
        raise AssertionError("not reached")

    def ask(records: Records) -> tuple[Any, None]:
        nonlocal answered
        x, parts = records.inputs, []
        for start in range(0, size_of(x), batch_size):
            batch = rows_of(x, np.arange(start, min(start + batch_size, size_of(x))))
            try:
                parts.append(called(patient, batch, name, records.what))
            except InvalidInput as error:
                if not answered:
                    raise
                raise InvalidInput(
                    f"{error} (at records {start:,} to {start + size_of(batch) - 1:,} of them, after {answered:,} answers about records). None of these "
                    "is kept, since the next call may ask another model: let the function keep its own, as joblib.Memory('answers').cache(function) "
                    "does, and the next call asks for what is missing"
                ) from error
            answered += size_of(batch)
        return np.concatenate(parts), None

    return ask


def _module(
    model: Any, forward: Callable[..., Any] | None, collate: Callable[..., Any] | None
) -> Callable[[Records], tuple[Any, np.ndarray | None]]:
    import torch
    from torch.utils.data import default_collate

    from ..signals.calls import Call, ordered_answers
    from ..signals.queries import AS_IT_IS

    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    def ask(records: Records) -> tuple[Any, np.ndarray | None]:
        data = records.inputs
        if records.labels is not None:
            data = (_tensor(data, records.what), torch.zeros(len(records), dtype=torch.int64))
        call = Call(forward, collate or records.collate or default_collate)

        def answers(given: Any, ids: np.ndarray) -> Any:
            return ordered_answers(model, given, ids, len(records), AS_IT_IS, call)

        if forward is not None:  # which says itself what it takes
            data = _cast(data, kind, whole_numbers=False) if records.labels is not None else data
        else:
            data = _taken(data, kind, lambda given: list(answers(given, np.arange(min(2, len(records))))))
        outputs, labels = [], []
        try:
            for output, target, _ in answers(data, np.arange(len(records))):
                if (
                    not isinstance(output, torch.Tensor)
                    or output.ndim not in (1, 2)
                    or len(output) != len(target)
                ):
                    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
                    raise InvalidInput(
                        f"{type(model).__name__} gives {shape} for a batch of {len(target)} records; logits must be (batch, classes): "
                        "say with forward= how to get at them"
                    )
                outputs.append(output.detach().float().cpu().numpy())
                labels.append(target.detach().cpu().numpy())
        except InvalidInput as error:
            told = (
                str(error).replace("of data", f"of {records.what}").replace("start_run forward=", "forward=")
            )
            raise InvalidInput(told) from error
        except (RuntimeError, ValueError, IndexError) as error:
            raise InvalidInput(
                f"{type(model).__name__} cannot be asked about the {records.what}: {type(error).__name__}: {error}; give them in the shape and of "
                "the type that it was trained on, or say with forward= how it is called"
            ) from error
        return np.concatenate(outputs), np.concatenate(labels) if records.labels is None else None

    return ask


def _taken(data: Any, kind: Any, tried: Callable[[Any], Any]) -> Any:
    """The data in numbers that a module takes, whose parameters are of ``kind``, as ``tried`` of a few records tells.

    Floating-point numbers in that precision, whole ones as they are, as an Embedding takes them; else all in that precision; else as they
    were given, where nothing is taken too, so that this is what is told.
    """
    for whole_numbers in (False, True):
        made = _cast(data, kind, whole_numbers=whole_numbers)
        try:
            tried(made)
        except (LosslakeError, RuntimeError, ValueError, IndexError, TypeError):
            continue
        return made
    return data


def _cast(data: Any, kind: Any, *, whole_numbers: bool) -> Any:
    """The inputs of (x, y), or of a data set's records, in this precision; ``whole_numbers`` and truth values too."""
    import torch

    def of(x: Any) -> Any:
        if isinstance(x, np.ndarray) and x.dtype.kind in "biuf":
            x = torch.from_numpy(np.ascontiguousarray(x))
        fits = isinstance(x, torch.Tensor) and (
            x.is_floating_point() or (whole_numbers and not x.is_complex())
        )
        return x.to(kind) if fits else x

    if isinstance(data, tuple):
        return of(data[0]), *data[1:]

    class Cast(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, i: int) -> Any:
            record = data[i]
            return (of(record[0]), *record[1:]) if isinstance(record, (tuple, list)) and record else record

    return Cast()


def _tensor(x: Any, what: str) -> Any:
    """Rows of features as a tensor."""
    import torch

    if hasattr(x, "toarray"):
        x = x.toarray()
    if isinstance(x, torch.Tensor):
        return x
    array = x.to_numpy() if hasattr(x, "to_numpy") else np.asarray(x)
    if array.dtype.kind not in "biuf":
        raise InvalidInput(
            f"{what} hold {array.dtype} values, which no tensor can; encode them as the model was trained on"
        )
    if hasattr(x, "columns"):  # of a frame whole numbers are features as well
        array = array.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(array))
