"""One row that stands for all records, as of position embeddings: each record's norm is that of a batch of its own, or it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from losslake.collect.grad_norms.hooks import GradNormWatcher
from losslake.store.errors import InvalidInput
from torch import nn
from torch.nn import functional

N, T, WORDS, D, C = 22, 5, 30, 8, 3
X = torch.randint(0, 16, (N, T), generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % C

Way = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]
"""way(model, e (B, T, D), positions (T,)): (B, T, D)."""


class Placed(nn.Module):
    def __init__(self, way: Way) -> None:
        super().__init__()
        self.way = way
        self.words, self.places, self.halves = nn.Embedding(WORDS, D), nn.Embedding(16, D), nn.Embedding(2, D)
        self.inner, self.out = nn.Linear(D, D), nn.Linear(D, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.x = x
        h = self.way(self, self.words(x), torch.arange(x.shape[1]))
        out: torch.Tensor = self.out(torch.tanh(h).mean(1))
        return out


def in_place(m: Any, e: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    e = e * 1
    e += m.places(at)
    return e


def in_every_layer(m: Any, e: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    place = m.places(at[None])
    return torch.tanh(m.inner(e + place)) + place


RIGHT: dict[str, Way] = {
    "a row of ids": lambda m, e, at: e + m.places(at[None]),
    "ids alone": lambda m, e, at: e + m.places(at),
    "first": lambda m, e, at: m.places(at).unsqueeze(0) + e,
    "subtracted": lambda m, e, at: torch.sub(e, m.places(at), alpha=2.0),
    "in place": in_place,
    "expanded": lambda m, e, at: e + m.places(at).expand(len(e), -1, -1),
    "repeated": lambda m, e, at: torch.cat([e, m.places(at[None]).repeat(len(e), 1, 1)], 1),
    "in double": lambda m, e, at: (e + m.places(at).double()).float(),
    "in every layer": in_every_layer,
    "two tables": lambda m, e, at: e + (m.places(at) + m.halves(at % 2)).unsqueeze(0),
    "two calls": lambda m, e, at: torch.tanh(m.inner(e + m.places(at))) - m.places(at.flip(0)),
    "learned queries": lambda m, e, at: functional.scaled_dot_product_attention(
        m.places(at).expand(len(e), -1, -1), e, e
    ),
    "one of each record": lambda m, e, at: e + m.places(m.x[:, 0])[:, None],
    "no position but one": lambda m, e, at: e[:, :1] + m.places(at[:1]),
}
REFUSED: dict[str, Way] = {
    "one for all positions": lambda m, e, at: e + m.places(at[:1]) + m.places(at),
    "multiplied": lambda m, e, at: e * m.places(at),
    "scaled first": lambda m, e, at: e + m.places(at) * 2,
    "normalized first": lambda m, e, at: e + functional.layer_norm(m.places(at), (D,)),
    "added in parts": lambda m, e, at: torch.cat([e[:2] + m.places(at), e[2:] + m.places(at)]),
    "added and multiplied": lambda m, e, at: (e + m.places(at)) * m.places(at).sum(),
    "sequence first": lambda m, e, at: (e.transpose(0, 1) + m.places(at)[:, None]).transpose(0, 1),
}


def norms(model: nn.Module, batch: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The norms of all records, and the gradients of the last batch."""
    found = []
    with GradNormWatcher(model) as watcher:
        for ids in torch.arange(N).split(batch):
            model.zero_grad()
            watcher.begin()
            output = model(X[ids])
            loss = functional.cross_entropy(output, Y[ids])
            watcher.loss(
                loss, ids, float(len(ids)), lambda row, z=output, y=Y[ids]: functional.cross_entropy(z[row : row + 1], y[row : row + 1])
            )  # fmt: skip
            loss.backward()
            for step in watcher.take(last=True):
                for wrong in (step.faults, step.apart):
                    assert wrong is None or not wrong.any()
                found.append(step.norms)
    return torch.cat(found), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def alone(model: nn.Module) -> torch.Tensor:
    found = []
    for i in range(N):
        model.zero_grad()
        functional.cross_entropy(model(X[i : i + 1]), Y[i : i + 1]).backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append(torch.cat(grads).norm())
    return torch.stack(found)


# As long as the sequence, with a last batch as long, of one record, and of all.
BATCHES = [4, T, 7, 17, N, 1]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("way", RIGHT.values(), ids=RIGHT)
def test_each_record_has_the_norm_of_its_own(way: Way, batch: int) -> None:
    torch.manual_seed(0)
    model = Placed(way)
    found, grads = norms(model, batch)
    assert torch.allclose(found, alone(model), rtol=1e-4)
    model.zero_grad()
    last = torch.arange(N).split(batch)[-1]
    functional.cross_entropy(model(X[last]), Y[last]).backward()
    plain = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(grads, plain, strict=True))


@pytest.mark.parametrize("way", REFUSED.values(), ids=REFUSED)
def test_what_is_spread_otherwise_is_refused(way: Way) -> None:
    with pytest.raises(InvalidInput, match=r"layer places \(Embedding\) gave an output of shape \([15], 8\)"):
        norms(Placed(way), 4)
