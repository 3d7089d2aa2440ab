"""A model's losses of all samples under a criterion that is no cross-entropy of classes, in eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from ..losses.each_sample import LossOf, SampleLosses
from ..ranks import inner_model
from ..signals.evaluation import (
    check_fits,
    check_holds_all,
    device_of,
    eval_mode,
    records,
    undisturbed_randomness,
)
from ..signals.queries import Query, noisy, view


def needs_targets(losses: LossOf, data: Any, *, two_classes: bool) -> bool:
    """Whether a record's loss comes from its target in ``data``, and not from a class number.

    ``two_classes`` says that the samples table has the classes of a binary criterion.
    """
    if losses.kind == "classes" or not len(data):
        return False
    if losses.loss_only and losses.kind == "regression":
        return True
    device = torch.device("cpu")
    with undisturbed_randomness(device):
        _, y = next(records(data, [0]))
    y = torch.as_tensor(y)
    if losses.kind in ("binary", "probabilities"):
        # Of probabilities a class's logit would have to be made first.
        return y.numel() > 1 or not two_classes or losses.kind == "probabilities"
    return losses.loss_only and (y.is_floating_point() or y.numel() > 1)


def ordered_losses(
    model: nn.Module, data: Any, ids: np.ndarray, labels: np.ndarray, losses: LossOf, query: Query
) -> Iterator[SampleLosses]:
    """The losses of the samples ``ids``, batch by batch, in eval mode; ``data`` holds all in the order of sample ids.

    ``labels`` (N,) are those of the samples table, -1 where it has none. Raises as `evaluation.ordered_inputs` does.
    """
    check_holds_all(data, len(labels))
    model = inner_model(model)
    device = device_of(model)
    highest = highest_label(labels)
    done = 0
    with undisturbed_randomness(device), eval_mode(model):
        for x, y in records(data, ids):
            check_fits(query, x)
            asked = ids[done : done + len(x)]
            done += len(x)
            own = torch.from_numpy(asked).to(device)
            output = model(noisy(view(x.to(device), query, own), query, own))
            known = torch.from_numpy(labels[asked]).to(device)
            yield losses(output, torch.as_tensor(y).to(device), known, highest)


def highest_label(labels: np.ndarray) -> int | None:
    """The highest label of a samples table; None where some are missing (-1), or there are none."""
    return int(labels.max()) if len(labels) and labels.min() >= 0 else None
