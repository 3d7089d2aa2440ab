"""The learning rate of each step."""

from __future__ import annotations

import math

from ..recipe import Recipe


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
