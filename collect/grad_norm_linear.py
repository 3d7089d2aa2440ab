"""Per-sample gradients that are products of two matrices: linear layers, and what shares their weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .grad_norm_route import matrix_route, parts
from .grad_norm_use import Dense, Use, squares, wide


@dataclass(frozen=True, eq=False)
class Product:
    """Gradient L^T R (p, d) of each sample, left (B, T, p), right (B, T, d).

    ``bias`` is left summed over the positions, where a bias has it: its norms are found once for both.
    """

    left: torch.Tensor
    right: torch.Tensor
    bias: Dense | None = None

    @property
    def rows(self) -> int:
        return len(self.left)

    @property
    def numbers(self) -> int:
        return self.left.shape[2] * self.right.shape[2]

    def squared_norm(self) -> torch.Tensor:
        _, positions, outputs = self.left.shape
        route = matrix_route(positions, outputs, self.right.shape[2])
        if route == "outer":
            left = squares(self.left) if self.bias is None else self.bias.squared_norm()
            return left * squares(self.right)
        if route == "gram":
            return torch.cat(
                [
                    (_gram(self.left[rows]) * _gram(self.right[rows])).sum((1, 2))
                    for rows in parts(self.rows, 2 * positions**2, self.left.device)
                ]
            )
        return torch.cat(
            [squares(self.per_sample(rows)) for rows in parts(self.rows, self.numbers, self.left.device)]
        )

    def per_sample(self, rows: slice) -> torch.Tensor:
        return self.left[rows].transpose(1, 2) @ self.right[rows]

    def total(self) -> torch.Tensor:
        return self.left.flatten(0, 1).T @ self.right.flatten(0, 1)


def _gram(values: torch.Tensor) -> torch.Tensor:
    return values @ values.transpose(1, 2)


def joined(products: Sequence[Product]) -> Product:
    """Several uses of one weight as one: its gradients add up as more positions of one sequence do."""
    if len(products) == 1:
        return products[0]
    return Product(
        torch.cat([product.left for product in products], 1),
        torch.cat([product.right for product in products], 1),
    )


def linear(module: nn.Module, x: torch.Tensor | None, grad: torch.Tensor) -> dict[str, Use]:
    """Uses of weight (p, d) and bias of nn.Linear, from its input (B, ..., d) and its output's gradient (B, ..., p).

    Without the input only the bias.
    """
    g = sequence(grad)
    bias = None if module.bias is None else Dense(over_positions(g))
    uses: dict[str, Use] = {} if bias is None else {"bias": bias}
    if x is not None:
        uses["weight"] = Product(g, sequence(x), bias)
    return uses


def transposed_linear(module: nn.Module, x: torch.Tensor | None, grad: torch.Tensor) -> dict[str, Use]:
    """As `linear`, for a weight kept as (d, p): the Conv1D of the transformers package, as GPT-2 has it."""
    g = sequence(grad)
    uses: dict[str, Use] = {}
    if module.bias is not None:
        uses["bias"] = Dense(over_positions(g))
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


def over_positions(values: torch.Tensor) -> torch.Tensor:
    """(B, T, n) summed to (B, n)."""
    return values.squeeze(1) if values.shape[1] == 1 else values.sum(1)
