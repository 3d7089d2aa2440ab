"""Whether a criterion of the user's own takes its outputs for scores of classes, told by what it says of outputs made up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from .calling import called_again, name_of
from .cross_entropy import IGNORED

_SHIFTS = 4
"""Other classes that are tried, and parts of the batch that are tried apart."""

_SPREAD = 0.25
"""How far, as a share of what the right class is worth, a wrong class may seem better than none."""

_LOWER = 1e-6
"""By which share a value must be lower to count."""

_FEW = 4
"""Columns of which the order of values shows little: with 2 about half of all proxies have it."""

_OFF, _HALF_OFF = 1e-3, 3e-2
"""By which share a value may differ from what it should be the same as, by rounding; where it is of half precision."""

_OUT_OF_PROPORTION = 1e-4
"""How far two rows of values of length 1 may lie apart by rounding."""

_LEVELS = (0.1, 0.3, 0.6, 0.9)
"""Values that a column takes."""


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


@dataclass(frozen=True, eq=False)
class CriterionCall:
    """A call of a criterion that can be made again with other outputs.

    output   its first argument, whose dimension ``classes`` would be the classes
    target   class numbers, output's shape without that dimension, but where they are ``ignored``; or shares of the classes, in
             output's shape
    more, options  what came after these
    """

    criterion: Callable[..., Any]
    output: torch.Tensor
    target: torch.Tensor
    more: Sequence[Any] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    classes: int = 1
    ignored: int = IGNORED

    @property
    def hard(self) -> bool:
        """Whether the target holds class numbers."""
        return self.target.shape != self.output.shape

    @property
    def columns(self) -> int:
        return self.output.shape[self.classes]

    def again(self, outputs: torch.Tensor, target: torch.Tensor | None = None) -> Any:
        """What the criterion returns for other outputs, and another target; its state stays as it is."""
        given = (outputs, self.target if target is None else target, *self.more)
        return called_again(self.criterion, given, self.options, self.output.device)

    def value(self, outputs: torch.Tensor, target: torch.Tensor | None = None) -> float:
        """`again` as one number; NaN where it is none."""
        found = value_of(self.again(outputs, target))
        return float("nan") if found is None else found

    def is_cross_entropy(self, result: Any, outputs: torch.Tensor | None = None) -> bool:
        """Whether ``result`` is the cross-entropy of the outputs as logits at the class numbers."""
        logits = self.output if outputs is None else outputs
        return self.hard and is_cross_entropy(
            result, logits.movedim(self.classes, 1), self.target, self.ignored
        )

    def made_up(self) -> torch.Tensor:
        """Outputs that speak for the class numbers: fit for logits, probabilities and cosines alike, and for their logarithms."""
        y = self.target.detach().to(self.output.device)
        wanted = functional.one_hot(torch.where(y == self.ignored, 0, y).long(), self.columns).float()
        return 0.9 * wanted.movedim(-1, self.classes) + 0.1 / self.columns


def takes_logits(call: CriterionCall) -> bool:
    """Whether a criterion of the user's own, called with probabilities and class numbers, has their cross-entropy as logits.

    Asked about probabilities made up, as those of a model that knows nothing yet are nearly the same as either.
    """
    made_up = call.made_up()
    try:
        result = call.again(made_up)
    except Exception:  # whatever a criterion raises that finds a state or values it does not know
        return False
    return call.is_cross_entropy(result, made_up)


def why_no_scores(call: CriterionCall) -> str:
    """Why the outputs of a call hold no scores of classes for the criterion; "" where they do.

    The criterion is asked about outputs that speak for each record's class, for none, and for another: whatever loss of classes it is,
    smoothed, weighted, by margins or by priors, it is lowest of the first and highest of the last. A loss of embeddings that compares the
    records of a batch (contrastive, triplets) does not change where all classes are renamed; one with proxies or centres of its own
    has them elsewhere. Of few columns that may be so by chance: there a loss of classes also has to compare the columns of a record with one
    another, or to treat them alike; see `_compares_columns`, `_treats_columns_alike`. It is called equally often whatever the batch, so
    that processes that gather in it stay together.
    """
    c, hard = call.columns, call.hard
    if hard:
        y = call.target.detach().to(call.output.device).long()
        if not _in_range(y, c, call.ignored):
            highest = int(y.masked_fill(y == call.ignored, 0).amax())
            return f"class numbers go to {highest}, and outputs have {c} columns"
        said = call.made_up()
        y = torch.where(y == call.ignored, 0, y)
    else:
        wanted = call.target.detach().to(call.output.device).float()
        said = 0.9 * wanted + 0.1 / c
        y = wanted.argmax(call.classes)
    parts = (y.unique(return_inverse=True)[1] % _SHIFTS).unsqueeze(call.classes)
    shifts = sorted({1 + (c - 2) * at // (_SHIFTS - 1) for at in range(_SHIFTS)})
    # Of all records, and of those of some classes; with shares of classes no record has one class.
    places = [torch.ones_like(parts, dtype=torch.bool)] + [parts == at for at in range(_SHIFTS) if hard]
    flat = torch.full_like(said, 1 / c)
    try:
        right = call.value(said)
        undecided = [call.value(torch.where(place, flat, said)) for place in places]
        wrong = [
            [call.value(torch.where(place, said.roll(shift, call.classes), said)) for shift in shifts]
            for place in places
        ]
        few = hard and c <= _FEW
        compared = few and _compares_columns(call, said, right, worth=undecided[0] - right)
        alike = few and _treats_columns_alike(call)
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
        if compared:
            break  # by all records: of a few classes weights and smoothing may make another the better one
    if few and not (compared or alike):
        return f"of {c} columns it neither compares one with another nor treats them alike, as proxies and centres do"
    return ""


def _compares_columns(call: CriterionCall, said: torch.Tensor, right: float, *, worth: float) -> bool:
    """Whether a criterion depends on nothing but how much a record's columns differ, as softmax and margins do.

    What is added to all columns of a record, and to each record something else, changes nothing then. Proxies and centres, and what
    compares records, see it. ``right`` is the value of ``said``, by ``worth`` lower than that of outputs that speak for no class.
    """
    y = call.target.detach().to(call.output.device).long().unsqueeze(call.classes)
    place = torch.arange(y.numel(), device=y.device).reshape(y.shape)
    off, half = 0.0, False
    for added in (torch.ones_like(y), y % 2, place % 2, place % 3):
        result = _or_none(call, said + added)
        found = value_of(result)
        half |= isinstance(result, torch.Tensor) and result.dtype in (torch.bfloat16, torch.float16)
        off = max(off, math.inf if found is None or math.isnan(found) else abs(found - right))
    return off <= (_HALF_OFF if half else _OFF) * abs(worth)


def _treats_columns_alike(call: CriterionCall) -> bool:
    """Whether a column means to its class what each other one means to its own, and to other classes likewise, but for weights.

    The loss of records of one class where their own column moves, and where another does, is in proportion to that of the next class's.
    """
    flat = torch.full_like(call.made_up(), 1 / call.columns)

    def moved(own: int, column: int) -> list[float]:
        target = torch.where(call.target == call.ignored, call.target, own)
        values = []
        for level in _LEVELS:
            outputs = flat.clone()
            outputs.select(call.classes, own).fill_(0.5)
            outputs.select(call.classes, column).fill_(level)
            found = value_of(_or_none(call, outputs, target))
            values.append(math.nan if found is None else found)
        return [value - values[0] for value in values[1:]]

    pairs = [(own, own - 1) for own in range(1, call.columns)]
    same = [
        _in_proportion(moved(own, own), moved(before, before))
        and _in_proportion(moved(own, before), moved(before, own))
        for own, before in pairs
    ]
    return all(same)


def _or_none(call: CriterionCall, outputs: torch.Tensor, target: torch.Tensor | None = None) -> Any:
    """What the criterion returns; None where it raises, as one of probabilities or cosines does above 1."""
    try:
        return call.again(outputs, target)
    except Exception:  # whatever a criterion raises
        return None


def _in_proportion(one: Sequence[float], other: Sequence[float]) -> bool:
    size, wide = math.hypot(*one), math.hypot(*other)
    if math.isnan(size + wide):
        return False
    if min(size, wide) <= _OUT_OF_PROPORTION * max(size, wide, _OUT_OF_PROPORTION):
        return max(size, wide) <= _OUT_OF_PROPORTION  # neither depends on it
    apart = math.dist([value / size for value in one], [value / wide for value in other])
    return apart <= _OUT_OF_PROPORTION


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
