"""Asking a model of the user's own, with data of the user's own, for a point of its trace or for its signals."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ...store.errors import InvalidInput, InvalidOption
from ...store.format.schema import CROSS_ENTROPY
from ..grad_norms.eval_pass import ordered_norms
from ..losses.criterion import LossOf
from ..losses.cross_entropy import loss_and_margin
from ..losses.sample_losses import SampleLosses
from ..losses.scale import are_probabilities, logits_of
from ..losses.taken import MANY_ROWS
from ..random_streams import undisturbed_randomness
from ..ranks import inner_model
from ..signals.calls import Call, ordered_answers, ordered_outputs
from ..signals.evaluation import check_holds_all, pair_of
from ..signals.from_logits import Answers, answers_from_logits, phi_from_loss
from ..signals.queries import AS_IT_IS, Query
from .positions import labels_tell, parts_in_another_order

TracePoint = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""Loss, margin or None, gradient norm or None of S samples, (S,) each."""

_PIECE_BYTES = 32 << 20
"""Logits that are looked at together, in float32; what is made of them takes some times as much."""


_FIRST = 8
"""Records that show what a criterion takes their outputs for."""


@dataclass(eq=False)
class _Scale:
    """The scale of a model's outputs, as the first batch shows it: logits, or probabilities, which are taken by their logarithms.

    losses  of the criterion trained with, where it is one of the user's own; it says what a lone output is
    classes  how many the samples table has, where nothing has said that outputs are logits of classes
    by_hand  whether the loop computes losses of its own: a model with other outputs than a logit a class is then no classifier
    """

    model: str
    losses: LossOf | None
    classes: int | None = None
    by_hand: bool = False
    of_probabilities: bool | None = None
    lone: int = 0
    lone_shares: int = 0

    def logits(self, output: Any, y: torch.Tensor) -> Any:
        """Logits of an output at labels y (B,). Warns once of probabilities."""
        if not isinstance(output, torch.Tensor) or not output.ndim:
            return output
        if output.numel() == len(output):
            if self.losses is not None:
                return self.losses.taken.lone_logits(output, y)
            self.lone += len(output)
            self.lone_shares += int(((output >= 0) & (output <= 1)).sum())
            return output
        self._check_columns(output)
        if self.of_probabilities is None:
            self.of_probabilities = are_probabilities(output, classes=1)
            if self.of_probabilities:
                warnings.warn(
                    f"{self.model} gives probabilities, rows that add up to 1, where logits are meant: taken are their logarithms, so that the "
                    "loss is -log p",
                    stacklevel=8,
                )
        return logits_of(output) if self.of_probabilities else output

    def _check_columns(self, output: torch.Tensor) -> None:
        """Once: warns of outputs that are more than the classes and may be an embedding; raises InvalidInput where losses are by hand."""
        classes, self.classes = self.classes, None
        if classes is None or output.ndim != 2 or output.shape[1] == classes:
            return
        what = f"{self.model} gives {output.shape[1]} numbers a record, and labels go from 0 to {classes - 1}"
        if self.by_hand:
            raise InvalidInput(
                f"{what}: nothing says that these are logits of classes, as the losses of this run are given to run.record; if they are, "
                "give criterion=nn.CrossEntropyLoss(), and if they are an embedding, there is no cross-entropy to record"
            )
        if output.shape[1] > classes:
            warnings.warn(
                f"{what}: they are taken for logits of {output.shape[1]} classes, as no criterion was watched or given; say so by "
                "criterion=nn.CrossEntropyLoss(), or, where they are an embedding, by the criterion trained with",
                stacklevel=9,
            )

    def check_logits(self, output: torch.Tensor) -> torch.Tensor:
        """The output (B, C), whose gradient norms were taken. Raises InvalidInput for probabilities."""
        if self.of_probabilities is None:
            self.of_probabilities = are_probabilities(output, classes=1)
        if self.of_probabilities:
            raise InvalidInput(
                f"{self.model} gives probabilities, rows that add up to 1, and gradient norms in eval mode are of the cross-entropy of "
                "logits; leave the softmax out, or leave grad_norm out"
            )
        return output

    def check_lone(self) -> None:
        """After all samples: raises InvalidInput where each has one number from 0 to 1, as sigmoid gives it."""
        if self.lone >= MANY_ROWS and self.lone == self.lone_shares:
            raise InvalidInput(
                f"{self.model} gives one number from 0 to 1 for each of {self.lone} records: these are probabilities of class 1, not logits; "
                "leave the sigmoid out, or give criterion=nn.BCELoss()"
            )


