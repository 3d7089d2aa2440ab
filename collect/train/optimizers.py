"""The optimizer and the learning rates that a recipe asks for."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import nn

from ..recipe import Recipe


# torch marks these methods for its compiler, which the first call imports for it: 2 s of a process that compiles nothing.
# They are called as they are.
class _Plain:
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class _SGD(_Plain, torch.optim.SGD):
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class _Adam(_Plain, torch.optim.Adam):
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class _AdamW(_Plain, torch.optim.AdamW):
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def make_optimizer(model: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer for a model's trainable parameters; `set_rate` gives it the rate of a step."""
    # Fused steps on a GPU are faster, and with a GradScaler the only ones that do not wait for the device.
    common: dict[str, Any] = {
        "lr": recipe.lr,
        "weight_decay": recipe.weight_decay,
        "fused": True if device.type == "cuda" else None,
    }
    groups = _groups(model, recipe)
    if recipe.optimizer == "sgd":
        return _SGD(groups, momentum=recipe.momentum, nesterov=recipe.nesterov, **common)
    return (_AdamW if recipe.optimizer == "adamw" else _Adam)(groups, **common)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Make the next step one with this learning rate, that of biases ``bias_lr`` times as high."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(_FACTOR, 1.0)


_FACTOR = "lr_factor"


def _groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    others: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    for name, value in model.named_parameters():
        if value.requires_grad:
            apart = recipe.bias_lr != 1.0 and name.rpartition(".")[2] == "bias"
            (biases if apart else others).append(value)
    # A step's decay is rate times weight decay: this leaves that of the biases as it is.
    decay = recipe.weight_decay / recipe.bias_lr
    groups: list[dict[str, Any]] = [
        {"params": others},
        {"params": biases, "weight_decay": decay, _FACTOR: recipe.bias_lr},
    ]
    return [group for group in groups if group["params"]]


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The rate of step 0, 1, ... of a run.

    Linear warm-up that reaches ``lr`` with the first step after ``warmup_epochs``; then cosine to 0 at the end
    of the last epoch, or ``lr`` times ``step_gamma`` for each of ``step_epochs`` that is over, or in a straight line to 0
    (one-cycle), or ``lr``.
    """
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1, recipe.epochs * steps_per_epoch - warmup)
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * share))
    if recipe.schedule == "one-cycle":
        return recipe.lr * (1 - share)
    if recipe.schedule == "step":
        return recipe.lr * recipe.step_gamma ** sum(
            step >= epoch * steps_per_epoch for epoch in recipe.step_epochs
        )
    return recipe.lr
