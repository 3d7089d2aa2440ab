"""Loss and margin of each sample of a batch, whatever the criterion: classes, binary, labels, numbers or tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...store.errors import InvalidInput
from .calling import name_of, option, row_of, shape_of, tells_samples_apart, unreduced
from .cross_entropy import IGNORED
from .kinds import Kind, compares, kind_of
from .sample_losses import (
    LABELS,
    SampleLosses,
    at_known,
    binary_loss,
    logit,
    looks_like_probabilities,
    of_classes,
    of_positions,
    of_two_classes,
)
from .taken import Taken


@dataclass(eq=False)
class LossOf:
    """How the samples' losses come from a criterion.

    Classes: the clean cross-entropy of logits (B, C), whatever smoothing, weights or mixup the criterion has, at the
    target's class numbers, or at the samples table's labels where the target holds probabilities; likewise for a
    criterion of the user's own that is given such a target. A criterion of the user's own that is given probabilities, rows that add up to
    1, takes their logarithms itself, and so it is done here; one of torch's that takes logits is refused with them. Tokens or pixels, logits (B, C, ...) with a target
    (B, ...), or as a criterion of one's own may take them (B, ..., C): the mean over a sample's targets that are not
    ignored. Binary, (B,) or (B, 1): cross-entropy of two classes. Several labels a sample, (B, L): the mean of their
    binary cross-entropies, no margin. Regression and what else has a reduction: the criterion's own value of each
    sample, the mean over its outputs, no margin.
    """

    criterion: Callable[..., Any]
    kind: Kind = field(init=False)
    taken: Taken = field(init=False)
    outputs: int = field(default=1, init=False)
    """How many values of the criterion the loss of a sample is the mean of, where it is one of a fixed number."""
    _holds_probabilities: bool | None = field(default=None, init=False)
    _alone: bool = field(default=False, init=False)
    _called_with: tuple[torch.Size, torch.Size] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.kind = kind_of(self.criterion)
        self.taken = Taken(self.criterion, self.kind)
        if compares(self.criterion):
            self._holds_probabilities = False

    @property
    def of_probabilities(self) -> bool:
        """Whether the outputs are probabilities, as the first of them showed."""
        return self.taken.of_probabilities

    @property
    def loss_only(self) -> bool:
        """Whether a target is a number, not a class, or may be one."""
        return self.kind == "regression" or (self.kind == "other" and tells_samples_apart(self.criterion))

    def __call__(
        self,
        output: Any,
        target: Any,
        known: torch.Tensor,
        highest: int | None,
        more: Sequence[Any] = (),
        options: Mapping[str, Any] | None = None,
        result: Any = None,
    ) -> SampleLosses:
        """The values of one batch; ``output`` and ``target`` are the criterion's first arguments, then come ``more``; ``result``
        is what it returned, where that is known.

        ``known`` (B,) int64 are the samples table's labels on the output's device, -1 where there is none; ``highest``
        is the table's highest label, None where some are missing. The host does not wait for the device, but once
        in a run, to see the scale of the outputs, and once more for a criterion of the user's own.
        """
        options = options or {}
        self.outputs = 1
        if self._called_with is None and _rows_agree(output, target):
            self._called_with = output.shape[1:], target.shape[1:]
        if self.kind == "regression":
            return self._own(output, target, more, options)
        tensor = isinstance(target, torch.Tensor)
        whole = tensor and not target.is_floating_point() and target.dtype != torch.bool
        if tensor and self.kind in ("binary", "probabilities"):
            return self._binary(output, target, known, highest)
        if whole and isinstance(output, torch.Tensor):
            ignored = int(option(self.criterion, options, "ignore_index", IGNORED))
            if output.ndim > 2 and (self.kind == "classes" or _are_positions(output, target)):
                last = self.kind != "classes" and output.shape[:-1] == target.shape
                classes = output.ndim - 1 if last else 1
                if self.taken.takes_no_scores(output, target, more, options, classes, ignored, result):
                    return self._own(output, target, more, options)
                z = self.taken.as_logits(output, classes, target, more, options, ignored, result)
                return of_positions(z, target, ignored, maybe_last=self.kind != "classes")
            lone = output.numel() == len(output)
            # Whole numbers that a lone output is to hit may be counts, where the criterion can say so itself.
            flat = output.ndim <= 2 or self.kind == "classes"
            if flat and target.numel() == len(output) and not (lone and self.loss_only):
                if self.kind == "classes" and highest is None:
                    self.taken.check_columns(output, target, known)
                if not lone and self.taken.takes_no_scores(output, target, more, options, 1, ignored, result):
                    return self._own(output, target, more, options)
                z = (
                    self.taken.lone_logits(output, target, more, options)
                    if lone
                    else self.taken.as_logits(output, 1, target, more, options, ignored, result)
                )
                return of_classes(z, target, known, highest, ignored)
        if self.kind == "classes" or self._class_probabilities(output, target, highest):
            lone = isinstance(output, torch.Tensor) and output.numel() == len(output)
            if not lone and self.taken.takes_no_scores(output, target, more, options, 1, IGNORED, result):
                return self._own(output, target, more, options)
            z = (
                self.taken.lone_logits(output, target, more, options)
                if lone
                else self.taken.as_logits(output, 1)
            )
            return at_known(z, target, known, highest)
        return self._own(output, target, more, options)

    def as_called(self, output: Any, target: Any) -> tuple[Any, Any]:
        """Output and target of records asked in another place, in the shapes that the loop calls the criterion with.

        A loop often squeezes one of both, (B, 1) to (B,). Before its first call the target takes the output's shape, where both
        have as many values.
        """
        if not _rows_agree(output, target):
            return output, target
        if self._called_with is not None:
            return tuple(
                each.reshape(len(each), *shape) if _but_for_ones(each.shape[1:], shape) else each
                for each, shape in zip((output, target), self._called_with, strict=True)
            )
        if _but_for_ones(target.shape[1:], output.shape[1:]):
            target = target.reshape(output.shape)
        return output, target

    def _own(self, output: Any, target: Any, more: Sequence[Any], options: Mapping[str, Any]) -> SampleLosses:
        """The criterion's own value of each sample, the mean over its outputs."""
        if self.kind == "regression" and shape_of(output) != shape_of(target):
            raise InvalidInput(
                f"{name_of(self.criterion)} was called with an output of shape {shape_of(output)} and a target of shape "
                f"{shape_of(target)}; torch broadcasts them, so that each record's loss holds the targets of others: bring both "
                "to one shape, as with output.squeeze(1)"
            )
        losses = unreduced(self.criterion, output, target, more, options).detach().float()
        self.outputs = losses[:1].numel()
        each = losses.flatten(1).mean(1) if losses.ndim > 1 else losses
        if self.kind == "other" and not self._alone and len(each) > 1:
            # Once in a run the host waits for the device, to see that a record's loss is not that of others too.
            self._alone = self._check_alone(each, output, target, more, options)
        name = name_of(self.criterion) + (", mean of a record's outputs" if self.outputs > 1 else "")
        return SampleLosses(each, name=name)

    def _check_alone(
        self,
        each: torch.Tensor,
        output: Any,
        target: Any,
        more: Sequence[Any],
        options: Mapping[str, Any],
    ) -> bool:
        """Whether a record of this batch shows that it has the same loss alone; raises InvalidInput where it has another."""
        rows = len(each)
        # A record without loss may well have none alone either; a batch of these shows nothing.
        row = int(each.abs().nan_to_num(0.0).argmax())
        if not each[row] and not each.isnan().any():
            return False
        cut = [row_of(value, row, rows) for value in (output, target)]
        for more_of in ([row_of(value, row, rows) for value in more], more):
            try:
                alone = unreduced(self.criterion, cut[0], cut[1], more_of, options, rows=1)
            except (RuntimeError, ValueError, IndexError, InvalidInput):
                continue
            if torch.allclose(alone.detach().float().mean(), each[row], rtol=1e-2, atol=1e-5, equal_nan=True):
                return True
        raise InvalidInput(
            f"{name_of(self.criterion)}, called with an output of shape {shape_of(output)} and a target of shape {shape_of(target)}, gives a "
            "record another loss than it has alone: the shapes broadcast, or the losses depend on the other records of the batch; "
            f"bring both to one shape, or compute the samples' losses yourself: run.batch(ids), then run.record(losses)"
        )

    def _binary(
        self, output: torch.Tensor, target: torch.Tensor, known: torch.Tensor, highest: int | None
    ) -> SampleLosses:
        z = output.float()
        if self.kind == "probabilities":
            z = logit(z)
        t = target.detach().to(z.device, non_blocking=True).float()
        if t.shape != z.shape:
            raise InvalidInput(f"binary logits are {tuple(z.shape)}, their targets {tuple(t.shape)}")
        if self.kind == "binary":
            self.taken.note(z)
        if z.numel() != len(z):
            self.outputs = z[:1].numel()
            return SampleLosses(binary_loss(z, t).flatten(1).mean(1), name=LABELS)
        return of_two_classes(z.reshape(-1), t.reshape(-1), known, highest)

    def _class_probabilities(self, output: Any, target: Any, highest: int | None) -> bool:
        """Whether a criterion of the user's own is given logits and class probabilities, as mixup makes them."""
        if self._holds_probabilities is None:
            self._holds_probabilities = looks_like_probabilities(output, target, highest)
        return self._holds_probabilities


def _rows_agree(output: Any, target: Any) -> bool:
    tensors = isinstance(output, torch.Tensor) and isinstance(target, torch.Tensor)
    return tensors and output.ndim > 0 and target.ndim > 0 and len(output) == len(target)


def _are_positions(output: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether a class number is there for each position of outputs (B, C, ...) or (B, ..., C), as is none in CTC."""
    return target.ndim > 1 and target.shape in (output.shape[:1] + output.shape[2:], output.shape[:-1])


def _but_for_ones(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes differ in dimensions of 1 alone, and in some of these."""
    return shape != other and [n for n in shape if n != 1] == [n for n in other if n != 1]
