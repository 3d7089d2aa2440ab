"""What a criterion's result is made of: each record's own share of it, and the record's own loss, for gradient norms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...store.errors import InvalidInput
from .calling import called_again, option, row_of, tells_samples_apart, unreduced
from .criterion import LossOf
from .cross_entropy import IGNORED


def reduction_of(criterion: Callable[..., Any], options: Mapping[str, Any], stated: str | None) -> str:
    """How the criterion puts its values together: as ``stated``, or else by its argument or attribute; by default mean."""
    return str(stated or option(criterion, options, "reduction", "mean"))


def divisor(
    losses: LossOf,
    options: Mapping[str, Any],
    output: Any,
    target: Any,
    rows: int,
    reduction: str,
) -> torch.Tensor | float:
    """What a criterion's result divides each sample's loss by: one number, or one a sample (B,) on the device.

    For cross-entropy over class numbers a mean is over the sum of the class weights of those that it does not ignore, as PyTorch
    has it; where a sample has several targets, tokens or pixels, its loss is the mean over them. A sum adds up all values of a
    sample, whose mean is recorded. The host never waits for it.
    """
    if reduction == "none":
        return 1.0
    counted = _counted(losses, options, output, target)
    if counted is None:
        if reduction == "sum":
            return 1.0 / losses.outputs
        return float(rows) / (losses.outputs if reduction == "batchmean" else 1)
    weight = option(losses.criterion, options, "weight", None) if losses.kind == "classes" else None
    total = counted if weight is None else weight.to(target.device)[target.clamp(min=0)] * counted
    if target.numel() == rows:
        return 1.0 if reduction == "sum" else total.sum()
    return (1.0 if reduction == "sum" else total.sum()) / counted.flatten(1).sum(1)


def own_loss(
    losses: LossOf,
    options: Mapping[str, Any],
    args: Sequence[Any],
    result: torch.Tensor,
    row: int,
    reduction: str,
) -> torch.Tensor:
    """The loss of one record of a batch as the criterion has it, label smoothing and weights too, with its graph; ().

    ``args`` are what the criterion was called with, output and target first. It is called for this record alone.
    """
    output, target, *more = args
    rows = len(output)
    if result.numel() == rows and result.ndim:
        return result.flatten()[row]
    of_classes = losses.kind == "classes"
    cut = [row_of(value, row, rows) for value in (output, target)]
    cut += more if of_classes else [row_of(value, row, rows) for value in more]
    given = {name: value if of_classes else row_of(value, row, rows) for name, value in options.items()}
    counted = _counted(losses, options, *cut[:2])
    positions = None if counted is None or counted.numel() == 1 else counted.sum()
    if tells_samples_apart(losses.criterion):
        values = unreduced(losses.criterion, cut[0], cut[1], cut[2:], given)
        if positions is not None:
            return values.sum() / positions
        return values.mean() if reduction == "mean" else values.sum() / losses.outputs
    try:
        value = called_again(losses.criterion, cut, given, output.device)
    except (RuntimeError, ValueError, IndexError) as error:
        raise InvalidInput(
            f"the criterion cannot be called for one record alone ({error}), so gradient norms cannot be checked; give each record "
            "a loss of its own: run.watch_criterion of one with reduction='none'"
        ) from error
    return value.sum() / (positions if reduction == "sum" and positions is not None else 1)


def _counted(losses: LossOf, options: Mapping[str, Any], output: Any, target: Any) -> torch.Tensor | None:
    """Of class numbers, one a sample or several, which are not ignored; None where targets are something else."""
    if not isinstance(target, torch.Tensor) or target.is_floating_point() or target.dtype == torch.bool:
        return None
    several = (
        losses.kind == "other" and isinstance(output, torch.Tensor) and output.ndim > 2 and target.ndim > 1
    )
    if losses.kind != "classes" and not several:
        return None
    return target != int(option(losses.criterion, options, "ignore_index", IGNORED))
