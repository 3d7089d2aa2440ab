"""Running a model over data in eval mode, leaving the model and every random stream as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import default_collate

from ...store.errors import InvalidInput, InvalidOption
from ..random_streams import undisturbed_randomness
from ..ranks import inner_model
from .queries import FOR_PICTURES, Query, noisy, view

SAMPLES_AT_ONCE = 512
"""Records in a batch of an evaluation."""

_READ_TWICE = 8
"""Records that show whether a data set draws at random."""

NOT_A_PAIR = "give start_run forward=, a function (model, batch) -> (outputs, targets) that calls the model as the loop does"


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in eval mode and without gradients; afterwards each module has the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer lies; the CPU for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def ordered_inputs(
    model: nn.Module,
    data: Any,
    ids: np.ndarray,
    labels: np.ndarray,
    query: Query,
    *,
    size: int = SAMPLES_AT_ONCE,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(inputs (B, ...), labels (B,)) of the samples ``ids``, as `ordered_records` gives them.

    ``labels`` (N,) are those of the samples table, -1 where it has none. Raises InvalidInput also where ``data`` has
    other labels, as it has when it is not in the order of sample ids.
    """
    for x, y, asked in ordered_records(model, data, ids, len(labels), query, size=size):
        y = y.long().reshape(-1)
        check_labels(labels, y, asked)
        yield x, y.to(x.device)


def ordered_records(
    model: nn.Module, data: Any, ids: np.ndarray, samples: int, query: Query, *, size: int = SAMPLES_AT_ONCE
) -> Iterator[tuple[torch.Tensor, torch.Tensor, np.ndarray]]:
    """(inputs (B, ...) on the model's device, targets as they are, ids) of the samples ``ids``, batch by batch.

    For a caller that runs the model on them: meanwhile it is in eval mode, gradients are off, and no random stream goes
    on. Shifts and noise are of the records as ``data`` gives them, normalised or not. Raises InvalidInput where
    ``data`` does not hold all ``samples``, InvalidOption for a query that does not fit its records.
    """
    check_holds_all(data, samples)
    model = inner_model(model)
    device = device_of(model)
    with undisturbed_randomness(device), eval_mode(model):
        for start in range(0, len(ids), size):
            asked = ids[start : start + size]
            x, y = pair_of(data, asked)
            if not start and not is_pair(data):
                _check_same(x, pair_of(data, asked[:_READ_TWICE])[0])
            if query.kind in FOR_PICTURES and x.ndim != 4:
                raise InvalidOption(
                    f"query {query.kind!r} needs pictures (batch, C, H, W), not {tuple(x.shape)}"
                )
            if query.kind == "noise" and not torch.is_floating_point(x):
                raise InvalidOption(f"query 'noise' needs records of floating-point numbers, not {x.dtype}")
            own = torch.from_numpy(asked).to(device)
            yield noisy(view(x.to(device), query, own), query, own), torch.as_tensor(y), asked


def _check_same(x: torch.Tensor, again: torch.Tensor) -> None:
    """Raises InvalidInput where the first records, read ``again``, are others."""
    first = x[: len(again)]
    if first.shape != again.shape or not bool(
        ((first == again) | ((first != first) & (again != again))).all()
    ):
        raise InvalidInput(
            "the same records of data, read twice, have other inputs: it draws at random, as augmentation does, and what a model says of them "
            "is of that draw; give data without it"
        )


def check_holds_all(data: Any, samples: int) -> None:
    """Raises InvalidInput for data of another length than the experiment, and for what has none.

    Data is a pair of tensors or arrays (x, y), or a map-style data set of such pairs.
    """
    if is_pair(data):
        length = len(data[0])
        if length != len(data[1]):
            raise InvalidInput(f"x has {length} records, y has {len(data[1])}")
    elif hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        length = len(data)
    else:
        raise InvalidInput(
            f"data is a {type(data).__name__}; give a map-style data set of (x, y), or tensors x, y, in the order of sample ids"
        )
    if length != samples:
        raise InvalidInput(
            f"data holds {length} records, the experiment {samples} samples; it must hold all of "
            "them, in the order of sample ids"
        )


def check_labels(labels: np.ndarray, y: torch.Tensor, ids: np.ndarray) -> None:
    """Raises InvalidInput where the labels ``y`` (B,) of the samples ``ids`` are not those in the samples table."""
    known = torch.from_numpy(labels[ids])
    differs = (known >= 0) & (known != y.cpu())
    if differs.any():
        at = int(differs.int().argmax())
        raise InvalidInput(
            f"record {ids[at]} of data has another label than sample {ids[at]}: {y[at].item()}, not {known[at].item()}; data must be in the order "
            "of sample ids, and its labels numbered as the samples' (names are numbered in sorted order)"
        )


def records(data: Any, ids: np.ndarray | list[int]) -> tuple[Any, Any]:
    """(x, y) of the records ``ids`` of ``data``, as they are."""
    if is_pair(data):
        at = torch.as_tensor(np.asarray(ids), dtype=torch.int64)
        x, y = (torch.as_tensor(each)[at.to(torch.as_tensor(each).device)] for each in data)
    else:
        # One by one and not by a DataLoader, which would draw a seed from torch's global generator.
        x, y = default_collate([tuple(data[int(i)])[:2] for i in ids])
    return x, y


def pair_of(data: Any, ids: np.ndarray) -> tuple[torch.Tensor, Any]:
    """`records`, where they are pairs of tensors; InvalidInput says what they are otherwise."""
    if isinstance(data, (torch.Tensor, np.ndarray)):
        raise InvalidInput(
            f"data is one {type(data).__name__} {tuple(data.shape)}, without targets; give (x, y), or a data set of these"
        )
    first = None if is_pair(data) else data[int(ids[0])]
    if isinstance(first, (Mapping, str, bytes)) or (not hasattr(first, "__len__") and first is not None):
        raise InvalidInput(f"record {ids[0]} of data is a {type(first).__name__}, no (x, y); {NOT_A_PAIR}")
    try:
        x, y = records(data, ids)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"the records of data make no batch (x, y): {error}; {NOT_A_PAIR}") from error
    if not isinstance(x, torch.Tensor) or not isinstance(y, torch.Tensor):
        wrong = x if not isinstance(x, torch.Tensor) else y
        raise InvalidInput(
            f"{'the inputs' if wrong is x else 'the targets'} of data are a {type(wrong).__name__}, no tensor; {NOT_A_PAIR}"
        )
    return x, y


def is_pair(data: Any) -> bool:
    """Whether it is two tensors or arrays (x, y), and no data set."""
    return (
        isinstance(data, (tuple, list))
        and len(data) == 2
        and all(isinstance(each, (torch.Tensor, np.ndarray)) for each in data)
    )
