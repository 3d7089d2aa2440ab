"""Asking a model of the user's own, with data of the user's own, for a point of its trace or for its signals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ...store.errors import InvalidOption
from ..grad_norms.eval_pass import ordered_norms
from ..losses.classes import loss_and_margin
from ..losses.each_sample import LossOf, SampleLosses
from ..random_streams import undisturbed_randomness
from ..ranks import inner_model
from ..signals.evaluation import (
    check_fits,
    check_holds_all,
    device_of,
    eval_mode,
    ordered_outputs,
    records,
)
from ..signals.from_logits import Answers, answers_from_logits
from ..signals.queries import AS_IT_IS, Query, noisy, view

TracePoint = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""Loss, margin or None, gradient norm or None of S samples, (S,) each."""


_PIECE_BYTES = 32 << 20
"""Logits that are looked at together, in float32; what is made of them takes some times as much."""


@dataclass(frozen=True, eq=False)
class AskedModel:
    """A model and the data of all samples, in the order of their ids. Make it with `asked_model`.

    labels    (samples,) of the samples table, -1 where it has none
    by_target how a record's loss comes from its target in the data; None: it is the cross-entropy of its class number
    """

    model: nn.Module
    data: Any
    labels: np.ndarray
    by_target: LossOf | None

    def check_norms(self) -> None:
        """Raises InvalidOption where there are no gradient norms in eval mode."""
        if self.by_target is not None:
            raise InvalidOption(
                "gradient norms in eval mode are of the cross-entropy; leave grad_norm out, or watch_model in train mode"
            )

    def trace_point(
        self, ids: np.ndarray, *, norms: bool, unwatched: AbstractContextManager[None]
    ) -> TracePoint:
        """What the samples ``ids`` have in eval mode, with the norms of their gradients where wanted.

        ``unwatched`` is a block in which the model runs without being recorded.
        """
        if self.by_target is not None:
            found = self._losses(self.by_target, ids, AS_IT_IS)
            return found.loss, found.margin, None
        losses, margins, of_gradients = [], [], []
        with unwatched:
            for logits, labels, norm in (
                ordered_norms(self.model, self.data, ids, self.labels)
                if norms
                else (
                    (*both, None)
                    for both in ordered_outputs(self.model, self.data, ids, self.labels, AS_IT_IS)
                )
            ):
                loss, margin = loss_and_margin(logits, labels)
                losses.append(loss)
                margins.append(margin)
                if norm is not None:
                    of_gradients.append(norm)
        return torch.cat(losses), torch.cat(margins), torch.cat(of_gradients) if of_gradients else None

    def answers(self, ids: np.ndarray, query: Query, *, where: str) -> Iterator[tuple[np.ndarray, Answers]]:
        """What the model says of a view of the samples ``ids``, some of them at a time, in their order: (ids, answers).

        Of a loss that is no cross-entropy the loss alone. Logits are held for `_PIECE_BYTES` at a time: those of a million samples
        and a thousand classes fill no memory.
        """
        if self.by_target is not None:
            found = self._losses(self.by_target, ids, query)
            margin = None if found.margin is None else found.margin.double().cpu().numpy()
            # Of two classes phi is the margin.
            yield (
                ids,
                Answers(
                    found.loss.double().cpu().numpy(), margin, correct=None if margin is None else margin > 0
                ),
            )
            return
        done = 0
        for logits, labels in _pieces(ordered_outputs(self.model, self.data, ids, self.labels, query)):
            part = slice(done, done + len(labels))
            yield ids[part], answers_from_logits(logits, labels, where=where, first=done)
            done = part.stop

    def _losses(self, losses_of: LossOf, ids: np.ndarray, query: Query) -> SampleLosses:
        return _joined(ordered_losses(self.model, self.data, ids, self.labels, losses_of, query))


def asked_model(
    model: nn.Module,
    data: Any,
    labels: np.ndarray,
    *,
    watched: LossOf | None,
    criterion: Callable[..., Any] | None,
) -> AskedModel:
    """What to ask, by the ``watched`` criterion, where there is one, or by ``criterion`` instead of it."""
    losses = watched if criterion is None else LossOf(criterion)
    highest = highest_label(labels)
    two_classes = highest is not None and highest <= 1
    targets_count = losses is not None and needs_targets(losses, data, two_classes=two_classes)
    return AskedModel(model, data, labels, losses if targets_count else None)


def _pieces(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(logits, labels) of several batches together, as many as `_PIECE_BYTES` hold, and one at least."""
    held: list[tuple[np.ndarray, np.ndarray]] = []
    for z, y in batches:
        held.append((z.float().cpu().numpy(), y.cpu().numpy()))
        if sum(logits.nbytes for logits, _ in held) >= _PIECE_BYTES:
            yield np.concatenate([z for z, _ in held]), np.concatenate([y for _, y in held])
            held = []
    if held:
        yield np.concatenate([z for z, _ in held]), np.concatenate([y for _, y in held])


def _joined(parts: Iterable[SampleLosses]) -> SampleLosses:
    found = list(parts)
    margins = [part.margin for part in found if part.margin is not None]
    loss = torch.cat([part.loss for part in found])
    return SampleLosses(loss, torch.cat(margins) if len(margins) == len(found) else None)


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
