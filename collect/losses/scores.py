"""Whether a criterion of the user's own takes its outputs for scores of classes, told by what it says of outputs made up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from .calling import called_again, name_of

_SHIFTS = 4
"""Other classes that are tried, and parts of the batch that are tried apart."""

_SPREAD = 0.25
"""How far, as a share of what the right class is worth, a wrong class may seem better than none."""

_LOWER = 1e-6
"""By which share a value must be lower to count."""


def is_cross_entropy(value: Any, logits: torch.Tensor, target: torch.Tensor, ignored: int) -> bool:
    """Whether ``value``, a criterion's result, is the mean or the sum of the cross-entropies of logits (B, C, ...) at class numbers
    (B, ...) that are not ``ignored``, or each of them. The host waits for the device."""
    found = value_of(value)
    if found is None or not _in_range(target, logits.shape[1], ignored):
        return False
    losses = functional.cross_entropy(
        logits.detach().float(),
        target.detach().to(logits.device).long(),
        ignore_index=ignored,
        reduction="none",
    )
    count = int((target != ignored).sum())
    wanted = (losses.mean(), losses.sum(), losses.sum() / max(count, 1))
    return any(abs(found - float(each)) <= 1e-4 * max(1e-2, abs(found)) for each in wanted)


def takes_logits(
    criterion: Callable[..., Any],
    output: torch.Tensor,
    target: torch.Tensor,
    more: Sequence[Any],
    options: Mapping[str, Any],
    classes: int,
    ignored: int,
) -> bool:
    """Whether a criterion of the user's own, called with probabilities and class numbers, has their cross-entropy as logits.

    Asked about probabilities made up, as those of a model that knows nothing yet are nearly the same as either.
    """
    made_up = _speaking_for(target.detach().to(output.device), output.shape[classes], classes, ignored)
    try:
        result = called_again(criterion, (made_up, target, *more), options, output.device)
    except Exception:  # whatever a criterion raises that finds a state or values it does not know
        return False
    return is_cross_entropy(result, made_up.movedim(classes, 1), target, ignored)


def _speaking_for(y: torch.Tensor, c: int, classes: int, ignored: int) -> torch.Tensor:
    """Outputs that speak for the classes y (B, ...): fit for logits, probabilities and cosines alike, and for their logarithms."""
    wanted = functional.one_hot(torch.where(y == ignored, 0, y).long(), c).float()
    return 0.9 * wanted.movedim(-1, classes) + 0.1 / c


def why_no_scores(
    criterion: Callable[..., Any],
    output: torch.Tensor,
    target: torch.Tensor,
    more: Sequence[Any],
    options: Mapping[str, Any],
    classes: int,
    ignored: int,
) -> str:
    """Why ``output``, whose dimension ``classes`` would be the classes, holds no scores of them for the criterion; "" where it does.

    ``target`` holds class numbers, output's shape without that dimension, or shares of the classes, in output's shape. The criterion is
    asked about outputs that speak for each record's class, for none, and for another: whatever loss of classes it is, smoothed,
    weighted, by margins or by priors, it is lowest of the first and highest of the last. A loss of embeddings that compares the records of a
    batch (contrastive, triplets) does not change where all classes are renamed; one with proxies or centres of its own
    has them elsewhere. It is called equally often whatever the batch, so that processes that gather in it stay together.
    """
    c = output.shape[classes]
    hard = target.shape != output.shape
    if hard:
        y = target.detach().to(output.device).long()
        if not _in_range(y, c, ignored):
            highest = int(y.masked_fill(y == ignored, 0).amax())
            return f"class numbers go to {highest}, and outputs have {c} columns"
        said = _speaking_for(y, c, classes, ignored)
        y = torch.where(y == ignored, 0, y)
    else:
        wanted = target.detach().to(output.device).float()
        said = 0.9 * wanted + 0.1 / c
        y = wanted.argmax(classes)
    parts = (y.unique(return_inverse=True)[1] % _SHIFTS).unsqueeze(classes)

    def value(outputs: torch.Tensor) -> float:
        result = called_again(criterion, (outputs, target, *more), options, output.device)
        found = value_of(result)
        return float("nan") if found is None else found

    shifts = sorted({1 + (c - 2) * at // (_SHIFTS - 1) for at in range(_SHIFTS)})
    # Of all records, and of those of some classes; with shares of classes no record has one class.
    places = [torch.ones_like(parts, dtype=torch.bool)] + [parts == at for at in range(_SHIFTS) if hard]
    flat = torch.full_like(said, 1 / c)
    try:
        right = value(said)
        undecided = [value(torch.where(place, flat, said)) for place in places]
        wrong = [
            [value(torch.where(place, said.roll(shift, classes), said)) for shift in shifts]
            for place in places
        ]
    except Exception as error:  # whatever a criterion raises that finds a state or values it does not know
        return f"called again with other outputs it raises {type(error).__name__}: {error}"
    step = _LOWER * max(1e-3, abs(right))
    for place, between, others in zip(places, undecided, wrong, strict=True):
        # Another class that hardly counts, by its prior, is nearly as none. With shares of two classes outputs of the next one
        # may be half right.
        least = between - _SPREAD * (between - right) if hard else right
        in_order = between - right > step and all(other - max(least, right) > step for other in others)
        if place.any() and not in_order:
            return "outputs that speak for each record's class do not have the lowest value"
    return ""


def why_no_logit(
    criterion: Callable[..., Any],
    output: torch.Tensor,
    target: torch.Tensor,
    more: Sequence[Any],
    options: Mapping[str, Any],
) -> str:
    """Why one number a record, ``output`` (B,) or (B, 1), is no logit of class 1 for the criterion; "" where it is.

    The right class's logit has the lower value than none, none than the wrong one's, and a higher one no higher value than
    a low one, as the squared distance to a number has. Shares of a class in ``target`` tell nothing.
    """
    t = target.detach().to(output.device).float().reshape(output.shape)
    if bool(((t < 0) | (t > 1)).any()):
        return "targets are not all from 0 to 1"
    if bool(((t != 0) & (t != 1)).any()):
        return ""
    sign = 2 * t - 1

    def value(outputs: torch.Tensor) -> float:
        found = value_of(called_again(criterion, (outputs, target, *more), options, output.device))
        return float("nan") if found is None else found

    try:
        wrong, none, right, more_so = (value(scale * sign) for scale in (-1.0, 0.0, 1.0, 2.0))
    except Exception as error:  # as above
        return f"called again with other outputs it raises {type(error).__name__}: {error}"
    step = _LOWER * max(1e-3, abs(right))
    if wrong - none > step and none - right > step and more_so <= right + step:
        return ""
    return "its value does not fall as the outputs of class 1 rise and those of class 0 fall"


def value_of(result: Any) -> float | None:
    """What a criterion returned as one number: the mean of a tensor, of the attribute or field loss, or of the first tensor in a tuple."""
    if isinstance(result, torch.Tensor):
        return float(result.detach().float().mean()) if result.numel() else None
    if isinstance(result, (int, float)):
        return float(result)
    inner = result.get("loss") if isinstance(result, Mapping) else getattr(result, "loss", None)
    if inner is not None:
        return value_of(inner)
    if isinstance(result, (tuple, list)) and result:
        return value_of(result[0])
    return None


def no_scores(criterion: Callable[..., Any], why: str) -> str:
    """The message, without a remedy."""
    return (
        f"{name_of(criterion)} does not take its first argument for scores of classes, as contrastive and metric losses do not ({why}), so that "
        "their cross-entropy is not what is trained on"
    )


def _in_range(target: torch.Tensor, classes: int, ignored: int) -> bool:
    y = target.detach()
    return bool((((y >= 0) & (y < classes)) | (y == ignored)).all())
