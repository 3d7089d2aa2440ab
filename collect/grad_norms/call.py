"""One call of one layer, from its forward pass until the gradient of its output is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.autograd.graph import register_multi_grad_hook

from ...store.errors import InvalidInput
from .any_layer import any_layer, output_tensors
from .layers import Layer
from .step import Step
from .use import Use, plain

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
    if layer.rule is None:
        tensors = output_tensors(output)
        differentiable = [tensor for tensor in tensors if tensor.requires_grad]
        places = [tensor.requires_grad for tensor in tensors]
        if differentiable:
            unruled = _UnruledCall(layer, step, numbers, (args, kwargs), places, unwatched)
            register_multi_grad_hook(differentiable, unruled.arrive)
    elif output.requires_grad:
        kept = None
        if _NEEDS_INPUT in numbers:
            kept = (args[0] if args else next(iter(kwargs.values()))).detach()
            if layer.keep is not None:
                kept = layer.keep(kept, output)
        output.register_hook(_RuledCall(layer, step, numbers, kept).arrive)


class _Call:
    fired = False

    def __init__(self, layer: Layer, step: Step, numbers: Mapping[str, int], given: Any) -> None:
        self.layer, self.step, self.numbers, self.given = layer, step, numbers, given

    def accept(self, grad: torch.Tensor) -> bool:
        """Whether this gradient, which arrives just now, belongs to a batch that a criterion saw."""
        step = self.step
        if not step.closed:
            return False
        if self.fired or step.done:
            raise InvalidInput(
                f"{self.layer} was differentiated twice for one batch, or after the next batch was begun; for gradient "
                "norms each batch has one backward pass, and run.batch(ids) stands before the forward pass"
            )
        if grad.shape[:1] != (step.rows,):
            raise InvalidInput(_other_rows(self.layer, grad, step.rows))
        self.fired = True
        if step.check:
            step.note_precision(grad.dtype)
        return True


class _RuledCall(_Call):
    def arrive(self, grad: torch.Tensor) -> None:
        # The graph, and with it this, lives for as long as the loop holds its loss: free the inputs now.
        given, self.given = self.given, None
        if not self.accept(grad):
            return
        layer, step = self.layer, self.step
        assert layer.rule is not None
        if step.autocast:
            with plain(grad):
                step.add(self.numbers, layer.rule(layer.module, given, grad))
        else:
            step.add(self.numbers, layer.rule(layer.module, given, grad))


class _UnruledCall(_Call):
    def __init__(
        self,
        layer: Layer,
        step: Step,
        numbers: Mapping[str, int],
        given: tuple[tuple[Any, ...], Mapping[str, Any]],
        places: list[bool],
        unwatched: Callable[[], AbstractContextManager[None]],
    ) -> None:
        super().__init__(layer, step, numbers, given)
        self.places = places  # which of the output's tensors gradients arrive for
        self.unwatched = unwatched

    def arrive(self, grads: Sequence[torch.Tensor | None]) -> None:
        given, self.given = self.given, None
        first = next((grad for grad in grads if grad is not None), None)
        if first is None or not self.accept(first):
            return
        for grad in grads:
            if grad is not None and grad.shape[:1] != first.shape[:1]:
                raise InvalidInput(_other_rows(self.layer, grad, self.step.rows))
        with plain(first):
            self.step.add(self.numbers, self.find(given, grads))

    def find(
        self, given: tuple[tuple[Any, ...], Mapping[str, Any]], grads: Sequence[torch.Tensor | None]
    ) -> dict[str, Use]:
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
