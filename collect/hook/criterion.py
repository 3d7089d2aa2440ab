"""A criterion that records the clean loss and margin of each sample and returns what it returned before."""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from ..losses.criterion_kind import inner_function, option
from ..losses.each_sample import LossOf
from ..losses.sequences import IGNORED

Reduction = Literal["mean", "sum", "none"]

_WEIGHTED = (nn.CrossEntropyLoss, nn.NLLLoss)
_WEIGHTED_FUNCTIONS = (functional.cross_entropy, functional.nll_loss)
_CLEAN_WITHOUT = frozenset({"weight", "pos_weight", "label_smoothing", "reduction", "ignore_index"})
"""Options of a call that a compiled step's recording needs no more of than ignore_index."""


@dataclass(frozen=True, eq=False)
class CriterionCall:
    """One call: the model's output, the target, the result, and what the result divided the sum of losses by.

    ``losses`` says how the samples' losses come from it, given ``more`` positional and keyword ``options`` of the call.
    ``divisor(rows)`` for a batch of so many rows is a number, or a tensor on the device.
    """

    output: Any
    target: Any
    result: Any
    losses: LossOf
    divisor: Callable[[int], torch.Tensor | float]
    more: Sequence[Any] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


OnCall = Callable[[CriterionCall], None]


class WatchedCriterion(nn.Module):
    """Wraps a loss function or module: same arguments, same result, same parameters.

    ``on_call`` sees every call while gradients are on. ``reduction`` says how the result comes from the samples'
    losses; by default the criterion's own attribute or argument of that name does, and without one a single number
    is taken to be their mean.

    Under torch.compile the recording is one operation in the graph, so that a step compiles with fullgraph=True; not
    where ``needs_result()``, or where the criterion is called with options that the samples' losses depend on: there
    it breaks the graph.
    """

    def __init__(
        self,
        criterion: Callable[..., Any],
        on_call: OnCall,
        reduction: Reduction | None = None,
        needs_result: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self.criterion = criterion
        self.losses = LossOf(criterion)
        self._reduction = reduction
        self._needs_result = needs_result
        self._on_call = on_call
        self._outside = torch.compiler.disable(self._tell)
        self._number = next(_numbers)
        _watched[self._number] = self
        # Neither parameter nor persistent: what a compiled step changes, so that no compiler leaves the recording out.
        # On the CPU, so that none replays it as a CUDA graph, without running it.
        self._calls = torch.zeros((), dtype=torch.int64)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        result = self.criterion(*args, **kwargs)
        if torch.is_grad_enabled():
            if torch.compiler.is_compiling() and self._fits_graph(args, kwargs):
                output = args[0] if args else kwargs["input"]
                target = args[1] if len(args) > 1 else kwargs["target"]
                ignored = kwargs.get("ignore_index", _BY_CRITERION)
                _criterion_called(self._calls, output.detach(), target.detach(), self._number, ignored)
            else:
                self._outside(args, kwargs, result)
        return result

    def _fits_graph(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        if len(args) > 2 or self._needs_result():
            return False
        output = args[0] if args else kwargs.get("input")
        target = args[1] if len(args) > 1 else kwargs.get("target")
        for name in kwargs:
            if name not in _CLEAN_WITHOUT and name not in ("input", "target"):
                return False
        return isinstance(output, torch.Tensor) and isinstance(target, torch.Tensor)

    def _tell(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        output = args[0] if args else kwargs.get("input")
        target = args[1] if len(args) > 1 else kwargs.get("target")
        options = {name: value for name, value in kwargs.items() if name not in ("input", "target")}

        def divisor(rows: int) -> torch.Tensor | float:
            return divisor_of(self.criterion, kwargs, target, rows, self._reduction)

        self._on_call(CriterionCall(output, target, result, self.losses, divisor, args[2:], options))

    def called_in_graph(self, output: torch.Tensor, target: torch.Tensor, ignored: int) -> None:
        """A compiled step came by."""
        options = {} if ignored == _BY_CRITERION else {"ignore_index": ignored}
        self._tell((output, target), options, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # A copy of a model, as averaged weights need it, does not record.
        return copy.deepcopy(self.criterion, memo)


def divisor_of(
    criterion: Callable[..., Any],
    kwargs: Mapping[str, Any],
    target: Any,
    rows: int,
    reduction: Reduction | None = None,
) -> torch.Tensor | float:
    """What a criterion's result divides the sum of its samples' losses by.

    1 for sums and losses left apart, else the rows; for cross-entropy over class numbers the sum of the class weights
    of those that it does not ignore, as PyTorch has it. The host never waits for it.
    """
    function = inner_function(criterion)

    if (reduction or option(criterion, kwargs, "reduction", "mean")) in ("sum", "none"):
        return 1.0
    known = isinstance(criterion, _WEIGHTED) or any(function is each for each in _WEIGHTED_FUNCTIONS)
    if not known or not isinstance(target, torch.Tensor) or target.is_floating_point():
        return float(rows)
    counted = target != option(criterion, kwargs, "ignore_index", IGNORED)
    weight = option(criterion, kwargs, "weight", None)
    if weight is None:
        return counted.sum()
    return (weight[target.clamp(min=0)] * counted).sum()


_BY_CRITERION = -(2**62)
"""No ignore_index in the call: the criterion's own."""

_numbers = itertools.count()
_watched: weakref.WeakValueDictionary[int, WatchedCriterion] = weakref.WeakValueDictionary()


_TAGS: dict[str, Any] = {}
if hasattr(torch.Tag, "cudagraph_unsafe"):  # torch before 2.8 knows neither the tag nor the keyword
    _TAGS["tags"] = (torch.Tag.cudagraph_unsafe,)


@torch.library.custom_op("losslake::criterion_called", mutates_args=("calls",), **_TAGS)
def _criterion_called(
    calls: torch.Tensor, output: torch.Tensor, target: torch.Tensor, number: int, ignored: int
) -> None:
    # An operation that no compiler looks into runs in every step, so that Python's notes of the batch are at hand.
    calls += 1
    watched = _watched.get(number)
    if watched is not None:
        watched.called_in_graph(output, target, ignored)


@_criterion_called.register_fake
def _(calls: torch.Tensor, output: torch.Tensor, target: torch.Tensor, number: int, ignored: int) -> None:
    return None
