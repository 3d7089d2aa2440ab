"""Calling a criterion a second time: for each sample's value, for one record, with its state left as it was."""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from ...store.errors import InvalidInput
from ..random_streams import undisturbed_randomness

WAY_OUT = (
    "give it an argument or attribute reduction that it obeys, or compute the samples' losses yourself: "
    "run.batch(ids), then run.record(losses)"
)


def option(criterion: Callable[..., Any], options: Mapping[str, Any], name: str, default: Any) -> Any:
    """An option of a criterion: from the call's ``options``, those of a functools.partial, its attribute, or a function's default."""
    kept = criterion.keywords if isinstance(criterion, functools.partial) else {}
    given = {**kept, **options}
    if name in given or hasattr(criterion, name):
        return given.get(name, getattr(criterion, name, default))
    function = inner_of(criterion)
    if isinstance(function, types.FunctionType):
        return _defaults(function).get(name, default)
    return default


def _defaults(function: types.FunctionType) -> Mapping[str, Any]:
    """The defaults of a function's parameters; read once, as each step asks for some."""
    found = _SEEN.get(function)
    if found is None:
        found = {
            name: parameter.default
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }
        _SEEN[function] = found
    return found


_SEEN: WeakKeyDictionary[types.FunctionType, Mapping[str, Any]] = WeakKeyDictionary()


def inner_of(criterion: Callable[..., Any]) -> Callable[..., Any]:
    """What a functools.partial calls; anything else as it is."""
    return criterion.func if isinstance(criterion, functools.partial) else criterion


def tells_samples_apart(criterion: Callable[..., Any]) -> bool:
    """Whether it has a reduction that can be none: an attribute of that name, or a parameter."""
    if isinstance(getattr(criterion, "reduction", None), str):
        return True
    try:
        return "reduction" in inspect.signature(inner_of(criterion)).parameters
    except (TypeError, ValueError):
        return False


def unreduced(
    criterion: Callable[..., Any],
    output: torch.Tensor,
    target: Any,
    more: Sequence[Any],
    options: Mapping[str, Any],
    *,
    rows: int | None = None,
) -> torch.Tensor:
    """Each sample's losses (B, ...): the criterion with reduction="none".

    It is called a second time, so its state and the random streams are left as they were. Raises InvalidInput where it
    has no reduction, or does not obey it.
    """
    if not tells_samples_apart(criterion):
        learnt, other = (isinstance(each, torch.Tensor) and each.requires_grad for each in (output, target))
        swapped = (
            ""
            if learnt or not other
            else "its first argument is to be the outputs, the second their targets; or "
        )
        raise InvalidInput(
            f"the losses of single samples cannot be had from {name_of(criterion)}; {swapped}{WAY_OUT}"
        )
    call, given = criterion, dict(options)
    if isinstance(getattr(criterion, "reduction", None), str):
        call = copy.copy(criterion)
        call.reduction = "none"  # type: ignore[attr-defined]
        given.pop("reduction", None)
    else:
        given["reduction"] = "none"
    losses = called_again(call, (output, target, *more), given, output.device)
    rows = len(output) if rows is None else rows
    if not isinstance(losses, torch.Tensor) or losses.ndim == 0 or len(losses) != rows:
        what = tuple(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
        raise InvalidInput(
            f"{name_of(criterion)} with reduction='none' gave {what} for {len(output)} samples; {WAY_OUT}"
        )
    return losses


def called_again(
    criterion: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any], device: torch.device
) -> Any:
    """What the criterion returns, its state and the random streams left as they were."""
    with undisturbed_randomness(device), state_kept(criterion):
        if isinstance(criterion, nn.Module):
            # A copy shares the buffers, which a criterion may change.
            buffers = {name: value.clone() for name, value in criterion.named_buffers()}
            return torch.func.functional_call(criterion, buffers, tuple(args), dict(options))
        return criterion(*args, **options)


@contextmanager
def state_kept(criterion: Callable[..., Any]) -> Iterator[None]:
    """In the block the attributes of the criterion, or of what it is a method of, are copies: counters, running means, lists.

    Parameters and buffers are not.
    """
    inner = inner_of(criterion)
    owner = getattr(inner, "__self__", inner)
    owners = list(owner.modules()) if isinstance(owner, nn.Module) else [owner]
    states = [vars(each) for each in owners if type(getattr(each, "__dict__", None)) is dict]
    originals = [dict(state) for state in states]
    for state in states:
        state.update({name: _copied(value) for name, value in state.items()})
    try:
        yield
    finally:
        # The same objects again, untouched, as the graph of this step may hold them.
        for state, original in zip(states, originals, strict=True):
            state.clear()
            state.update(original)


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value if isinstance(value, nn.Parameter) else value.detach().clone()
    return copy.copy(value) if isinstance(value, (list, dict, set, deque, np.ndarray)) else value


def row_of(value: Any, row: int, rows: int) -> Any:
    """Of a tensor with a row a sample that of one of them, as a batch of one; anything else as it is."""
    whole = isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == rows
    return value[row : row + 1] if whole else value


def shape_of(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__


def name_of(criterion: Callable[..., Any]) -> str:
    return getattr(inner_of(criterion), "__name__", type(criterion).__name__)
