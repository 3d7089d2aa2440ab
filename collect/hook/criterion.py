"""A criterion that records the clean loss and margin of each sample and returns what it returned before."""

from __future__ import annotations

import copy
import inspect
import itertools
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from ..losses.criterion import LossOf
from ..losses.sample_losses import SampleLosses
from ..losses.share import divisor, own_loss, reduction_of

Reduction = Literal["mean", "sum", "none"]

_IN_GRAPH = frozenset(
    {"input", "target", "weight", "pos_weight", "label_smoothing", "reduction", "ignore_index"}
)
"""What a call may name where a compiled step records it: of the options it takes no more than ignore_index."""

_BY_CRITERION = -(2**62)
"""No ignore_index in the call: the criterion's own."""

_numbers = itertools.count()
_watched: weakref.WeakValueDictionary[int, WatchedCriterion] = weakref.WeakValueDictionary()

Losses = Callable[[torch.Tensor, int | None], SampleLosses]
"""losses(labels in the samples table, the highest of the table): those of one batch, see `LossOf`."""


class Share(NamedTuple):
    """What of a criterion's result is whose.

    divisor  divisor(rows): what the result divides each sample's loss by, a number or (B,)
    alone    alone(row): the loss of one record by itself, with its graph
    by       the criterion that it is of
    """

    divisor: Callable[[int], torch.Tensor | float]
    alone: Callable[[int], torch.Tensor]
    by: LossOf


class WatchedCriterion(nn.Module):
    """Wraps a loss function or module: same arguments, same result, same parameters and attributes, those that are set too.

    ``on_call(output, target, result, losses, share)`` sees every call while gradients are on: the model's output and its target, what the
    criterion returned, the samples' losses, and what share of the result each sample's is, see `Share`. ``reduction`` says how the result comes from the samples' losses; by default the
    criterion's own attribute or argument of that name does, and without one a single number is taken to be their mean.

    Under torch.compile the recording is one operation in the graph, so that a step compiles with fullgraph=True; not
    where ``needs_result()``, or where the criterion is called with options that the samples' losses depend on: there
    it breaks the graph.
    """

    def __init__(
        self,
        criterion: Callable[..., Any],
        on_call: Callable[[Any, Any, Any, Losses, Share], None],
        reduction: Reduction | None,
        needs_result: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._inner: Callable[..., Any]
        self.__dict__["_inner"] = criterion  # as what it is, which a compiler finds at once
        self.criterion = criterion
        self.losses = LossOf(criterion)
        self._reduction = reduction
        self._needs_result = needs_result
        self.on_call = on_call
        self._outside = torch.compiler.disable(self._tell)
        self._number = next(_numbers)
        _watched[self._number] = self
        # Neither parameter nor persistent: what a compiled step changes, so that no compiler leaves the recording out.
        # On the CPU, so that none replays it as a CUDA graph, without running it.
        self._calls = torch.zeros((), dtype=torch.int64)
        self.register_load_state_dict_pre_hook(_with_prefix)
        self.__dict__["_whole"] = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        result = self._inner(*args, **kwargs)
        if torch.is_grad_enabled():
            if torch.compiler.is_compiling() and self._fits_graph(args, kwargs):
                output, target = _given(args, kwargs)
                ignored = kwargs.get("ignore_index", _BY_CRITERION)
                _criterion_called(self._calls, output.detach(), target.detach(), self._number, ignored)
            else:
                self._outside(args, kwargs, result)
        return result

    def _fits_graph(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        if len(args) > 2 or self._needs_result():
            return False
        for name in kwargs:
            if name not in _IN_GRAPH:
                return False
        output, target = _given(args, kwargs)
        return isinstance(output, torch.Tensor) and isinstance(target, torch.Tensor)

    def _tell(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        args, kwargs = _by_place(self._inner, args, kwargs)
        output, target = _as_batch(*_given(args, kwargs))
        options = {name: value for name, value in kwargs.items() if name not in ("input", "target")}

        def losses(known: torch.Tensor, highest: int | None) -> SampleLosses:
            return self.losses(output, target, known, highest, args[2:], options, result)

        how = reduction_of(self._inner, options, self._reduction)
        share = Share(
            lambda rows: divisor(self.losses, options, output, target, rows, how),
            lambda row: own_loss(self.losses, options, (output, target, *args[2:]), result, row, how),
            self.losses,
        )
        self.on_call(output, target, result, losses, share)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or "_inner" not in self.__dict__:
                raise
            return getattr(self._inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # A loop that changes its criterion, a weight or a temperature, means the one that computes.
        if "_whole" not in self.__dict__ or name in self.__dict__:
            super().__setattr__(name, value)
        else:
            setattr(self._inner, name, value)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self._inner, nn.Module):
            return self._inner.state_dict(*args, **kwargs)
        return super().state_dict(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # A copy of a model, as averaged weights need it, does not record.
        return copy.deepcopy(self._inner, memo)

    def __reduce__(self) -> Any:
        return _itself, (self._inner,)


def _itself(criterion: Callable[..., Any]) -> Callable[..., Any]:
    """What is left of a watched criterion in a file or another process."""
    return criterion


def _with_prefix(
    watched: WatchedCriterion, state: dict[str, Any], prefix: str, *unused: Any, **more: Any
) -> None:
    """Names in a checkpoint are those of the criterion; within the watched one it is a module of its own."""
    for name in [name for name in state if name.startswith(prefix)]:
        state[prefix + "criterion." + name.removeprefix(prefix)] = state.pop(name)


def _given(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """The output and the target in a call."""
    return args[0] if args else kwargs.get("input"), args[1] if len(args) > 1 else kwargs.get("target")


def _as_batch(output: Any, target: Any) -> tuple[Any, Any]:
    """Output and target of a lone record as a batch of one, as where a loop squeezes a last batch of one."""
    if not isinstance(output, torch.Tensor) or not isinstance(target, torch.Tensor) or target.ndim:
        return output, target
    return (output.unsqueeze(0), target.unsqueeze(0)) if output.ndim < 2 else (output, target)


def _by_place(
    criterion: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """The arguments of a call with the first two in their places, where they were given under names of the criterion's own."""
    if len(args) > 1 or not kwargs.keys() - _IN_GRAPH:
        return args, kwargs
    function = criterion.forward if isinstance(criterion, nn.Module) else criterion
    try:
        names = [*inspect.signature(function).parameters][:2]
    except (TypeError, ValueError):
        return args, kwargs
    moved = names[len(args) :]
    if not all(name in kwargs for name in moved):
        return args, kwargs
    rest = {name: value for name, value in kwargs.items() if name not in moved}
    return (*args, *(kwargs[name] for name in moved)), rest


# Torch before 2.8 knows neither the tag nor the keyword.
_TAGS: Any = {"tags": (torch.Tag.cudagraph_unsafe,)} if hasattr(torch.Tag, "cudagraph_unsafe") else {}


@torch.library.custom_op("losslake::criterion_called", mutates_args=("calls",), **_TAGS)
def _criterion_called(
    calls: torch.Tensor, output: torch.Tensor, target: torch.Tensor, number: int, ignored: int
) -> None:
    # An operation that no compiler looks into runs in every step, so that Python's notes of the batch are at hand.
    calls += 1
    watched = _watched.get(number)
    if watched is not None:
        watched._tell((output, target), {} if ignored == _BY_CRITERION else {"ignore_index": ignored}, None)


@_criterion_called.register_fake
def _(calls: torch.Tensor, output: torch.Tensor, target: torch.Tensor, number: int, ignored: int) -> None:
    return None
