"""One batch, from its forward pass until its norms are taken: what its backward pass tells of each sample's gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch.autograd.graph import register_multi_grad_hook

from ...store.errors import InvalidInput
from .any_layer import any_layer, batch_first, output_tensors
from .broadcast import Users, listen_at
from .embedding import Rows, embedding, joined_rows, norms_of_tied
from .layers import Layer
from .linear import Outer, Product, joined
from .use import Use, norms_of_sum, plain, wide

_TOLERANCE = 1e-3
"""How far the gradients found may be from autograd's, as a share of the sum of their norms (float32, TF32)."""

_LOW_TOLERANCE = 2e-2
"""The same where autograd works in float16 or bfloat16, which rounds gradients to 8 to 11 bits."""

_ALONE = 2e-3
"""How far the norm of a record may be from that of its loss by itself, in one parameter, as a share of all of its gradient."""

_LOW_ALONE = 5e-2
"""The same where autograd works in float16 or bfloat16."""

_NEGLIGIBLE = 0.05
"""The share of that tolerance, of the norms over all parameters, that a parameter's error may have whatever its own norms."""


@dataclass(frozen=True, eq=False)
class StepNorms:
    """Per-sample gradient norms of one batch.

    ids      (B,) int64, as they were given
    shares   (len(numbers), B): norms of what was differentiated, of each parameter's part of the gradient
    numbers  of the parameters that took part
    factor   () or (B,): d(what was differentiated) / d(a sample's own loss)
    faults   (P,) bool: whether the gradients found of each parameter of the model do not add up to the one that autograd
             computed; None where that was not looked at
    apart    (P,) bool: whether the norm found of one record is another one than that of its loss by itself, in this
             parameter; None where that was not looked at
    """

    ids: torch.Tensor
    shares: torch.Tensor
    numbers: tuple[int, ...]
    factor: torch.Tensor
    faults: torch.Tensor | None
    apart: torch.Tensor | None = None

    @cached_property
    def norms(self) -> torch.Tensor:
        """(B,) float32: |gradient of the sample's own loss|_2 over all trainable parameters."""
        return torch.linalg.vector_norm(self.shares / self.factor, dim=0).float()

    @property
    def parts(self) -> torch.Tensor:
        """(len(numbers), B) float32: the norms of each parameter's part of it."""
        return (self.shares / self.factor).abs_().float()


