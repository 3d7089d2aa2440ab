"""Recipes by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Rate, momentum, decay and smoothing are the published ones for this kind of network (Jordan 2024), for the mean over
    # a batch of 1024 instead of the sum.
    "fast": {
        "model": "fast",
        "epochs": 10,
        "batch_size": 1024,
        "lr": 1.5,
        "momentum": 0.85,
        "nesterov": True,
        "weight_decay": 1.3e-3,
        "bias_lr": 64.0,
        "schedule": "one-cycle",
        "warmup_epochs": 2,
        "label_smoothing": 0.2,
        "flip": True,
        "flip_order": "alternate",
        "crop": 2,
        "crop_border": "reflect",
        "precision": "bf16",
    }
}
"""Fields of `Recipe` by the name of a preset; the others have their defaults."""
