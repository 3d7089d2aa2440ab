"""What kind of loss a criterion is, and the loss of each sample under one that PyTorch defines by its mean."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from ...store.errors import InvalidInput
from ..random_streams import undisturbed_randomness

Kind = Literal["classes", "binary", "probabilities", "regression", "other"]
"""classes: cross-entropy of logits, or NLL of log-probabilities, which are logits too. binary: of lone logits;
probabilities: of their sigmoids. regression: of numbers, which have no class. other: one of the user's own."""

_KINDS: tuple[tuple[Kind, tuple[type[nn.Module], ...], tuple[Callable[..., Any], ...]], ...] = (
    ("classes", (nn.CrossEntropyLoss, nn.NLLLoss), (functional.cross_entropy, functional.nll_loss)),
    ("binary", (nn.BCEWithLogitsLoss,), (functional.binary_cross_entropy_with_logits,)),
    ("probabilities", (nn.BCELoss,), (functional.binary_cross_entropy,)),
    (
        "regression",
        (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss),
        (functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss),
    ),
)

WAY_OUT = (
    "give it an argument or attribute reduction that it obeys, or compute the samples' losses yourself: "
    "run.batch(ids), then run.record(losses)"
)


def kind_of(criterion: Callable[..., Any]) -> Kind:
    """The kind of a module, a function, or a functools.partial of one."""
    function = inner_function(criterion)
    for kind, modules, functions in _KINDS:
        if isinstance(criterion, modules) or any(function is each for each in functions):
            return kind
    return "other"


def inner_function(criterion: Callable[..., Any]) -> Callable[..., Any]:
    """What a functools.partial calls; anything else as it is."""
    return criterion.func if isinstance(criterion, functools.partial) else criterion


def option(criterion: Callable[..., Any], options: Mapping[str, Any], name: str, default: Any) -> Any:
    """An option of a criterion: from the call's ``options``, those of a functools.partial, or its attribute."""
    kept = criterion.keywords if isinstance(criterion, functools.partial) else {}
    return {**kept, **options}.get(name, getattr(criterion, name, default))


def tells_samples_apart(criterion: Callable[..., Any]) -> bool:
    """Whether it has a reduction that can be none: an attribute of that name, or a parameter."""
    if isinstance(getattr(criterion, "reduction", None), str):
        return True
    try:
        return "reduction" in inspect.signature(inner_function(criterion)).parameters
    except (TypeError, ValueError):
        return False


def unreduced(
    criterion: Callable[..., Any],
    output: torch.Tensor,
    target: Any,
    more: Sequence[Any],
    options: Mapping[str, Any],
) -> torch.Tensor:
    """Each sample's loss (B,) float32: the criterion with reduction="none", the mean over what a sample has several of.

    It is called a second time, so its state and the random streams are left as they were. Raises InvalidInput where it
    has no reduction, or does not obey it.
    """
    if not tells_samples_apart(criterion):
        raise InvalidInput(f"the losses of single samples cannot be had from {_name(criterion)}; {WAY_OUT}")
    call, given = criterion, dict(options)
    if isinstance(getattr(criterion, "reduction", None), str):
        call = copy.copy(criterion)
        call.reduction = "none"  # type: ignore[attr-defined]
        given.pop("reduction", None)
    else:
        given["reduction"] = "none"
    with undisturbed_randomness(output.device):
        if isinstance(call, nn.Module):
            # A copy shares the buffers, which a criterion may change.
            buffers = {name: value.clone() for name, value in call.named_buffers()}
            losses = torch.func.functional_call(call, buffers, (output, target, *more), given)
        else:
            losses = call(output, target, *more, **given)
    if not isinstance(losses, torch.Tensor) or losses.ndim == 0 or len(losses) != len(output):
        what = tuple(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
        raise InvalidInput(
            f"{_name(criterion)} with reduction='none' gave {what} for {len(output)} samples; {WAY_OUT}"
        )
    return losses.detach().float().flatten(1).mean(1) if losses.ndim > 1 else losses.detach().float()


def _name(criterion: Callable[..., Any]) -> str:
    return getattr(inner_function(criterion), "__name__", type(criterion).__name__)