class Step:
    """One batch: open while the model runs, closed by the loss, done when its norms are taken."""

    def __init__(self, *, check: bool) -> None:
        self.check = check
        self.calls: dict[int, int] = {}
        """How often each parameter was used in the forward pass, by its number."""
        self.for_all: list[tuple[_Call, Any]] = []
        """Calls whose output may stand for all records, and their nodes in the autograd graph."""
        self.closed = False
        self.ids: torch.Tensor | None = None
        self.rows = 0
        self.factor: torch.Tensor | None = None
        """d(what was differentiated) / d(a sample's own loss): () or (B,); None until the backward pass."""
        self.autocast = False
        """Whether the backward pass runs under autocast."""
        self.done = False
        self.one: int | None = None
        """The row of the record whose gradient is taken by itself."""
        self.looks_alone = False
        """Whether the backward pass under way is that of this record alone."""
        self.alone: list[dict[int, torch.Tensor]] = []
        """Its gradients, one of each call of the criterion, by the parameter's number."""
        self._shares: dict[int, torch.Tensor] = {}
        self.heard = 0
        """How many calls of the criterion are listened to."""
        self.tolerance = _TOLERANCE
        self._norms: dict[int, torch.Tensor] = {}
        self._uses: dict[int, list[Use]] = {}
        self._totals: dict[int, torch.Tensor] = {}
        self._sizes: dict[int, torch.Tensor] = {}
        self._errors: dict[int, torch.Tensor] = {}

    @property
    def seen(self) -> bool:
        """Whether any layer's gradients arrived."""
        return bool(self._norms or self._uses)

    def count(self, numbers: Iterable[int]) -> None:
        """The forward pass uses these parameters."""
        for number in numbers:
            self.calls[number] = self.calls.get(number, 0) + 1

    def close(self, ids: torch.Tensor) -> None:
        """The loss of the batch is known, and so are its samples."""
        self.ids, self.rows, self.closed = ids, len(ids), True

    def find_spread(self, loss: torch.Tensor) -> None:
        """Look in the graph of the loss where outputs that stand for all records are spread over them."""
        calls, self.for_all = self.for_all, []
        if not calls or loss.grad_fn is None:
            return
        users = Users(loss.grad_fn)
        for call, node in calls:
            places = users.places(node, self.rows)
            if places is not None:
                listen_at(places, call.spread, lambda: self.looks_alone)

    def add_factor(self, grad: torch.Tensor, divisor: torch.Tensor | float, call: int) -> None:
        """The gradient of what was differentiated with respect to one criterion's result, and what the result divided by.

        ``call`` counts the criterion's calls of this batch; the backward pass may reach them in any order.
        """
        share = wide(grad)
        share = (share if share.ndim < 2 else share.flatten()) / divisor
        if self.one is not None:
            self._shares[call] = share
        self.factor = share if self.factor is None else self.factor + share

    def add(self, numbers: Mapping[str, int], uses: Mapping[str, Use]) -> None:
        """One use of a layer's parameters. Only where one is used again are its gradients kept, as cross terms need both."""
        for name, number in numbers.items():
            use = uses[name]
            if self.calls.get(number, 0) > 1:
                self._uses.setdefault(number, []).append(use)
            elif number not in self._norms:
                self._norms[number] = use.norms()
            else:
                raise InvalidInput(
                    "a layer was used once in the forward pass, but more often in the backward pass, so its gradient norms "
                    "would be too small; let each forward pass follow run.batch(ids) and have one backward pass"
                )
            if self.check:
                self._add_up(number, use)

    def _add_up(self, number: int, use: Use) -> None:
        norms = self._norms.get(number)
        size, total = (use.norms() if norms is None else norms).sum(), use.total()
        self._sizes[number] = self._sizes[number] + size if number in self._sizes else size
        self._totals[number] = self._totals[number] + total if number in self._totals else total

    def note_precision(self, dtype: torch.dtype) -> None:
        """A layer's backward pass works in this type."""
        if dtype in (torch.float16, torch.bfloat16):
            self.tolerance = _LOW_TOLERANCE

    def compare(self, number: int, grad: torch.Tensor) -> None:
        """Note whether the uses of a parameter add up to its gradient, up to a share of the sum of norms."""
        grad = wide(grad.to_dense() if grad.layout != torch.strided else grad)
        total = self._totals.pop(number, None)
        self._errors[number] = (grad if total is None else grad - total).norm()

    def take(self, parameters: int) -> StepNorms:
        """The norms, once the backward pass is over; everything held is let go. ``parameters``: how many there are."""
        assert self.ids is not None
        assert self.factor is not None
        self.done = True
        device = self.factor.device
        norms = {**self._norms, **{number: _of_uses(uses, device) for number, uses in self._uses.items()}}
        found = StepNorms(
            self.ids,
            torch.stack(list(norms.values())),
            tuple(norms),
            self.factor,
            self._faults(parameters, device) if self.check else None,
            self._apart(parameters, norms, device),
        )
        self.alone, self._shares = [], {}
        self._norms, self._uses, self._totals = {}, {}, {}
        return found

    def _faults(self, parameters: int, device: torch.device) -> torch.Tensor:
        none = torch.zeros((), device=device)
        errors = torch.stack([self._errors.get(number, none).float() for number in range(parameters)])
        sizes = torch.stack([self._sizes.get(number, none).float() for number in range(parameters)])
        # Gradients that are zero but for rounding, as those of attention's key biases, add up to nothing.
        return (errors > self.tolerance * sizes) & (errors > self.tolerance * _NEGLIGIBLE * sizes.sum())

    def _apart(
        self, parameters: int, norms: Mapping[int, torch.Tensor], device: torch.device
    ) -> torch.Tensor | None:
        if self.one is None or len(self.alone) != self.heard:
            return None
        factor = self._at_one(self.factor)
        none = torch.zeros((), device=device)
        found, own = [], []
        for number in range(parameters):
            norm = norms.get(number)
            found.append(none if norm is None else (norm[self.one] / factor).abs().float())
            parts = [
                # Of several calls of the criterion the sample's loss is the weighted mean.
                self.alone[call][number]
                if len(self._shares) == 1
                else self.alone[call][number] * (self._at_one(share) / factor)
                for call, share in self._shares.items()
                if number in self.alone[call]
            ]
            own.append(torch.stack(parts).sum(0).norm().float() if parts else none)
        a, b = torch.stack(found), torch.stack(own)
        size = a + b
        tolerance = _LOW_ALONE if self.tolerance == _LOW_TOLERANCE else _ALONE
        # A loss scale too high for float16 leaves nothing to compare.
        whole = torch.isfinite(size).all()
        total = torch.maximum(torch.linalg.vector_norm(a), torch.linalg.vector_norm(b))
        return ((a - b).abs() > tolerance * size) & ((a - b).abs() > tolerance * total) & whole

    def _at_one(self, factor: torch.Tensor | None) -> torch.Tensor:
        assert factor is not None
        return factor if factor.ndim == 0 else factor[self.one]


