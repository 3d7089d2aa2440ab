"""Asking a finished model about every sample, and storing what it says as the signals of its run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from ...store.errors import InvalidOption
from ...store.write.run_writer import RunWriter
from ..callables import unknown_choice
from ..data.training import DeviceData
from .from_logits import SignalColumns, signals_from_logits
from .queries import Query, expand_queries, model_inputs

Logits = Literal["float16", "float32", "none"]
Norms = Literal["none", "train", "eval"]
Answer = tuple[np.ndarray, np.ndarray | None]
_FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class Recording:
    """What a run keeps beside its loss, phi and correctness.

    queries   the views asked for, as `parse_queries` gives them
    traces    the eval trace of all audit samples and the train trace of the members
    logits    as float16 or float32, or "none"
    features  what the last layer sees, float16
    grad_norms  the norm of each sample's gradient, in the train trace (of the loss trained on) or the eval trace (of
              the clean cross-entropy, in eval mode, as models with BatchNorm need it)
    """

    queries: tuple[str, ...] = ("original",)
    traces: bool = False
    logits: Logits = "float16"
    features: bool = False
    grad_norms: Norms = "none"

    def __post_init__(self) -> None:
        if self.logits not in get_args(Logits):
            raise unknown_choice("logits type", self.logits, get_args(Logits))
        if self.grad_norms not in get_args(Norms):
            raise unknown_choice("grad_norms", self.grad_norms, get_args(Norms))
        if self.grad_norms != "none" and not self.traces:
            raise InvalidOption("gradient norms are part of the traces; switch traces on, or grad_norms off")

    def views(self) -> tuple[Query, ...]:
        """Every single view, in the order of their numbers."""
        return expand_queries(self.queries)

    def to_json(self) -> dict[str, Any]:
        """The choices as JSON values, as a run stores them."""
        return {**asdict(self), "queries": list(self.queries)}


def outputs(
    model: nn.Module, held: DeviceData, x: Any, *, query: Query, batch: int, features: bool = False
) -> Answer:
    """Logits (R, C) float32 of stored records x, one array or several inputs, and features (R, D) float16 where asked for.

    For a query that is not plain, x must be the experiment's samples in the order of their ids. Views are made batch
    by batch. The model must be in eval mode and gradients off. Raises InvalidOption for a model without features(x).
    """
    inner = getattr(model, "features", None)
    if features and not callable(inner):
        raise InvalidOption(f"{type(model).__name__} has no features(x) method; leave features out")
    logits, hidden = [], []
    for start in range(0, len(x), batch):
        part = x[start : start + batch].to(held.device)
        ids = torch.arange(start, start + len(part), device=held.device)
        if held.nested:
            logits.append(held.logits(model, part).float())  # as they are: other views were refused
            continue
        inputs = model_inputs(held, part, query, ids)
        logits.append(model(inputs).float())
        if features and callable(inner):
            # A second pass through the trunk: which layer comes after it, only the model knows.
            hidden.append(inner(inputs).flatten(1).half())
    return torch.cat(logits).cpu().numpy(), torch.cat(hidden).cpu().numpy() if features else None


def append_answers(
    writer: RunWriter, labels: np.ndarray, ask: Callable[..., Answer], recording: Recording
) -> SignalColumns:
    """Ask every query, ``ask(query=query)`` giving its `outputs` of all samples, and store them; the first's signals.

    Logits beyond what float16 holds are kept as float32 in the whole run. That is seen from the plain queries, which
    are held together; neighbours, of which there may be many, are asked and stored one by one, and larger logits of
    theirs are cut off at float16's largest number, after loss and phi were taken. Raises InvalidInput for NaN.
    """
    queries = recording.views()
    plain = [(query, ask(query=query)) for query in queries if query.plain]
    widest = max(float(np.abs(logits).max(initial=0.0)) for _, (logits, _) in plain)
    wide = recording.logits == "float32" or not widest < _FLOAT16_MAX
    kind = None if recording.logits == "none" else np.float32 if wide else np.float16
    found = [_append(writer, labels, query, answer, kind) for query, answer in plain]
    for query in queries:
        if not query.plain:
            _append(writer, labels, query, ask(query=query), kind)
    return found[0]


def _append(
    writer: RunWriter, labels: np.ndarray, query: Query, answer: Answer, kind: type[np.floating] | None
) -> SignalColumns:
    logits, features = answer
    found = signals_from_logits(logits, labels, where=f"logits of run {writer.run!r}")
    if kind is np.float16:
        logits = logits.clip(-_FLOAT16_MAX, _FLOAT16_MAX)
    writer.append_signals(
        np.arange(len(labels)),
        np.full(len(labels), query.number),
        labels,
        loss=found.loss,
        phi=found.phi,
        correct=found.correct,
        logits=None if kind is None else logits.astype(kind),
        features=features,
    )
    return found
