"""Loss and margin of each sample of a batch, whatever the criterion: classes, binary, labels, numbers or tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from ...store.errors import InvalidInput
from ...store.format.schema import CROSS_ENTROPY
from .calling import (
    WAY_OUT,
    called_again,
    inner_of,
    name_of,
    option,
    row_of,
    shape_of,
    tells_samples_apart,
    unreduced,
)
from .cross_entropy import IGNORED, as_logits, loss_and_margin, position_loss_and_margin
from .scale import ENOUGH_ROWS, are_probabilities, logits_of
from .scores import is_cross_entropy, no_scores, takes_logits, why_no_logit, why_no_scores

Kind = Literal["classes", "binary", "probabilities", "regression", "other"]
"""classes: cross-entropy of logits, or NLL of log-probabilities, which are logits too. binary: of lone logits;
probabilities: of their sigmoids. regression: of numbers, which have no class. other: one of the user's own."""

_KINDS: tuple[tuple[Kind, tuple[type[nn.Module], ...], tuple[Callable[..., Any], ...]], ...] = (
    ("classes", (nn.CrossEntropyLoss, nn.NLLLoss), (functional.cross_entropy, functional.nll_loss)),
    ("binary", (nn.BCEWithLogitsLoss,), (functional.binary_cross_entropy_with_logits,)),
    ("probabilities", (nn.BCELoss,), (functional.binary_cross_entropy,)),
    (
        "regression",
        (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss),
        (functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss),
    ),
)

_NO_SCORES = (
    nn.TripletMarginLoss, nn.TripletMarginWithDistanceLoss, nn.CosineEmbeddingLoss, nn.MarginRankingLoss, nn.HingeEmbeddingLoss, nn.GaussianNLLLoss,
    nn.PoissonNLLLoss, functional.triplet_margin_loss, functional.triplet_margin_with_distance_loss, functional.cosine_embedding_loss,
    functional.margin_ranking_loss, functional.hinge_embedding_loss, functional.gaussian_nll_loss, functional.poisson_nll_loss,
)  # fmt: skip
"""Losses of torch's whose second argument is never a class, nor shares of classes."""

BY_HAND = "the loop's own, given to run.record"
"""The name of losses that came without one."""

POSITIONS = "mean cross-entropy of a record's positions"
LABELS = "mean binary cross-entropy of a record's labels"

_SHARES_OFF = 1e-2
"""How far from 1 class probabilities in a target may add up."""

MANY_ROWS = 32
"""Lone outputs from 0 to 1 that are no logits any more."""

_LOOKED_AT = 8
"""Records that show what a criterion takes its outputs for."""

_LEAST_LOGIT = -100.0
"""BCELoss takes no logarithm of a probability to be lower."""


