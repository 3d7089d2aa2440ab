"""Per-sample gradient norms of a model as it stands, outside of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...store.errors import InvalidInput
from ..losses.cross_entropy import as_logits, two_class_logits
from ..signals.evaluation import eval_mode, ordered_inputs
from ..signals.queries import AS_IT_IS
from .hooks import GradNormWatcher, eager_model
from .layers import watched_layers

_BATCH = 128
"""Samples at a time: the backward pass holds the activations of all of them."""

Losses = Callable[[Any, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class GradNorms:
    """L2 norms of the gradients of B samples' losses, float32 (B,); higher = the sample pulls harder on the weights.

    norms       over all trainable parameters
    parameters  of each parameter's part, by its name; its squares add up to that of ``norms``
    """

    norms: torch.Tensor
    parameters: dict[str, torch.Tensor]


def per_sample_grad_norms(
    model: nn.Module, x: Any, y: torch.Tensor, *, losses: Losses | None = None
) -> GradNorms:
    """Exact gradient norms of each sample of one batch, in whatever mode the model is; its ``.grad`` stays as it is.

    ``losses(model(x), y)`` gives the samples' losses (B,), by default the cross-entropy.

    Raises InvalidOption for a layer without per-sample gradients, such as BatchNorm in train mode; InvalidInput where
    the gradients found do not add up to those of the batch, as for weights that are used past their layer.
    """
    with GradNormWatcher(model) as watcher, torch.enable_grad():
        output = eager_model(model)(x)
        each = (losses or _cross_entropy)(output, y)
        return _norms_of(watcher, each)


def ordered_norms(
    model: nn.Module, data: Any, ids: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(logits (B, C), labels (B,), gradient norms (B,)) of the samples ``ids`` in eval mode; see `ordered_inputs`.

    The norms are those of the clean cross-entropy.
    """
    inner = eager_model(model)
    watcher: GradNormWatcher | None = None
    with ExitStack() as stack:
        for x, y in ordered_inputs(model, data, ids, labels, AS_IT_IS, size=_BATCH):
            # Made here, as the model is in eval mode now.
            watcher = watcher or stack.enter_context(GradNormWatcher(inner))
            logits, norms = norms_of_batch(watcher, inner, x, y)
            yield logits, y, norms


def norms_of_batch(
    watcher: GradNormWatcher, model: Callable[[Any], Any], x: Any, y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits (B, C) detached, gradient norms (B,) of the clean cross-entropy) of one batch."""
    with torch.enable_grad():
        output = model(x)
        logits = as_logits(output)
        return logits, _norms_of(watcher, _cross_entropy(two_class_logits(output), y)).norms


def check_layers_in_eval_mode(model: nn.Module) -> None:
    """Raises InvalidOption for a layer that has no per-sample gradients even in eval mode."""
    inner = eager_model(model)
    with eval_mode(inner):
        watched_layers(inner)


def _cross_entropy(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(output.float(), y, reduction="none")


def _norms_of(watcher: GradNormWatcher, losses: torch.Tensor) -> GradNorms:
    """Norms of the batch that the watched model just saw, from its losses (B,)."""
    watcher.loss(losses, torch.arange(len(losses), device=losses.device), 1.0, lambda row: losses[row])
    trained = [value for value in watcher.parameters.values() if value.requires_grad]
    # Into nothing: a loop that adds up gradients over batches keeps its own.
    torch.autograd.grad(losses.sum(), trained, allow_unused=True)
    (found,) = watcher.take()
    if found.faults is not None and found.faults.any():
        wrong = [name for name, fault in zip(watcher.names, found.faults.tolist(), strict=True) if fault]
        raise InvalidInput(
            f"the per-sample gradients of {', '.join(wrong[:3])} do not add up to those of the batch, so their norms would be "
            "wrong: these weights are used past their layer; call the layer, or freeze it"
        )
    if found.apart is not None and found.apart.any():
        wrong = [name for name, fault in zip(watcher.names, found.apart.tolist(), strict=True) if fault]
        raise InvalidInput(
            f"the gradient norm found of a record is not that of its own loss, in {', '.join(wrong[:3])}: the rows that these "
            "weights see are not the records of the batch (batch first in every layer?); freeze them, or change the layer"
        )
    names = (watcher.names[number] for number in found.numbers)
    return GradNorms(found.norms, dict(zip(names, found.parts, strict=True)))
