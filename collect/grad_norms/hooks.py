"""Exact per-sample gradient norms of a training loop, by hooks that only read.

A layer's output gradient G and its input A determine each sample's gradient of its weights; the norm rarely needs
the gradient itself (Goodfellow 2015, "Efficient per-example gradient computations", for linear layers).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import torch
from torch import nn

from ...store.errors import InvalidInput
from ..ranks import inner_model
from .layers import Layer, check_layer, watched_layers
from .step import Step, StepNorms, listen
from .use import plain, wide

_RARELY = 256
"""Batches after which one record's gradient is taken by itself again; before that after 1, 2, 4, 8, ..."""

_SCALE = 1024.0


class GradNormWatcher:
    """Hooks on a model that find the gradient norm of every sample of a batch while its backward pass runs.

    For each batch: `begin`, the forward pass, `loss`, the backward pass, `take`. Nothing here changes a value, draws a
    random number or makes the host wait for the device. Raises InvalidOption as `watched_layers` does; during
    training InvalidInput, naming the layer, where a layer sees other rows than the batch has samples.

    With ``check`` the gradients found are added up in the next batch and compared with what autograd
    computed, see `StepNorms`; `check_next` asks for it again.

    Sums do not tell whether each row is a record's. So in the first batch, and ever more rarely in later ones, the gradient of
    one record's own loss is taken by itself, from the graph of this very step, and its norm compared, whatever ``check`` is.
    """

    def __init__(self, model: nn.Module, *, check: bool = True) -> None:
        self._model = eager_model(model)
        layers = watched_layers(self._model)
        self.parameters = dict(self._model.named_parameters())
        self.names = tuple(self.parameters)
        numbers = {id(value): number for number, value in enumerate(self.parameters.values())}
        self._checks = self._check_due = check
        self._step: Step | None = None  # the batch under way, or the last one
        self._backward: Step | None = None  # the batch whose backward pass has begun
        self._waiting: list[Step] = []  # closed by a loss, norms not taken
        self._check_handles: list[Any] = []
        self._paused = False
        self._batches = 0
        self._random = random.Random(0)  # none of the streams that training draws from
        self._checked: set[Layer] = set()
        self._handles = [self._model.register_forward_pre_hook(_out_of_graph(self._before_model))]
        for layer in layers:
            numbered = {name: numbers[id(value)] for name, value in layer.parameters.items()}
            hook = partial(self._after_layer, layer, numbered)
            self._handles.append(layer.module.register_forward_hook(_out_of_graph(hook), with_kwargs=True))

    def remove(self) -> None:
        """Take the hooks off the model again."""
        for handle in (*self._handles, *self._check_handles):
            handle.remove()
        self._handles, self._check_handles, self._waiting = [], [], []
        self._step = self._backward = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    # --- what the loop calls --------------------------------------------------------------------------------

    def check_next(self) -> None:
        """Compare with autograd's gradients in the next batch again."""
        self._check_due = self._checks

    def begin(self) -> None:
        """A new batch comes: what the model ran on before belongs to another one."""
        self._backward = None
        self._open()

    def loss(
        self,
        value: Any,
        ids: torch.Tensor,
        divisor: torch.Tensor | float,
        alone: Callable[[int], torch.Tensor] | None = None,
    ) -> None:
        """The loss of the batch that the model just saw: ``ids`` (B,) are its samples, B of them.

        ``value`` is what a backward pass starts from, whatever is done to it before: from the gradient that arrives
        there follows the factor (loss scale, accumulation) that is undone. It is the samples' losses (B,), or
        the sum of each over ``divisor``, () or (B,). ``alone(row)`` is the loss of one of them by itself, with its graph. Raises InvalidInput for a value that is no tensor, or where no layer ran.
        """
        step = self._step
        if not isinstance(value, torch.Tensor):
            raise InvalidInput(
                f"the criterion returned a {type(value).__name__}; for gradient norms it must return its loss, a tensor"
            )
        if value.numel() not in (1, len(ids)):
            raise InvalidInput(
                f"the criterion returned {tuple(value.shape)} for {len(ids)} samples; for gradient norms it must return one "
                "loss, or one a sample"
            )
        if step is None or step.closed or not step.calls:
            raise InvalidInput(
                "the criterion was called, but no trainable layer of the watched model ran before it; watch the model "
                "that is trained, and watch it before torch.compile runs it first"
            )
        step.close(ids)
        if not value.requires_grad:
            return
        step.find_spread(value)
        if alone is not None:
            due = self._batches % _RARELY == 0 or self._batches.bit_count() == 1
            self._batches += 1
            if due:
                step.one = self._random.randrange(len(ids))
                self._take_alone(step, alone)
        self._listen(step, value, divisor)
        # Of two batches in one backward pass autograd's gradients are the sum.
        if self._waiting:
            for each in (*self._waiting, step):
                each.check = False
        self._waiting.append(step)
        if step.check:
            self._check_due = False
            self._compare_in(step)

    def further_loss(
        self,
        value: Any,
        divisor: Callable[[int], torch.Tensor | float],
        alone: Callable[[int], torch.Tensor] | None = None,
    ) -> None:
        """The criterion was called again on the same batch (mixup): the sample's own loss is the weighted mean."""
        step = self._step
        if step is None or step not in self._waiting or step.factor is not None:
            return
        if isinstance(value, torch.Tensor) and value.requires_grad:
            if step.one is not None and alone is not None:
                self._take_alone(step, alone)
            self._listen(step, value, divisor(step.rows))

    def take(self, *, last: bool = False) -> list[StepNorms]:
        """The norms of the batches whose backward pass is over, in order.

        Call it between backward passes. ``last`` lets go of batches that have had none.
        """
        self._backward = None
        over = [step for step in self._waiting if step.factor is not None]
        self._waiting = [] if last else [step for step in self._waiting if step.factor is None]
        if self._check_handles and (over or last):
            for handle in self._check_handles:
                handle.remove()
            self._check_handles = []
        found = []
        for step in over:
            if not step.seen:
                raise InvalidInput(
                    "a backward pass reached no layer of the watched model; watch the model that is trained, and watch it "
                    "before torch.compile runs it first"
                )
            assert step.factor is not None
            with plain(step.factor):
                found.append(step.take(len(self.names)))
        return found

    # --- inside ---------------------------------------------------------------------------------------------

    def _open(self) -> Step:
        self._step = Step(check=self._check_due)
        return self._step

    def _listen(self, step: Step, value: torch.Tensor, divisor: torch.Tensor | float) -> None:
        call, step.heard = step.heard, step.heard + 1

        def arrive(grad: torch.Tensor) -> None:
            self._backward = step
            # The same all through a backward pass, and asking at each layer costs as much as a small layer does.
            step.autocast = any(map(torch.is_autocast_enabled, (grad.device.type, "cpu", "cuda")))
            with plain(grad):
                step.add_factor(grad, divisor, call)

        value.register_hook(arrive)

    def _take_alone(self, step: Step, alone: Callable[[int], torch.Tensor]) -> None:
        """Note the gradient of the loss of the step's one record. Nothing is noted where it can have no backward pass of its own."""
        assert step.one is not None
        numbers = [at for at, value in enumerate(self.parameters.values()) if value.requires_grad]
        trained = [value for value in self.parameters.values() if value.requires_grad]
        own = alone(step.one)
        step.looks_alone = True
        try:
            with self.paused():
                # Not into .grad, so that neither DDP nor the loop sees it. Scaled, so that float16 keeps small ones.
                found = torch.autograd.grad(own * _SCALE, trained, retain_graph=True, allow_unused=True)
        except RuntimeError:
            # A reentrant checkpoint, a compiled backward pass that runs only once, or no memory for it.
            step.one = None
            return
        finally:
            step.looks_alone = False
        step.alone.append(
            {
                at: wide(grad.to_dense() if grad.layout != torch.strided else grad) / _SCALE
                for at, grad in zip(numbers, found, strict=True)
                if grad is not None
            }
        )

    def _compare_in(self, step: Step) -> None:
        def compare(number: int, grad: torch.Tensor) -> None:
            # Another backward pass before the norms are taken, as SAM's second one, is not this batch's.
            if step.check and step is self._backward:
                with plain(grad):
                    step.compare(number, grad)

        self._check_handles = [
            value.register_hook(partial(compare, number))
            for number, value in enumerate(self.parameters.values())
            if value.requires_grad
        ]

    def _before_model(self, module: nn.Module, args: Any) -> None:
        if self._paused or not torch.is_grad_enabled():
            return
        # A forward pass of the whole model is no part of a backward pass.
        self._backward = None
        if self._step is None or self._step.closed:
            self._open()

    def _after_layer(
        self,
        layer: Layer,
        numbers: Mapping[str, int],
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output: Any,
    ) -> None:
        if self._paused:
            return
        for value in layer.parameters.values():
            if not value.requires_grad:
                trainable = layer.parameters.items()
                numbers = {name: numbers[name] for name, value in trainable if value.requires_grad}
                break
        if not torch.is_grad_enabled():
            # The first pass of a reentrant checkpoint: the layer will run again during the backward pass.
            if self._backward is None and self._step is not None and not self._step.closed:
                self._step.count(numbers.values())
            return
        if layer.mixing or layer not in self._checked:
            # A batch norm may be in another mode by now, a frozen layer no longer be frozen.
            check_layer(layer)
            if numbers:
                self._checked.add(layer)
        if not numbers:
            return
        step = self._backward or self._step
        if step is None or (step.closed and step is not self._backward):
            step = self._open()
        if self._backward is None:
            step.count(numbers.values())
        listen(layer, step, numbers, args, kwargs, output, self.paused)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """In the block layers run without being watched."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before


def _out_of_graph(hook: Callable[..., None]) -> Callable[..., None]:
    """The hook, which under torch.compile stays outside the graph, as it looks at Python state."""
    disabled = torch.compiler.disable(hook)

    def called(*args: Any) -> None:
        # What disables costs as much as a small hook.
        if torch.compiler.is_dynamo_compiling():
            disabled(*args)
        else:
            hook(*args)

    return called


def eager_model(model: nn.Module) -> nn.Module:
    """The model itself, out of the wrappers of torch.compile and DDP, which call it."""
    for _ in range(2):  # either may be the outer one
        model = inner_model(getattr(model, "_orig_mod", model))
    return model
