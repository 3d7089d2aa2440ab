"""Per-sample gradients of embeddings, alone or tied to a linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .linear import Outer, Product, sequence, with_positions
from .use import Use, parts, root


@dataclass(frozen=True, eq=False)
class Rows:
    """Gradient of a table (V, d) that took rows ids (B, T): right[b, t] (d,) is added to row ids[b, t]."""

    ids: torch.Tensor
    right: torch.Tensor
    height: int

    @property
    def rows(self) -> int:
        return len(self.ids)

    @property
    def numbers(self) -> int:
        return self.height * self.right.shape[2]

    def norms(self) -> torch.Tensor:
        # Positions of a sample that took the same row are summed first. Which they are, sorting tells without
        # the host waiting for a count, in T log T and not T^2 steps.
        batch, positions, width = self.right.shape
        sample = torch.arange(batch, device=self.ids.device).unsqueeze(1)
        keys, order = (sample * self.height + self.ids).flatten().sort(stable=True)
        place = torch.zeros_like(keys)
        place[1:] = (keys[1:] != keys[:-1]).cumsum(0)
        sums = self.right.new_zeros(batch * positions, width)
        sums.index_add_(0, place, self.right.flatten(0, 1)[order])
        owner = torch.zeros_like(keys)
        owner[place] = keys // self.height
        return self.right.new_zeros(batch).index_add_(0, owner, sums.square().sum(1)).sqrt_()

    def per_sample(self, rows: slice) -> torch.Tensor:
        ids, right = self.ids[rows], self.right[rows]
        made = right.new_zeros(len(ids), self.height, right.shape[2])
        return made.scatter_add_(1, ids.unsqueeze(2).expand_as(right), right)

    def total(self) -> torch.Tensor:
        made = self.right.new_zeros(self.height, self.right.shape[2])
        return made.index_add_(0, self.ids.flatten(), self.right.flatten(0, 1))


def embedding(module: nn.Embedding, x: torch.Tensor | None, grad: torch.Tensor) -> dict[str, Use]:
    """The use of the table of nn.Embedding, from its ids (B, ...) and its output's gradient (B, ..., d)."""
    if x is None:
        return {}
    ids, right = x.reshape(len(x), -1).long(), sequence(grad)
    if module.padding_idx is not None:
        # The table gets no gradient there.
        right = right.masked_fill((ids == module.padding_idx).unsqueeze(2), 0.0)
    return {"weight": Rows(ids, right, module.num_embeddings)}


def norms_of_tied(tables: Sequence[Rows], product: Outer | Product) -> torch.Tensor:
    """Norms (B,) of the sum of an embedding's and a linear layer's gradients of one weight (V, d).

    |E + P|^2 = |E|^2 + |P|^2 + 2 <E, P>, where <E, P> = sum over t, s of left[t, ids[s]] (right_P[t] . right_E[s]).
    """
    table = joined_rows(tables)
    left, right = with_positions(product.left), with_positions(product.right)
    cross = []
    positions = table.ids.shape[1] * left.shape[1]
    for rows in parts(table.rows, 2 * positions, table.ids.device):
        ids = table.ids[rows].unsqueeze(1).expand(-1, left.shape[1], -1)
        picked = left[rows].gather(2, ids)
        cross.append((picked * (right[rows] @ table.right[rows].transpose(1, 2))).sum((1, 2)))
    return root(table.norms().square() + product.norms().square() + 2 * torch.cat(cross))


def joined_rows(tables: Sequence[Rows]) -> Rows:
    """Several uses of one table as one."""
    if len(tables) == 1:
        return tables[0]
    ids = torch.cat([table.ids for table in tables], 1)
    return Rows(ids, torch.cat([table.right for table in tables], 1), tables[0].height)
