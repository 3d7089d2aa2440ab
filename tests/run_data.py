"""What nine runs say of sixty samples, made up."""

from __future__ import annotations

from typing import Any

import numpy as np

SAMPLES = 60


def nine_runs(rng: np.random.Generator) -> dict[str, Any]:
    """keep, phi (9, 60), logits and features (9, 60, ...), and population (60,), the last 15, which no run trains on.

    Two shadow runs train on every other sample, and two on none: all have runs with and without them.
    """
    keep = rng.random((9, SAMPLES)) < 0.5
    keep[1:3], keep[3:5] = True, False
    population = np.arange(SAMPLES) >= 45
    keep &= ~population
    return {
        "keep": keep,
        "phi": rng.normal(0, 2, keep.shape) + keep,
        "population": population,
        "logits": rng.normal(0, 2, (9, SAMPLES, 3)).astype(np.float16),
        "features": rng.normal(0, 1, (9, SAMPLES, 4)).astype(np.float16),
    }


def of_texts(samples: int, seed: int, *, members: Any = 0.0) -> dict[str, Any]:
    """token_losses, token_z and lower_loss of texts of 1 to 30 tokens; ``members`` (samples,) have lower losses."""
    rng = np.random.default_rng(seed)
    ease = 1 + np.broadcast_to(np.asarray(members, float), (samples,))
    lengths = 1 + rng.integers(0, 30, samples)
    losses = [(rng.exponential(2, n) / by).astype(np.float32) for n, by in zip(lengths, ease, strict=True)]
    return {
        "token_losses": losses,
        "token_z": [rng.normal(0, 1, n).astype(np.float32) for n in lengths],
        "lower_loss": rng.uniform(1.5, 3, samples).astype(np.float32),
    }
