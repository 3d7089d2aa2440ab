"""What a criterion takes few columns for: scores of classes, or an embedding that proxies, centres or pairs compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from losslake.collect.losses.scores import CriterionCall, why_no_scores
from torch.nn import functional

DRAWS = 12
Criterion = Callable[[torch.Tensor, torch.Tensor], Any]


def hot(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.one_hot(y, z.shape[1]).float()


def of_true(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return z.softmax(1).gather(1, y[:, None])[:, 0]


def asymmetric(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    t, p = hot(z, y), z.sigmoid()
    low = (p - 0.05).clamp(0)
    return -(t * p.log() + (1 - t) * low**4 * (1 - low).clamp(1e-8).log()).sum(1).mean()


# Each draws a criterion of C columns.
OF_CLASSES: dict[str, Callable[[int], Criterion]] = {
    "weighted": lambda c: (lambda w: lambda z, y: functional.cross_entropy(z, y, weight=w, label_smoothing=0.2))(torch.rand(c) * 3 + 0.3),
    "priors": lambda c: (lambda p: lambda z, y: functional.cross_entropy(z + p, y))(torch.randn(c) * 3),
    "focal": lambda c: (lambda a: lambda z, y: (-a[y] * (1 - of_true(z, y)) ** 2 * of_true(z, y).log()).mean())(torch.rand(c) + 0.05),
    "half precision": lambda c: lambda z, y: functional.cross_entropy(z.bfloat16(), y),
    "hinge": lambda c: lambda z, y: functional.multi_margin_loss(z, y, margin=2.0),
    "one against the rest": lambda c: (lambda w: lambda z, y: functional.binary_cross_entropy_with_logits(z, hot(z, y), pos_weight=w))(torch.rand(c) * 9 + 0.1),
    "squares": lambda c: lambda z, y: (z - hot(z, y)).square().mean(),
    "asymmetric": lambda c: asymmetric,
    "of probabilities": lambda c: lambda p, y: -p.gather(1, y[:, None]).log().mean(),
    "of a norm": lambda c: lambda z, y: functional.cross_entropy(z / z.norm(dim=1, keepdim=True) / 0.04, y),
    "penalty": lambda c: (lambda w: lambda z, y: functional.cross_entropy(z, y, weight=w) + 0.01 * z.square().mean())(torch.rand(c) * 5 + 0.1),
}  # fmt: skip

OF_EMBEDDINGS: dict[str, Callable[[int], Criterion]] = {
    "proxies": lambda c: (lambda w: lambda z, y: functional.cross_entropy(z @ w.T, y))(torch.randn(c, c)),
    "cosines": lambda c: (lambda w: lambda z, y: functional.cross_entropy(functional.normalize(z) @ functional.normalize(w).T * 16, y))(torch.randn(c, c)),
    "centres": lambda c: (lambda w: lambda z, y: (z - w[y]).square().sum(1).mean())(torch.randn(c, c)),
    "directions": lambda c: (lambda w: lambda z, y: (1 - functional.cosine_similarity(z, w[y])).mean())(torch.randn(c, c)),
    "pairs": lambda c: lambda z, y: torch.where(y[:, None] == y, torch.cdist(z, z), (1 - torch.cdist(z, z)).relu()).square().mean(),
}  # fmt: skip


def reasons(make: Callable[[int], Criterion], columns: int) -> list[str]:
    torch.manual_seed(0)
    found = []
    for _ in range(DRAWS):
        z, y = torch.randn(16, columns), torch.randint(0, columns, (16,))
        found.append(why_no_scores(CriterionCall(make(columns), z, y)))
    return found


@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.parametrize("make", OF_CLASSES.values(), ids=OF_CLASSES)
def test_of_classes(make: Callable[[int], Criterion], columns: int) -> None:
    assert set(reasons(make, columns)) == {""}


@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.parametrize("make", OF_EMBEDDINGS.values(), ids=OF_EMBEDDINGS)
def test_of_embeddings(make: Callable[[int], Criterion], columns: int) -> None:
    # By the order of values alone about half of the proxies of two columns were taken for classes.
    found = reasons(make, columns)
    assert "" not in found
    assert all("lowest value" in why or "proxies and centres" in why for why in found)


def test_positions_and_ignored_ones() -> None:
    torch.manual_seed(0)
    z, y = torch.randn(4, 2, 5), torch.randint(0, 2, (4, 5))
    y[0, :3] = -100
    weight = torch.randn(2, 2)
    assert why_no_scores(CriterionCall(lambda z, y: 2 * functional.cross_entropy(z, y), z, y)) == ""

    def proxies(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(torch.einsum("bct,lc->blt", z, weight), y)

    assert why_no_scores(CriterionCall(proxies, z, y))
