"""The kinds of criteria, as torch's modules and functions tell them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import nn
from torch.nn import functional

from .calling import inner_of

Kind = Literal["classes", "binary", "probabilities", "regression", "other"]
"""classes: cross-entropy of logits, or NLL of log-probabilities, which are logits too. binary: of lone logits;
probabilities: of their sigmoids. regression: of numbers, which have no class. other: one of the user's own."""

_KINDS: tuple[tuple[Kind, tuple[type[nn.Module], ...], tuple[Callable[..., Any], ...]], ...] = (
    ("classes", (nn.CrossEntropyLoss, nn.NLLLoss), (functional.cross_entropy, functional.nll_loss)),
    ("binary", (nn.BCEWithLogitsLoss,), (functional.binary_cross_entropy_with_logits,)),
    ("probabilities", (nn.BCELoss,), (functional.binary_cross_entropy,)),
    (
        "regression",
        (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss),
        (functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss),
    ),
)

_NO_SCORES = (
    nn.TripletMarginLoss, nn.TripletMarginWithDistanceLoss, nn.CosineEmbeddingLoss, nn.MarginRankingLoss, nn.HingeEmbeddingLoss, nn.GaussianNLLLoss,
    nn.PoissonNLLLoss, functional.triplet_margin_loss, functional.triplet_margin_with_distance_loss, functional.cosine_embedding_loss,
    functional.margin_ranking_loss, functional.hinge_embedding_loss, functional.gaussian_nll_loss, functional.poisson_nll_loss,
)  # fmt: skip


def kind_of(criterion: Callable[..., Any]) -> Kind:
    """The kind of a module, a function, or a functools.partial of one."""
    function = inner_of(criterion)
    for kind, modules, functions in _KINDS:
        if isinstance(criterion, modules) or function in functions:
            return kind
    return "other"


def compares(criterion: Callable[..., Any]) -> bool:
    """Whether it is one of torch's whose second argument is never a class, nor shares of classes."""
    function = inner_of(criterion)
    return function in _NO_SCORES or type(function) in _NO_SCORES