@dataclass(frozen=True, eq=False)
class AskedModel:
    """A model and the data of all samples, in the order of their ids. Make it with `asked_model`.

    labels    (samples,) of the samples table, -1 where it has none
    norms     whether the points of its trace have gradient norms
    by_target how a record's loss comes from its target in the data; None: it is the cross-entropy of its class number
    scale     turns probabilities into logits; see `_Scale`
    decide    is told the name of the loss that is recorded, and raises where it is not the run's
    call      how the model is asked
    """

    model: nn.Module
    data: Any
    labels: np.ndarray
    norms: bool
    by_target: LossOf | None
    decide: Callable[[str], None]
    call: Call
    scale: _Scale

    def trace_point(self, ids: np.ndarray, *, unwatched: AbstractContextManager[None]) -> TracePoint:
        """What the samples ``ids`` have in eval mode.

        ``unwatched`` is a block in which the model runs without being recorded.
        """
        if self.by_target is not None:
            with unwatched:
                found = self._losses(self.by_target, ids, AS_IT_IS)
            self.decide(found.name)
            return found.loss, found.margin, None
        self.decide(CROSS_ENTROPY)
        losses, margins, of_gradients = [], [], []
        with unwatched:
            for logits, labels, *norm in (
                ordered_norms(self.model, self.data, ids, self.labels)
                if self.norms
                else ordered_outputs(
                    self.model, self.data, ids, self.labels, AS_IT_IS, self.call, self.scale.logits
                )
            ):
                loss, margin = loss_and_margin(
                    self.scale.check_logits(logits) if self.norms else logits, labels
                )
                losses.append(loss)
                margins.append(margin)
                of_gradients += norm
        return torch.cat(losses), torch.cat(margins), torch.cat(of_gradients) if self.norms else None

    def answers(self, ids: np.ndarray, query: Query, *, where: str) -> Iterator[tuple[np.ndarray, Answers]]:
        """What the model says of a view of the samples ``ids``, some of them at a time, in their order: (ids, answers).

        Of a loss that is no cross-entropy the loss alone. Logits are held for `_PIECE_BYTES` at a time: those of a million samples
        and a thousand classes fill no memory.
        """
        if self.by_target is not None:
            found = self._losses(self.by_target, ids, query)
            self.decide(found.name)
            loss = found.loss.double().cpu().numpy()
            margin = None if found.margin is None else found.margin.double().cpu().numpy()
            if margin is None or found.name != CROSS_ENTROPY:
                # Of a record's positions phi is that of its mean loss, and it is not right or wrong as a whole.
                yield ids, Answers(loss, None if margin is None else phi_from_loss(loss))
                return
            # Of two classes phi is the margin.
            lone = self.by_target.kind in ("binary", "probabilities")
            yield ids, Answers(loss, margin if lone else phi_from_loss(loss), correct=margin > 0)
            return
        self.decide(CROSS_ENTROPY)
        done = 0
        for logits, labels in _pieces(
            ordered_outputs(self.model, self.data, ids, self.labels, query, self.call, self.scale.logits)
        ):
            part = slice(done, done + len(labels))
            yield ids[part], answers_from_logits(logits, labels, where=where, first=done)
            done = part.stop
        self.scale.check_lone()

    def _losses(self, losses_of: LossOf, ids: np.ndarray, query: Query) -> SampleLosses:
        highest = highest_label(self.labels)
        found = []
        for said, wanted, asked in ordered_answers(
            self.model, self.data, ids, len(self.labels), query, self.call
        ):
            known = torch.from_numpy(self.labels[asked]).to(wanted.device)
            output, target = losses_of.as_called(said, wanted)
            found.append(losses_of(output, target, known, highest))
        margins = [part.margin for part in found if part.margin is not None]
        loss = torch.cat([part.loss for part in found])
        margin = torch.cat(margins) if len(margins) == len(found) else None
        return SampleLosses(loss, margin, name=found[0].name)