@dataclass(frozen=True, eq=False)
class SampleLosses:
    """Loss (B,) float32; margin (B,), or None where there is none; which samples have another label than the table's.

    ``name`` says which loss it is, as the run's facts have it; ``by_label`` whether labels were compared for ``wrong``.
    """

    loss: torch.Tensor
    margin: torch.Tensor | None = None
    wrong: torch.Tensor | None = None
    name: str = CROSS_ENTROPY
    by_label: bool = True


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
    outputs: int = field(default=1, init=False)
    """How many values of the criterion the loss of a sample is the mean of, where it is one of a fixed number."""
    _holds_probabilities: bool | None = field(default=None, init=False)
    _alone: bool = field(default=False, init=False)
    of_probabilities: bool = field(default=False, init=False)
    """Whether the outputs are probabilities, as the first of them showed."""
    _of_logits: bool = field(default=False, init=False)
    _rows_of_shares: int = field(default=0, init=False)
    _scale_known: bool = field(default=False, init=False)
    _why_no_scores: str | None = field(default=None, init=False)
    """Why outputs are no scores of classes; "" where they are, None where that was not looked at."""
    _inside: torch.Tensor | None = field(default=None, init=False)
    _rows_inside: int = field(default=0, init=False)
    _logit_known: bool = field(default=False, init=False)
    _columns_known: bool = field(default=False, init=False)
    _looked_at: int = field(default=0, init=False)
    _called_with: tuple[torch.Size, torch.Size] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.kind = _kind_of(self.criterion)
        function = inner_of(self.criterion)
        if function in _NO_SCORES or type(function) in _NO_SCORES:
            self._why_no_scores, self._holds_probabilities = "it compares its arguments", False

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
            if output.ndim > 2 and (target.ndim > 1 or self.kind == "classes"):
                last = self.kind != "classes" and output.shape[:-1] == target.shape
                classes = output.ndim - 1 if last else 1
                if self._no_scores(output, target, more, options, classes, ignored, result):
                    return self._own(output, target, more, options)
                z = self._as_logits(output, classes, target, more, options, ignored, result)
                return self._positions(z, target, ignored)
            lone = output.numel() == len(output)
            # Whole numbers that a lone output is to hit may be counts, where the criterion can say so itself.
            if target.numel() == len(output) and not (lone and self.loss_only):
                if self.kind == "classes" and highest is None and not self._columns_known:
                    self._check_columns(output, target, known)
                if not lone and self._no_scores(output, target, more, options, 1, ignored, result):
                    return self._own(output, target, more, options)
                z = (
                    self.lone_logits(output, target, more, options)
                    if lone
                    else self._as_logits(output, 1, target, more, options, ignored, result)
                )
                return _classes(z, target, known, highest, ignored)
        if self.kind == "classes" or self._class_probabilities(output, target, highest):
            lone = isinstance(output, torch.Tensor) and output.numel() == len(output)
            if not lone and self._no_scores(output, target, more, options, 1, IGNORED, result):
                return self._own(output, target, more, options)
            z = self.lone_logits(output, target, more, options) if lone else self._as_logits(output, 1)
            return _at_known(z, target, known, highest)
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

    def shares_for_logits(self) -> str:
        """What is odd about all outputs so far: from 0 to 1, as sigmoid gives them, under a loss of logits; "" where nothing is.

        The host waits for the device.
        """
        if self._inside is None or self._rows_inside < MANY_ROWS or not self._inside:
            return ""
        return (
            f"{name_of(self.criterion)} takes logits, but each number of {self._rows_inside} records lies from 0 to 1, as sigmoid gives them: "
            "leave the sigmoid out, or use BCELoss"
        )

    def takes_scores(self, output: Any, target: torch.Tensor) -> bool:
        """Whether outputs (B, C) are scores of classes to the criterion, at class numbers (B,)."""
        if (
            self.kind != "other"
            or not isinstance(output, torch.Tensor)
            or output.ndim != 2
            or output.shape[1] < 2
        ):
            return True
        return not self._no_scores(output, target.reshape(-1), (), {}, 1, IGNORED, None)

    def _no_scores(
        self,
        output: Any,
        target: Any,
        more: Sequence[Any],
        options: Mapping[str, Any],
        classes: int,
        ignored: int,
        result: Any,
    ) -> bool:
        """Whether a criterion of the user's own takes its outputs for something else than scores of classes, as its first batch shows.

        Raises InvalidInput where it does and gives no losses of single samples.
        """
        if self._why_no_scores is None or (not self._why_no_scores and self._looked_at < _LOOKED_AT):
            if self.kind != "other" or not isinstance(output, torch.Tensor) or output.shape[classes] < 2:
                return False
            hard = target.shape != output.shape
            if not len(output) or (hard and bool((target == ignored).all())):
                return False
            self._looked_at += len(output)
            asked = (self.criterion, output.detach(), target, more, options, classes, ignored)
            plain = hard and is_cross_entropy(result, output.movedim(classes, 1), target, ignored)
            if plain and takes_logits(*asked):
                self._why_no_scores, self._looked_at = "", _LOOKED_AT
            else:
                self._why_no_scores = why_no_scores(*asked)
        if self._why_no_scores and not tells_samples_apart(self.criterion):
            raise InvalidInput(
                f"{no_scores(self.criterion, self._why_no_scores)}; it has no reduction that would give each record's own: {WAY_OUT}"
            )
        return bool(self._why_no_scores)

    def _check_columns(self, output: torch.Tensor, target: torch.Tensor, known: torch.Tensor) -> None:
        """Once, of samples without labels: raises InvalidInput where the classes are the places in the batch."""
        rows = len(output)
        if rows < 2:
            return
        self._columns_known = True
        places = torch.arange(rows, device=target.device)
        if (
            tuple(output.shape) == (rows, rows)
            and bool((target.reshape(-1) == places).all())
            and bool((known < 0).all())
        ):
            raise InvalidInput(
                f"{name_of(self.criterion)} was called with a row of similarities a record, whose targets are the places in the batch: its "
                f"losses depend on the other records; {WAY_OUT}"
            )

    def _as_logits(
        self,
        output: Any,
        classes: int,
        target: Any = None,
        more: Sequence[Any] = (),
        options: Mapping[str, Any] | None = None,
        ignored: int = IGNORED,
        result: Any = None,
    ) -> Any:
        """The output, or the logarithms of what the first rows show to be probabilities. Raises InvalidInput where the criterion takes
        logits and is given these: one of torch's, or one of the user's own whose ``result`` is their cross-entropy at ``target``."""
        if not isinstance(output, torch.Tensor):
            return output
        if not self._scale_known:
            shares = are_probabilities(output, classes=classes)
            self._rows_of_shares += output.numel() // output.shape[classes] if shares else 0
            self._scale_known = not shares or self._rows_of_shares >= ENOUGH_ROWS
            self.of_probabilities = shares
            if shares and self.kind == "other" and isinstance(target, torch.Tensor):
                self._of_logits = is_cross_entropy(
                    result, output.movedim(classes, 1), target, ignored
                ) and takes_logits(self.criterion, output, target, more, options or {}, classes, ignored)
        if not self.of_probabilities:
            return output
        if self.kind != "classes" and not self._of_logits:
            return logits_of(output)
        if self._scale_known:
            takes = "log-probabilities" if "nll" in name_of(self.criterion).lower() else "logits"
            raise InvalidInput(
                f"{name_of(self.criterion)} takes {takes}, but was called with probabilities: each row lies from 0 to 1 and adds up to 1; leave "
                "the softmax out, or give it their logarithm"
            )
        return output

    def lone_logits(
        self,
        output: torch.Tensor,
        target: Any,
        more: Sequence[Any] = (),
        options: Mapping[str, Any] | None = None,
    ) -> torch.Tensor:
        """A lone output a record as the logit of class 1, of its probability where the criterion takes it for one.

        Raises InvalidInput for outputs from 0 to 1 that a criterion of the user's own may take for either.
        """
        z = output.detach().float()
        if self.kind == "other" and not self._scale_known and z.numel():
            self._scale_known = not ((z >= 0) & (z <= 1)).all()
            if not self._scale_known:
                self._scale_known = True
                self.of_probabilities = self._takes_probabilities(output, target, more, options or {})
        if self.kind == "other" and not self.of_probabilities and not self._logit_known and z.numel():
            self._logit_known = True
            why = why_no_logit(self.criterion, output.detach(), target, more, options or {})
            if why:
                raise InvalidInput(
                    f"{name_of(self.criterion)} does not take its first argument, a number a record, for a logit of class 1 ({why}), so that "
                    f"their cross-entropy is not what is trained on; {WAY_OUT}"
                )
        return torch.logit(z).clamp(_LEAST_LOGIT, -_LEAST_LOGIT) if self.of_probabilities else output

    def _takes_probabilities(
        self, output: torch.Tensor, target: Any, more: Sequence[Any], options: Mapping[str, Any]
    ) -> bool:
        z, t = output.detach().float().reshape(-1), target.detach().to(output.device).float().reshape(-1)
        said = called_again(self.criterion, (output.detach(), target, *more), options, output.device)
        value = said.detach().float().mean() if isinstance(said, torch.Tensor) else torch.tensor(float("nan"))
        as_logits = _binary_loss(z, t).mean()
        as_shares = _binary_loss(torch.logit(z).clamp(_LEAST_LOGIT, -_LEAST_LOGIT), t).mean()
        for found, shares in ((as_logits, False), (as_shares, True)):
            for whole in (found, found * len(z)):  # a mean, or a sum
                if torch.isclose(value.cpu(), whole.cpu(), rtol=1e-3):
                    return shares
        raise InvalidInput(
            f"{name_of(self.criterion)} was called with a number from 0 to 1 a record, and its value is neither the cross-entropy of these as "
            "probabilities nor as logits, so that it is not known which they are; use BCELoss or BCEWithLogitsLoss of torch, or compute the "
            "samples' losses yourself: run.batch(ids), then run.record(losses)"
        )

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

    def _positions(self, output: torch.Tensor, target: torch.Tensor, ignored: int) -> SampleLosses:
        """Of logits (B, C, ...) or (B, ..., C) and class numbers (B, ...): means over a sample's positions."""
        second = output.shape[:1] + output.shape[2:] == target.shape
        last = self.kind != "classes" and output.shape[:-1] == target.shape
        if second == last:
            raise InvalidInput(
                f"logits are {tuple(output.shape)} and targets {tuple(target.shape)}; with targets (batch, positions) logits "
                + (
                    "must be (batch, classes, positions)"
                    if not last
                    else "of as many classes as positions cannot be told which is which; use torch's cross_entropy"
                )
            )
        z = output.flatten(2).transpose(1, 2) if second else output.flatten(1, -2)
        labels = target.flatten(1).to(z.device, non_blocking=True).long()
        return SampleLosses(*position_loss_and_margin(z, labels, ignored), name=POSITIONS)

    def _binary(
        self, output: torch.Tensor, target: torch.Tensor, known: torch.Tensor, highest: int | None
    ) -> SampleLosses:
        z = output.float()
        if self.kind == "probabilities":
            z = torch.logit(z).clamp(_LEAST_LOGIT, -_LEAST_LOGIT)
        t = target.detach().to(z.device, non_blocking=True).float()
        if t.shape != z.shape:
            raise InvalidInput(f"binary logits are {tuple(z.shape)}, their targets {tuple(t.shape)}")
        if self.kind == "binary":
            inside = ((z >= 0) & (z <= 1)).all()
            self._inside = inside if self._inside is None else self._inside & inside
            self._rows_inside += len(z)
        if z.numel() != len(z):
            self.outputs = z[:1].numel()
            return SampleLosses(_binary_loss(z, t).flatten(1).mean(1), name=LABELS)
        z, t = z.reshape(-1), t.reshape(-1)
        wrong = None
        if highest is not None and highest <= 1:
            # Of the table's labels, so that label smoothing and mixup are not in it. Only a batch without these can
            # be told to be another one.
            own = known.float()
            wrong = ((t == 0) | (t == 1)).all() & (t != own)
            t = own
        hard = (t == 0) | (t == 1)
        margin = torch.where(hard, torch.where(t == 1, z, -z), torch.nan)
        return SampleLosses(_binary_loss(z, t), margin, wrong)

    def _class_probabilities(self, output: Any, target: Any, highest: int | None) -> bool:
        """Whether a criterion of the user's own is given logits and class probabilities, as mixup makes them."""
        if self._holds_probabilities is None:
            self._holds_probabilities = _looks_like_probabilities(output, target, highest)
        return self._holds_probabilities


