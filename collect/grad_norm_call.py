"""One call of one layer, from its forward pass until the gradient of its output is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.autograd.graph import register_multi_grad_hook

from ..store.errors import InvalidInput
from .grad_norm_any import any_layer, output_tensors
from .grad_norm_layers import Layer
from .grad_norm_step import Step
from .grad_norm_use import Use, plain

_NEEDS_INPUT = "weight"


def listen(
    layer: Layer,
    step: Step,
    numbers: Mapping[str, int],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    output: Any,
    unwatched: Callable[[], AbstractContextManager[None]],
) -> None:
    """When the gradient of ``output`` is there, add to ``step`` what this call did with the layer's parameters.

    ``numbers`` are the trainable ones by their names in the layer. ``unwatched`` is a context in which the layer can
    run again. The inputs are held until then, as autograd holds them.
    """
    tensors = output_tensors(output)
    differentiable = [tensor for tensor in tensors if tensor.requires_grad]
    if not differentiable:
        return
    places = [tensor.requires_grad for tensor in tensors]
    call = _Call(layer, step, numbers, args, kwargs, places, unwatched)
    if layer.rule is not None:
        differentiable[0].register_hook(lambda grad: call.arrive([grad]))
    else:
        register_multi_grad_hook(differentiable, call.arrive)


class _Call:
    def __init__(
        self,
        layer: Layer,
        step: Step,
        numbers: Mapping[str, int],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        places: list[bool],
        unwatched: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.layer, self.step, self.numbers, self.unwatched = layer, step, numbers, unwatched
        self.places = places  # which of the output's tensors gradients arrive for
        self.fired = False
        if layer.rule is None:
            self.given: Any = (args, kwargs)
        else:
            given = args[0] if args else next(iter(kwargs.values()))
            self.given = given.detach() if _NEEDS_INPUT in numbers else None

    def arrive(self, grads: Sequence[torch.Tensor | None]) -> None:
        step, given = self.step, self.given
        # The graph, and with it this, lives for as long as the loop holds its loss: free the inputs now.
        self.given = None
        if not step.closed:
            return  # a batch that no criterion saw
        if self.fired or step.done:
            raise InvalidInput(
                f"{self.layer} was differentiated twice for one batch, or after the next batch was begun; for gradient "
                "norms each batch has one backward pass, and run.batch(ids) stands before the forward pass"
            )
        self.fired = True
        for grad in grads:
            if grad is not None and (grad.ndim == 0 or len(grad) != step.rows):
                raise InvalidInput(_other_rows(self.layer, grad, step.rows))
        arrived = [grad for grad in grads if grad is not None]
        if not arrived:
            return
        step.note_precision(arrived[0].dtype)
        with plain(arrived[0]):
            uses = self._uses(given, grads)
            for name, number in self.numbers.items():
                step.add(number, uses[name])

    def _uses(self, given: Any, grads: Sequence[torch.Tensor | None]) -> dict[str, Use]:
        if self.layer.rule is not None:
            assert grads[0] is not None
            return self.layer.rule(self.layer.module, given, grads[0])
        arriving = iter(grads)
        by_output = [next(arriving) if place else None for place in self.places]
        try:
            with self.unwatched():
                return any_layer(
                    self.layer.module, list(self.numbers), given[0], given[1], by_output, self.step.rows
                )
        except (RuntimeError, ValueError, NotImplementedError) as error:
            reason = str(error).strip().partition("\n")[0].rstrip(". ")
            raise InvalidInput(
                f"{self.layer} has no rule for its per-sample gradients and cannot be run again sample by sample ({reason}); "
                'freeze it, move its parameters into a layer of its own, or watch the model with mode="eval"'
            ) from error


def _other_rows(layer: Layer, grad: torch.Tensor, rows: int) -> str:
    shape = tuple(grad.shape)
    if grad.ndim and len(grad) % rows == 0:
        return (
            f"{layer} gave an output of shape {shape} for a batch of {rows} samples, so which rows are whose cannot be told; keep "
            "the batch as the first dimension there, as (batch, ..., features), or freeze the layer"
        )
    return (
        f"{layer} gave an output of shape {shape} for a batch of {rows} samples; its first dimension must be the batch: give "
        "it an input with a row for each sample, batch first, or freeze the layer"
    )