def asked_model(
    model: nn.Module,
    data: Any,
    labels: np.ndarray,
    losses: LossOf | None,
    *,
    norms: bool,
    decide: Callable[[str], None],
    call: Call,
    by_hand: bool = False,
) -> AskedModel:
    """What to ask by the ``losses`` of a criterion, where there is one; ``by_hand``: the loop gives losses of its own.

    Raises InvalidOption for norms that it has not, and InvalidInput for data of parts that stand in another order than the whole,
    where no labels would tell whether that is the samples'.
    """
    if not isinstance(inner_model(model), nn.Module):
        raise InvalidInput(
            f"the model is a {type(model).__name__}; give the torch module, and to start_run forward=, a function (model, batch) -> (outputs, "
            "targets), where it is not called as model(x)"
        )
    by_target = losses is not None and _needs_targets(losses, model, data, labels, call)
    if (by_target or not labels_tell(labels, np.arange(len(labels)))) and parts_in_another_order(
        data, len(labels)
    ):
        raise InvalidInput(
            f"data ({type(data).__name__}) is put together of parts of a data set of all {len(labels)} samples, in another order than that "
            "one's: give that data set itself, or, where the samples stand in the order of the parts, list(data)"
        )
    if by_target and norms:
        raise InvalidOption(
            "gradient norms in eval mode are of the cross-entropy; leave grad_norm out, or watch_model in train mode"
        )
    if norms and call.forward is not None:
        raise InvalidOption(
            "gradient norms in eval mode are asked by model(x), without forward=; leave grad_norm out, or watch_model in train mode"
        )
    own = losses if losses is not None and losses.kind == "other" else None
    highest = highest_label(labels) if losses is None else None
    scale = _Scale(
        type(inner_model(model)).__name__, own, None if highest is None else highest + 1, by_hand=by_hand
    )
    return AskedModel(model, data, labels, norms, losses if by_target else None, decide, call, scale)


def highest_label(labels: np.ndarray) -> int | None:
    """The highest label of a samples table; None where some are missing (-1), or there are none."""
    return int(labels.max()) if len(labels) and labels.min() >= 0 else None


def _needs_targets(losses: LossOf, model: nn.Module, data: Any, labels: np.ndarray, call: Call) -> bool:
    """Whether a record's loss comes from its target in ``data``, and not from a class number of the samples table."""
    check_holds_all(data, len(labels))
    if not len(labels):
        return False
    if losses.kind == "regression":
        return True
    first = np.zeros(1, dtype=np.int64)
    if call.forward is None:
        with undisturbed_randomness(torch.device("cpu")):
            y = torch.as_tensor(pair_of(data, first)[1])
    else:
        ((_, y, _),) = ordered_answers(model, data, first, len(labels), AS_IT_IS, call)
    highest = highest_label(labels)
    if losses.kind in ("binary", "probabilities"):
        two_classes = highest is not None and highest <= 1
        # Of probabilities a class's logit would have to be made first.
        return y.numel() > 1 or not two_classes or losses.kind == "probabilities"
    if y.numel() > 1:
        return True
    if losses.kind == "classes":
        return False
    if y.is_floating_point():
        return True
    some = np.arange(min(_FIRST, len(labels)))
    ((output, y, _),) = ordered_answers(model, data, some, len(labels), AS_IT_IS, call)
    if isinstance(output, torch.Tensor) and output.numel() == len(output):
        # A whole number that a lone output is to hit is a count, as it is in a step; see `LossOf`.
        return losses.loss_only
    return not losses.taken.takes_scores(output, y)


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