def _classes(
    output: torch.Tensor, target: torch.Tensor, known: torch.Tensor, highest: int | None, ignored: int
) -> SampleLosses:
    logits = as_logits(output)
    labels = target.detach().reshape(-1).to(logits.device, non_blocking=True).long()
    # What the criterion leaves out has its label in the table, or else no loss.
    labels = torch.where(labels == ignored, known, labels)
    wrong = known != labels
    if highest is not None:
        return SampleLosses(*loss_and_margin(logits, labels), wrong)
    missing = labels < 0
    loss, margin = loss_and_margin(logits, labels.clamp(min=0))
    return SampleLosses(
        loss.masked_fill_(missing, torch.nan),
        margin.masked_fill_(missing, torch.nan),
        wrong & (known >= 0),
    )


def _at_known(output: Any, target: Any, known: torch.Tensor, highest: int | None) -> SampleLosses:
    """At the table's labels. A target that is none of probabilities, as the first ones were, is wrong."""
    if highest is None:
        raise InvalidInput(
            "the target of the criterion is no class number a sample, and the samples table has no labels to take "
            "instead; give start_run samples with labels"
        )
    logits = as_logits(output)
    wrong = None
    if isinstance(target, torch.Tensor) and target.ndim == 2 and target.shape[1] > 1:
        t = target.detach().to(logits.device, non_blocking=True).float()
        # A one-hot target need not be the record's own: CutMix may put another picture over all of it.
        wrong = (t.sum(1) - 1).abs() > _SHARES_OFF
    return SampleLosses(*loss_and_margin(logits, known), wrong, by_label=False)


