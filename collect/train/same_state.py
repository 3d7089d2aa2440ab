"""When one training run may go on from where another one was: everything that decides about its state after an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data.load import content_digest
from ..recipe import to_json
from .plan import RunSetup

_STATE = 1
"""Version of what `state_of` answers."""


def what_decides(setup: RunSetup) -> dict[str, Any]:
    """As JSON values: recipe, seed, members, data, what is traced, and the kind of device. What is asked of the trained
    model is no part of it.
    """
    data = setup.data
    arrays = [(data.x, data.y), (data.mean, data.std)]
    if data.soft is not None:
        arrays.append((data.soft, np.array([data.temperature])))
    return {
        "losslake's checkpoints": _STATE,
        **to_json(setup.recipe),
        "seed": setup.plan.seed,
        "traces": setup.recording.traces,
        "grad_norms": setup.recording.grad_norms,
        "device": setup.held.device.type,
        "members": content_digest(setup.records, data.population),
        "data": [content_digest(*pair) for pair in arrays],
    }


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first thing that was another one, for a sentence: "lr 0.1, not 0.05" or "other members"."""
    name = next((name for name in now if before.get(name) != now[name]), "options")
    if name in ("members", "data", "options"):
        return f"other {name}"
    return f"{name} {before.get(name)!r}, not {now[name]!r}"
