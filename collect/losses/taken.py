"""What a criterion takes its outputs for, as the first records of a run show: scores of classes, logits or probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...store.errors import InvalidInput
from .calling import WAY_OUT, called_again, name_of, tells_samples_apart
from .cross_entropy import IGNORED
from .kinds import Kind, compares
from .sample_losses import binary_loss, logit
from .scale import ENOUGH_ROWS, are_probabilities, logits_of
from .scores import CriterionCall, no_scores, takes_logits, why_no_logit, why_no_scores

MANY_ROWS = 32
"""Lone outputs from 0 to 1 that are no logits any more."""

_NO_LOG_SHARES = 0.1
"""How far the logarithm of what a row's probabilities add up to may be from 0, by rounding and what is added to keep logarithms finite."""

_LOOKED_AT = 8
"""Records that show what a criterion takes its outputs for."""


@dataclass(eq=False)
class Taken:
    """What one criterion takes its outputs for. Each question is decided once, by the first records; the host waits for the device then."""

    criterion: Callable[..., Any]
    kind: Kind
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

    def __post_init__(self) -> None:
        if compares(self.criterion):
            self._why_no_scores = "it compares its arguments"

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
        return not self.takes_no_scores(output, target.reshape(-1), (), {}, 1, IGNORED, None)

    def takes_no_scores(
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
            call = CriterionCall(self.criterion, output.detach(), target, more, options, classes, ignored)
            if not len(output) or (call.hard and bool((target == ignored).all())):
                return False
            self._looked_at += len(output)
            if call.is_cross_entropy(result) and takes_logits(call):
                self._why_no_scores, self._looked_at = "", _LOOKED_AT
            else:
                self._why_no_scores = why_no_scores(call)
        if self._why_no_scores and not tells_samples_apart(self.criterion):
            raise InvalidInput(
                f"{no_scores(self.criterion, self._why_no_scores)}; it has no reduction that would give each record's own: {WAY_OUT}"
            )
        return bool(self._why_no_scores)

    def check_columns(self, output: torch.Tensor, target: torch.Tensor, known: torch.Tensor) -> None:
        """Once, of samples without labels: raises InvalidInput where the classes are the places in the batch."""
        rows = len(output)
        if rows < 2 or self._columns_known:
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

    def as_logits(
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
            if self.kind == "classes" and not shares and self._takes_log_probabilities:
                self._check_log_probabilities(output, classes)
            if shares and self.kind == "other" and isinstance(target, torch.Tensor):
                call = CriterionCall(self.criterion, output, target, more, options or {}, classes, ignored)
                self._of_logits = call.is_cross_entropy(result) and takes_logits(call)
        if not self.of_probabilities:
            return output
        if self.kind != "classes" and not self._of_logits:
            return logits_of(output)
        if self._scale_known:
            takes = "log-probabilities" if self._takes_log_probabilities else "logits"
            raise InvalidInput(
                f"{name_of(self.criterion)} takes {takes}, but was called with probabilities: each row lies from 0 to 1 and adds up to 1; leave "
                "the softmax out, or give it their logarithm"
            )
        return output

    @property
    def _takes_log_probabilities(self) -> bool:
        return "nll" in name_of(self.criterion).lower()

    def _check_log_probabilities(self, output: torch.Tensor, classes: int) -> None:
        if output.numel() and bool((output.detach().float().logsumexp(classes).abs() > _NO_LOG_SHARES).any()):
            raise InvalidInput(
                f"{name_of(self.criterion)} takes log-probabilities, but was called with others: the exponentials of a row do not add up to 1, so "
                "that the cross-entropy is not what is trained on; put a log_softmax before it, or use CrossEntropyLoss, which has one"
            )

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
        return logit(z) if self.of_probabilities else output

    def _takes_probabilities(
        self, output: torch.Tensor, target: Any, more: Sequence[Any], options: Mapping[str, Any]
    ) -> bool:
        t = target.detach().to(output.device).float().reshape(-1)
        # Of some outputs the two are the same by chance: then others tell, of another mean.
        for asked in (output.detach(), output.detach() / 2, (1 + output.detach()) / 2):
            z = asked.float().reshape(-1)
            said = called_again(self.criterion, (asked, target, *more), options, output.device)
            value = (
                said.detach().float().mean() if isinstance(said, torch.Tensor) else torch.tensor(float("nan"))
            )
            as_logits, as_shares = binary_loss(z, t).mean(), binary_loss(logit(z), t).mean()
            if torch.isclose(as_logits, as_shares, rtol=5e-3):
                continue
            for found, shares in ((as_logits, False), (as_shares, True)):
                for whole in (found, found * len(z)):  # a mean, or a sum
                    if torch.isclose(value.cpu(), whole.cpu(), rtol=1e-3):
                        return shares
            break
        raise InvalidInput(
            f"{name_of(self.criterion)} was called with a number from 0 to 1 a record, and its value is neither the cross-entropy of these as "
            "probabilities nor as logits, so that it is not known which they are; use BCELoss or BCEWithLogitsLoss of torch, or compute the "
            "samples' losses yourself: run.batch(ids), then run.record(losses)"
        )

    def note(self, z: torch.Tensor) -> None:
        """Logits (B, ...) of two classes each, for `shares_for_logits`."""
        inside = ((z >= 0) & (z <= 1)).all()
        self._inside = inside if self._inside is None else self._inside & inside
        self._rows_inside += len(z)