def _binary_loss(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    # softplus keeps what 1 - p rounds away; an infinite logit of the other class must not count 0 times infinity.
    yes, no = functional.softplus(-z), functional.softplus(z)
    return torch.where(t == 1, yes, torch.where(t == 0, no, t * yes + (1 - t) * no))


def _looks_like_probabilities(output: Any, target: Any, highest: int | None) -> bool:
    if highest is None or not isinstance(output, torch.Tensor) or not isinstance(target, torch.Tensor):
        return False
    if output.ndim not in (1, 2) or target.numel() != output.numel() or not target.is_floating_point():
        return False
    t = target.detach().float().reshape(len(output), -1)
    if highest >= max(2, t.shape[1]):
        return False
    sums = t.shape[1] == 1 or bool(((t.sum(1) - 1).abs() < _SHARES_OFF).all())
    return sums and bool(((t >= 0) & (t <= 1)).all())


def _kind_of(criterion: Callable[..., Any]) -> Kind:
    """The kind of a module, a function, or a functools.partial of one."""
    function = inner_of(criterion)
    for kind, modules, functions in _KINDS:
        if isinstance(criterion, modules) or function in functions:
            return kind
    return "other"


def _rows_agree(output: Any, target: Any) -> bool:
    tensors = isinstance(output, torch.Tensor) and isinstance(target, torch.Tensor)
    return tensors and output.ndim > 0 and target.ndim > 0 and len(output) == len(target)


def _but_for_ones(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes differ in dimensions of 1 alone, and in some of these."""
    return shape != other and [n for n in shape if n != 1] == [n for n in other if n != 1]
