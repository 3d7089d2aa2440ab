"""How a model is asked about the records of a data set: model(x) of pairs (x, y), or a function of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import default_collate

from ...store.errors import InvalidInput
from ..losses.cross_entropy import as_logits
from ..random_streams import undisturbed_randomness
from ..ranks import inner_model
from .evaluation import (
    NOT_A_PAIR,
    SAMPLES_AT_ONCE,
    check_holds_all,
    check_labels,
    device_of,
    eval_mode,
    is_pair,
    ordered_records,
    records,
)
from .queries import AS_IT_IS, Query

Forward = Callable[[nn.Module, Any], tuple[Any, Any]]
"""forward(model, batch) -> (outputs, targets), the first two arguments of the criterion, a row a record each."""


@dataclass(frozen=True, eq=False)
class Call:
    """How to ask: ``forward`` of batches made by ``collate`` (records -> batch). Without forward it is model(x) of (x, y)."""

    forward: Forward | None = None
    collate: Callable[[list[Any]], Any] = default_collate


def ordered_answers(
    model: nn.Module, data: Any, ids: np.ndarray, samples: int, query: Query, call: Call
) -> Iterator[tuple[Any, torch.Tensor, np.ndarray]]:
    """(output (B, ...), target (B, ...), ids) of the samples ``ids``, batch by batch, in eval mode and without gradients.

    Raises InvalidInput where the records are not what the call takes, where outputs or targets have not a row a record, and
    where the first records, read and asked twice, get two answers: what draws at random does not say what a record has.
    """
    model = inner_model(model)
    if call.forward is None:
        for x, y, asked in ordered_records(model, data, ids, samples, query):
            try:
                output = model(x)
            except TypeError as error:
                raise InvalidInput(
                    f"{type(model).__name__} could not be called as model(x): {error}; {NOT_A_PAIR}"
                ) from error
            if not isinstance(output, torch.Tensor):
                raise InvalidInput(
                    f"{type(model).__name__} returns a {type(output).__name__}, not a tensor with a row a record; give start_run forward=, which picks "
                    "the outputs, as in lambda model, batch: (model(batch[0])['logits'], batch[1])"
                )
            yield output, y.to(x.device), asked
        return
    assert query == AS_IT_IS, "start_run has refused other views"
    check_holds_all(data, samples)
    device = device_of(model)
    with undisturbed_randomness(device), eval_mode(model):
        for start in range(0, len(ids), SAMPLES_AT_ONCE):
            asked = ids[start : start + SAMPLES_AT_ONCE]
            output, target = _asked(model, data, asked, call, device)
            if not start:
                _check_same(output, target, *_asked(model, data, asked, call, device))
            yield output, target, asked


def ordered_outputs(
    model: nn.Module,
    data: Any,
    ids: np.ndarray,
    labels: np.ndarray,
    query: Query,
    call: Call,
    scaled: Callable[[Any, torch.Tensor], Any] = lambda output, y: output,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(logits (B, C), labels (B,)) of the samples ``ids``, whose targets are class numbers; see `ordered_answers`.

    ``labels`` (N,) are those of the samples table, -1 where it has none. ``scaled(output, y)`` makes logits of what the model gives. Raises
    InvalidInput also where the targets are others, as they are when data is not in the order of sample ids.
    """
    for output, target, asked in ordered_answers(model, data, ids, len(labels), query, call):
        y = target.long().reshape(-1)
        check_labels(labels, y, asked)
        yield as_logits(scaled(output, y)), y


def _asked(
    model: nn.Module, data: Any, ids: np.ndarray, call: Call, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    assert call.forward is not None
    # One by one and not by a DataLoader, which would draw a seed from torch's global generator.
    batch = records(data, ids) if is_pair(data) else call.collate([data[int(i)] for i in ids])
    answer = call.forward(model, _moved(batch, device))
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise InvalidInput(f"forward returned a {type(answer).__name__}; it must return (outputs, targets)")
    for what, value in zip(("outputs", "targets"), answer, strict=True):
        rows = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        if not isinstance(value, torch.Tensor) or value.ndim == 0 or len(value) != len(ids):
            raise InvalidInput(
                f"the {what} that forward returned are {rows} for a batch of {len(ids)} records; they must be a tensor with a row a record"
            )
    output, target = answer
    return output, target.to(output.device)


def _check_same(
    output: torch.Tensor, target: torch.Tensor, output_again: torch.Tensor, target_again: torch.Tensor
) -> None:
    for what, one, other in (("targets", target, target_again), ("outputs", output, output_again)):
        if one.shape != other.shape or not torch.allclose(
            one.double(), other.double(), rtol=1e-3, atol=1e-4, equal_nan=True
        ):
            raise InvalidInput(
                f"the same records, asked twice, have other {what}: the data, its collation or forward draws at random, as "
                "augmentation, masking and mixup do; give data without it, and start_run collate= one without it"
            )


def _moved(batch: Any, device: torch.device) -> Any:
    """The batch on the device, in whatever it is nested."""
    if hasattr(batch, "to") and callable(batch.to):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: _moved(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_moved(value, device) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(_moved(value, device) for value in batch)
    return batch
