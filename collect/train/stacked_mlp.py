"""Small MLPs of one recipe trained together: each layer of all models is one batched matrix product.

A small model's step is mostly the cost of calling its operations; K models at once make the same calls once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ..data.training import DeviceData
from ..models.build import build_model
from ..random_streams import order_of, seeded
from ..recipe import Recipe
from ..signals.ask import Recording
from .loop import split
from .optimizers import learning_rate
from .run import RunPlan

OnEpoch = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Trained:
    """A model of a stack as one of its own, or None and why; ``seconds`` are its share of the stack's."""

    model: nn.Module | None
    failure: str
    seconds: float


def stackable(recipe: Recipe, recording: Recording, *, augmented: bool, soft: bool) -> bool:
    """Whether models of a recipe can be trained as a stack: plain mlps by sgd in float32, of which nothing is traced.

    ``augmented``: the recipe changes these records at random; ``soft``: they have soft labels.
    """
    return (
        recipe.model == "mlp"
        and not recipe.model_options.get("dropout")
        and recipe.optimizer == "sgd"
        and recipe.precision == "fp32"
        and recipe.bias_lr == 1.0
        and recipe.clip_norm is None
        and recipe.early_stop is None
        and not (recipe.private or recording.traces or augmented or soft)
    )


def train_stack(
    held: DeviceData,
    recipe: Recipe,
    plans: Sequence[RunPlan],
    records: Sequence[np.ndarray],
    *,
    on_epoch: OnEpoch | None = None,
) -> list[Trained]:
    """Train a model for each plan on its ``records``, bool (N,); what `train_run` would, but for rounding.

    Each has the weights, the batches and the learning rates that its seed and its records give it alone; one whose
    epoch has fewer steps waits for the others. ``on_epoch(k, epoch)`` is called for each model k after each epoch. A
    model whose loss is no longer finite fails alone.
    """
    started = time.perf_counter()
    models = [_build(held, recipe, plan.seed) for plan in plans]
    weights, biases = _stacked(models)
    parameters = [*weights, *biases]
    momenta = [torch.zeros_like(value) for value in parameters]
    members = [torch.from_numpy(np.flatnonzero(each)) for each in records]
    orders = [order_of(plan.seed) for plan in plans]
    failures: dict[int, str] = {}
    for number, chosen in enumerate(members):
        if len(chosen) == 0:
            failures[number] = f"run {plans[number].run!r} has no record to train on"
    for epoch in range(1, recipe.epochs + 1):
        total = torch.zeros(len(plans), device=held.device)
        parts = [
            split(chosen[torch.randperm(len(chosen), generator=order)], recipe.batch_size)
            for chosen, order in zip(members, orders, strict=True)
        ]
        rates = _rates(recipe, epoch, parts).to(held.device)
        for (ids, share), rate in zip(_padded(parts, held.device), rates, strict=True):
            logits = _forward(held.inputs(held.x[ids.flatten()]).flatten(1), weights, biases)
            each = functional.cross_entropy(
                logits.flatten(0, 1),
                held.y[ids.flatten()],
                reduction="none",
                label_smoothing=recipe.label_smoothing,
            )
            losses = (each.view_as(share) * share).sum(1)
            grads = torch.autograd.grad(losses.sum(), parameters)
            total += losses.detach()
            _sgd(parameters, grads, momenta, rate, share[:, 0] > 0, recipe)
        for number in torch.nonzero(~torch.isfinite(total)).flatten().tolist():
            failures.setdefault(
                number,
                f"run {plans[number].run!r} diverged in epoch {epoch} of {recipe.epochs}: its loss is "
                f"{total[number].item()}; lower lr ({recipe.lr:g}) or set warmup_epochs",
            )
        if on_epoch is not None:
            for number in range(len(plans)):
                if number not in failures:
                    on_epoch(number, epoch)
    _unstack(models, weights, biases)
    seconds = (time.perf_counter() - started) / len(plans)
    return [
        Trained(None if number in failures else model, failures.get(number, ""), seconds)
        for number, model in enumerate(models)
    ]


def _build(held: DeviceData, recipe: Recipe, seed: int) -> nn.Module:
    with seeded(held.device, seed):
        return build_model(
            recipe.model,
            input_shape=held.input_shape,
            classes=held.classes,
            options=recipe.model_options,
        ).to(held.device)


def _linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def _stacked(models: Sequence[nn.Module]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Weights (K, inputs, outputs) and biases (K, 1, outputs) of each layer, trainable."""
    layers = list(zip(*map(_linears, models), strict=True))
    weights = [torch.stack([each.weight.detach().T for each in layer]) for layer in layers]
    biases = [torch.stack([each.bias.detach()[None] for each in layer]) for layer in layers]
    return [value.requires_grad_() for value in weights], [value.requires_grad_() for value in biases]


def _unstack(
    models: Sequence[nn.Module], weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor]
) -> None:
    with torch.no_grad():
        for number, model in enumerate(models):
            for layer, weight, bias in zip(_linears(model), weights, biases, strict=True):
                layer.weight.copy_(weight[number].T)
                layer.bias.copy_(bias[number, 0])


def _rates(recipe: Recipe, epoch: int, parts: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
    """The learning rate of each step of an epoch and each model (steps, K); 0 where a model has no batch left."""
    longest = max(map(len, parts))
    return torch.tensor(
        [
            [
                learning_rate(recipe, (epoch - 1) * len(part) + step, len(part)) if step < len(part) else 0.0
                for part in parts
            ]
            for step in range(longest)
        ]
    )


def _padded(
    parts: Sequence[Sequence[torch.Tensor]], device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For each step of an epoch ids (K, B) and each record's share of its model's mean loss, 0 for padding.

    A model without a batch has padding alone. Padding is a record of the model's own, so that what another holds, a NaN
    say, cannot reach it. The epoch goes to the device in one copy.
    """
    steps = max(map(len, parts))
    longest = max(len(batch) for part in parts for batch in part)
    ids = torch.zeros(steps, len(parts), longest, dtype=torch.int64)
    share = torch.zeros(steps, len(parts), longest)
    widths = [0] * steps
    for row, part in enumerate(parts):
        ids[:, row] = part[0][0] if len(part[0]) else 0
        for step, batch in enumerate(part):
            ids[step, row, : len(batch)] = batch
            share[step, row, : len(batch)] = 1 / max(1, len(batch))
            widths[step] = max(widths[step], len(batch))
    ids, share = ids.to(device), share.to(device)
    for step, width in enumerate(widths):
        yield ids[step, :, :width], share[step, :, :width]


def _forward(
    x: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Inputs (K * B, F) to logits (K, B, classes)."""
    out = x.view(len(weights[0]), -1, x.shape[1])
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        out = torch.baddbmm(bias, out, weight).relu()
    return torch.baddbmm(biases[-1], out, weights[-1])


def _sgd(
    parameters: Sequence[torch.Tensor],
    grads: Sequence[torch.Tensor],
    momenta: Sequence[torch.Tensor],
    rate: torch.Tensor,
    active: torch.Tensor,
    recipe: Recipe,
) -> None:
    """torch.optim.SGD's step for each model with its rate (K,); one that has no batch stays as it is."""
    with torch.no_grad():
        for value, grad, momentum in zip(parameters, grads, momenta, strict=True):
            step = grad.add(value, alpha=recipe.weight_decay)
            if recipe.momentum:
                moved = momentum * recipe.momentum + step
                momentum.copy_(torch.where(active[:, None, None], moved, momentum))
                step = step.add(moved, alpha=recipe.momentum) if recipe.nesterov else moved
            value.sub_(rate[:, None, None] * step)
