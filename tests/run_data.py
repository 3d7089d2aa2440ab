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
