"""Per-sample gradients that are products of two matrices: linear layers, and what shares their weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import nn

from .use import Dense, Use, parts, root, row_norms, wide


class Outer(NamedTuple):
    """Gradient l r^T (p, d) of each sample, left (B, p), right (B, d): a product of one position.

    ``found`` are the norms of left (B,), where they are known already.
    """

    left: torch.Tensor
    right: torch.Tensor
    found: torch.Tensor | None = None

    @property
    def rows(self) -> int:
        return len(self.left)

    @property
    def numbers(self) -> int:
        return self.left.shape[1] * self.right.shape[1]

    def norms(self) -> torch.Tensor:
        left = row_norms(self.left) if self.found is None else self.found
        return left * row_norms(self.right)

    def per_sample(self, rows: slice) -> torch.Tensor:
        return self.left[rows].unsqueeze(2) * self.right[rows].unsqueeze(1)

    def total(self) -> torch.Tensor:
        return self.left.T @ self.right


@dataclass(frozen=True, eq=False)
class Product:
    """Gradient L^T R (p, d) of each sample, left (B, T, p), right (B, T, d)."""

    left: torch.Tensor
    right: torch.Tensor

    @property
    def rows(self) -> int:
        return len(self.left)

    @property
    def numbers(self) -> int:
        return self.left.shape[2] * self.right.shape[2]

    def norms(self) -> torch.Tensor:
        _, positions, outputs = self.left.shape
        if matrix_route(positions, outputs, self.right.shape[2]) == "direct":
            return torch.cat(
                [
                    row_norms(self.per_sample(rows))
                    for rows in parts(self.rows, self.numbers, self.left.device)
                ]
            )
        squared = [
            (_gram(self.left[rows]) * _gram(self.right[rows])).sum((1, 2))
            for rows in parts(self.rows, 2 * positions**2, self.left.device)
        ]
        return root(torch.cat(squared))

    def per_sample(self, rows: slice) -> torch.Tensor:
        return self.left[rows].transpose(1, 2) @ self.right[rows]

    def total(self) -> torch.Tensor:
        return self.left.flatten(0, 1).T @ self.right.flatten(0, 1)


def matrix_route(positions: int, outputs: int, inputs: int) -> Literal["gram", "direct"]:
    """How to get |L^T R|_F of a sample with L (T, p) and R (T, d); T, p, d are the arguments.

    The Gram matrices, sum(L L^T * R R^T), take 2 T^2 (p + d) operations and the product itself 2 T p d: the cheaper of
    the two by operations, not by memory.
    """
    return "gram" if positions * (outputs + inputs) <= outputs * inputs else "direct"


def _gram(values: torch.Tensor) -> torch.Tensor:
    return values @ values.transpose(1, 2)


def joined(products: Sequence[Outer | Product]) -> Outer | Product:
    """Several uses of one weight as one: its gradients add up as more positions of one sequence do."""
    if len(products) == 1:
        return products[0]
    return Product(
        torch.cat([with_positions(product.left) for product in products], 1),
        torch.cat([with_positions(product.right) for product in products], 1),
    )


def with_positions(values: torch.Tensor) -> torch.Tensor:
    """(B, n) or (B, T, n) as (B, T, n)."""
    return values.unsqueeze(1) if values.ndim == 2 else values


def linear(module: nn.Module, x: torch.Tensor | None, grad: torch.Tensor) -> dict[str, Use]:
    """Uses of weight (p, d) and bias of nn.Linear, from its input (B, ..., d) and its output's gradient (B, ..., p).

    Without the input only the bias.
    """
    if grad.ndim == 2:
        left = wide(grad)
        norms = row_norms(left)
        bias = Dense(left, norms)
        return {"bias": bias} if x is None else {"bias": bias, "weight": Outer(left, wide(x), norms)}
    g = sequence(grad)
    uses: dict[str, Use] = {}
    if module.bias is not None:
        uses["bias"] = Dense(g.sum(1))
    if x is not None:
        uses["weight"] = Product(g, sequence(x))
    return uses


def transposed_linear(module: nn.Module, x: torch.Tensor | None, grad: torch.Tensor) -> dict[str, Use]:
    """As `linear`, for a weight kept as (d, p): the Conv1D of the transformers package, as GPT-2 has it."""
    g = sequence(grad)
    uses: dict[str, Use] = {}
    if module.bias is not None:
        uses["bias"] = Dense(g.sum(1))
    if x is not None:
        uses["weight"] = Product(sequence(x), g)
    return uses


def is_transposed_linear(module: nn.Module) -> bool:
    """Whether this is the Conv1D of the transformers package, which need not be installed to be known."""
    weight = module._parameters.get("weight")
    return (
        type(module).__name__ == "Conv1D"
        and weight is not None
        and weight.ndim == 2
        and getattr(module, "nf", None) == weight.shape[1]
    )


def sequence(values: torch.Tensor) -> torch.Tensor:
    """(B, ..., n) as (B, T, n)."""
    values = wide(values)
    return values.unsqueeze(1) if values.ndim == 2 else values.reshape(len(values), -1, values.shape[-1])
