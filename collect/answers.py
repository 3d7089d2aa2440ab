"""Asking a finished model about every sample, and storing what it says as the signals of its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from ..store.errors import InvalidOption
from ..store.writer import RunWriter
from .choices import unknown_choice
from .queries import QUERIES, view
from .signals import SignalColumns, signals_from_logits
from .training_data import DeviceData

Logits = Literal["float16", "float32", "none"]
_FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class Recording:
    """What a run keeps beside its loss, phi and correctness.

    queries   the views asked for, see `parse_queries`
    traces    the eval trace of all audit samples and the train trace of the members
    logits    as float16 or float32, or "none"
    features  what the last layer sees, float16
    """

    queries: tuple[str, ...] = ("original",)
    traces: bool = False
    logits: Logits = "float16"
    features: bool = False

    def __post_init__(self) -> None:
        if self.logits not in get_args(Logits):
            raise unknown_choice("logits type", self.logits, get_args(Logits))

    def to_json(self) -> dict[str, Any]:
        """The choices as JSON values, as a run stores them."""
        return {**asdict(self), "queries": list(self.queries)}


def outputs(
    model: nn.Module, held: DeviceData, x: torch.Tensor, *, query: str, batch: int, features: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits (R, C) float32 of stored records x, and features (R, D) float16 where asked for.

    The model must be in eval mode and gradients off. Raises InvalidOption for a model without features(x).
    """
    inner = getattr(model, "features", None)
    if features and not callable(inner):
        raise InvalidOption(f"{type(model).__name__} has no features(x) method; leave features out")
    logits, hidden = [], []
    for start in range(0, len(x), batch):
        inputs = held.inputs(view(x[start : start + batch].to(held.device), query))
        logits.append(model(inputs).float())
        if features and callable(inner):
            # A second pass through the trunk: which layer comes after it, only the model knows.
            hidden.append(inner(inputs).flatten(1).half())
    return torch.cat(logits).cpu().numpy(), torch.cat(hidden).cpu().numpy() if features else None


def append_answers(
    writer: RunWriter,
    labels: np.ndarray,
    answers: Mapping[str, tuple[np.ndarray, np.ndarray | None]],
    kept: Logits,
) -> dict[str, SignalColumns]:
    """Store the `outputs` of all samples, query by query; the signals of each query.

    Logits beyond what float16 holds are kept as float32 in the whole run. Raises InvalidInput for NaN.
    """
    ids = np.arange(len(labels))
    found = {
        query: signals_from_logits(logits, labels, where=f"logits of run {writer.run!r}")
        for query, (logits, _) in answers.items()
    }
    widest = max(float(np.abs(logits).max(initial=0.0)) for logits, _ in answers.values())
    kind = np.float16 if kept == "float16" and widest < _FLOAT16_MAX else np.float32
    for query, (logits, features) in answers.items():
        writer.append_signals(
            ids,
            np.full(len(ids), QUERIES[query]),
            labels,
            loss=found[query].loss,
            phi=found[query].phi,
            correct=found[query].correct,
            logits=None if kept == "none" else logits.astype(kind),
            features=features,
        )
    return found
