"""What is laid down of a run before it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...store.format.records import Role
from ..data.training import DeviceData, TrainingData
from ..recipe import Recipe
from ..signals.ask import Recording


@dataclass(frozen=True)
class RunPlan:
    """One run to train: its name, role, the seed of weights, order and augmentation, and what it derives from."""

    run: str
    role: Role
    seed: int
    parent: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class RunSetup:
    """A plan with what it takes: the recipe, the ``records``, bool (N,), to train on, and what is recorded.

    ``data`` are all samples, ``held`` the same on the device that trains.
    """

    plan: RunPlan
    recipe: Recipe
    data: TrainingData
    held: DeviceData
    records: np.ndarray
    recording: Recording

    @property
    def members(self) -> np.ndarray:
        """Whom the run counts as members, bool (N,): nobody where it learns soft labels in place of theirs."""
        return self.records if self.data.soft is None else np.zeros_like(self.records)
