"""What the backward pass of one batch tells about each sample's gradient, gathered until the pass is over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from ...store.errors import InvalidInput
from .embedding import Rows, joined_rows, norms_of_tied
from .linear import Outer, Product, joined
from .use import Use, norms_of_sum, wide

_TOLERANCE = 1e-3
"""How far the gradients found may be from autograd's, as a share of the sum of their norms (float32, TF32)."""

_LOW_TOLERANCE = 2e-2
"""The same where autograd works in float16 or bfloat16, which rounds gradients to 8 to 11 bits."""

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
    """

    ids: torch.Tensor
    shares: torch.Tensor
    numbers: tuple[int, ...]
    factor: torch.Tensor
    faults: torch.Tensor | None

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
        self.closed = False
        self.ids: torch.Tensor | None = None
        self.rows = 0
        self.factor: torch.Tensor | None = None
        """d(what was differentiated) / d(a sample's own loss): () or (B,); None until the backward pass."""
        self.autocast = False
        """Whether the backward pass runs under autocast."""
        self.done = False
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

    def add_factor(self, grad: torch.Tensor, divisor: torch.Tensor | float) -> None:
        """The gradient of what was differentiated with respect to one criterion's result, and what the result divided by."""
        share = wide(grad)
        share = (share if share.ndim < 2 else share.flatten()) / divisor
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
        )
        self._norms, self._uses, self._totals = {}, {}, {}
        return found

    def _faults(self, parameters: int, device: torch.device) -> torch.Tensor:
        none = torch.zeros((), device=device)
        errors = torch.stack([self._errors.get(number, none).float() for number in range(parameters)])
        sizes = torch.stack([self._sizes.get(number, none).float() for number in range(parameters)])
        # Gradients that are zero but for rounding, as those of attention's key biases, add up to nothing.
        return (errors > self.tolerance * sizes) & (errors > self.tolerance * _NEGLIGIBLE * sizes.sum())


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