def _of_uses(uses: Sequence[Use], device: torch.device) -> torch.Tensor:
    """Norms (B,) of the sum of several uses' gradients of one parameter."""
    if len(uses) == 1:
        return uses[0].norms()
    tables = [use for use in uses if isinstance(use, Rows)]
    products = [use for use in uses if isinstance(use, (Outer, Product))]
    if len(tables) + len(products) < len(uses):
        return norms_of_sum(uses, device)
    if not products:
        return joined_rows(tables).norms()
    if not tables:
        return joined(products).norms()
    return norms_of_tied(tables, joined(products))


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
            call = _Call(layer, step, numbers, (args, kwargs))
            register_multi_grad_hook(differentiable, partial(call.run_again, places, unwatched))
    elif output.requires_grad:
        kept = None
        if "weight" in numbers:
            kept = (args[0] if args else next(iter(kwargs.values()))).detach()
            if layer.keep is not None:
                kept = layer.keep(kept, output)
        call = _Call(layer, step, numbers, kept)
        output.register_hook(call.follow_rule)
        if layer.rule is embedding and kept is not None and (kept.ndim < 2 or len(kept) == 1):
            call.for_all = True
            step.for_all.append((call, output.grad_fn))


class _Call:
    """One call of one layer, from its forward pass until the gradients of its output are there."""

    fired = False
    for_all = False
    """Whether its output may stand for all records."""
    of_each: torch.Tensor | None = None

    def __init__(self, layer: Layer, step: Step, numbers: Mapping[str, int], given: Any) -> None:
        self.layer, self.step, self.numbers, self.given = layer, step, numbers, given

    def spread(self, grad: torch.Tensor) -> None:
        """A part of the gradient of each record, (B, ...), of an output that stands for all of them."""
        self.of_each = grad if self.of_each is None else self.of_each + grad

    def follow_rule(self, grad: torch.Tensor) -> None:
        if self.step.looks_alone:
            return
        # The graph, and with it this, lives for as long as the loop holds its loss: free the inputs now.
        given, self.given = self.given, None
        rows = self.step.rows
        if self.for_all and self.of_each is None and rows == 1:
            self.of_each = grad  # whatever it is added to, it is of the one record
        if self.of_each is not None:
            each, self.of_each = self.of_each, None
            given = given.reshape(1, -1).expand(rows, -1)
            grad = each.reshape(rows, given.shape[1], -1).to(grad.dtype)
        if not self.accept(grad):
            return
        layer, step = self.layer, self.step
        assert layer.rule is not None
        if step.autocast:
            with plain(grad):
                step.add(self.numbers, layer.rule(layer.module, given, grad))
        else:
            step.add(self.numbers, layer.rule(layer.module, given, grad))

    def run_again(
        self,
        places: Sequence[bool],
        unwatched: Callable[[], AbstractContextManager[None]],
        grads: Sequence[torch.Tensor | None],
    ) -> None:
        """``places`` says which of the output's tensors ``grads`` arrive for."""
        if self.step.looks_alone:
            return
        given, self.given = self.given, None
        arriving = iter(grads)
        by_output = batch_first(self.layer.module, [next(arriving) if place else None for place in places])
        there = [grad for grad in by_output if grad is not None]
        if not there or not self.accept(*there):
            return
        args, kwargs = given
        with plain(there[0]):
            try:
                with unwatched():
                    uses = any_layer(
                        self.layer.module, list(self.numbers), args, kwargs, by_output, self.step.rows
                    )
            except (RuntimeError, ValueError, NotImplementedError) as error:
                reason = str(error).strip().partition("\n")[0].rstrip(". ")
                raise InvalidInput(
                    f"{self.layer} has no rule for its per-sample gradients and cannot be run again sample by sample ({reason}); "
                    'freeze it, move its parameters into a layer of its own, or watch the model with mode="eval"'
                ) from error
            self.step.add(self.numbers, uses)

    def accept(self, *grads: torch.Tensor) -> bool:
        """Whether these gradients, which arrive just now, belong to a batch that a criterion saw."""
        step = self.step
        if not step.closed:
            return False
        if self.fired or step.done:
            raise InvalidInput(
                f"{self.layer} was differentiated twice for one batch, or after the next batch was begun; for gradient "
                "norms each batch has one backward pass, and run.batch(ids) stands before the forward pass"
            )
        for grad in grads:
            if grad.shape[:1] != (step.rows,):
                raise InvalidInput(_other_rows(self.layer, grad, step.rows))
        self.fired = True
        if step.check or step.one is not None:
            step.note_precision(grads[0].dtype)
        return True


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
