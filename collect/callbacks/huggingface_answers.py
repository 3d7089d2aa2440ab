"""What a transformers model says of records, one number a record: in a training step and in a pass over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from ...store.errors import InvalidInput, InvalidOption
from ..callables import unknown_choice
from ..losses.cross_entropy import as_logits, loss_and_margin, sequence_loss_and_margin
from ..losses.tokens import joined, token_losses
from ..random_streams import undisturbed_randomness
from ..signals.evaluation import check_holds_all, check_labels, device_of, eval_mode
from ..signals.from_logits import Answers, answers_from_logits, phi_from_loss
from ..signals.texts import logits_of, own_positions, virtual_tokens

Task = Literal["classification", "causal-lm"]
_CLASSIFIERS = (
    "ForSequenceClassification",
    "ForImageClassification",
    "ForAudioClassification",
    "ForMultipleChoice",
)


def task_of(model: nn.Module, named: Task | None) -> Task:
    """What the model is trained for: as ``named``, else as its class's name says. Raises InvalidOption."""
    if named is not None:
        if named not in get_args(Task):
            raise unknown_choice("task", named, get_args(Task))
        return named
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    # Adapters of peft keep the model that they change inside.
    base: Any = getattr(model, "get_base_model", None)
    inner = base() if base is not None else model
    name = type(inner).__name__
    if name.endswith(_CLASSIFIERS):
        config = getattr(inner, "config", None)
        problem = getattr(config, "problem_type", None)
        if problem == "regression" or (problem is None and getattr(config, "num_labels", None) == 1):
            # Whole numbers as targets look like class numbers.
            raise InvalidOption(
                f"{name} is trained as a regression (its config: num_labels {getattr(config, 'num_labels', None)}, problem_type "
                f"{problem}), which has no cross-entropy; write the loop yourself with run.watch_criterion(nn.MSELoss())"
            )
        return "classification"
    encodes = getattr(getattr(inner, "config", None), "is_encoder_decoder", False)
    if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() and not encodes:
        return "causal-lm"
    raise InvalidOption(
        f"{name} is not known to classify or to be a causal language model; name the callback's task= "
        "'classification' or 'causal-lm' if it is one of these"
    )


def check_classes(labels: torch.Tensor) -> None:
    """Raises InvalidInput for targets that are no class numbers, as regression and several labels a record have them."""
    if labels.is_floating_point():
        raise InvalidInput(
            f"labels are {labels.dtype}; regression and multi-label models have no cross-entropy"
        )


def batch_loss_and_margin(
    task: Task, logits: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean loss and margin (B,) of a batch; of a text see `losses.cross_entropy`. The host does not wait for the device."""
    with torch.no_grad(), torch.autocast(device_type=logits.device.type, enabled=False):
        labels = labels.to(logits.device, non_blocking=True)
        check_classes(labels)
        if task == "causal-lm":
            return sequence_loss_and_margin(logits, labels.long())
        return loss_and_margin(as_logits(logits), labels.reshape(-1).long())


def text_loss_and_margin(
    output: Any, labels: torch.Tensor, lengths: tuple[int, ...] | None = None, *, virtual: int = 0
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Loss and margin of the texts of a training step's batch; see `losses.cross_entropy`. The host does not wait for the device.

    ``output`` is a transformers model's, or that of trl's fused head, which has log-probabilities of the target tokens and no logits, so
    that there is no margin. ``lengths``: the tokens of each text, where one row holds them one after the other. ``virtual`` tokens of
    the model's own stand before each row, see `virtual_tokens`.
    """
    log_probs, counted = getattr(output, "log_probs", None), getattr(output, "label_mask", None)
    with torch.no_grad():
        if isinstance(log_probs, torch.Tensor) and isinstance(counted, torch.Tensor):
            # What stands for the token at t is at t - 1, and there is nothing for the first.
            log_probs, counted = (
                own_positions(each, labels.shape[1] - 1, virtual) for each in (log_probs, counted)
            )
            parts = list(_texts(log_probs.detach().float(), counted, lengths, last=1))
            return torch.cat([-p.where(own, 0.0).sum(dim=1) / own.sum(dim=1) for p, own in parts]), None
        logits = own_positions(logits_of(output), labels.shape[1], virtual)
        found = [batch_loss_and_margin("causal-lm", *part) for part in _texts(logits, labels, lengths)]
        losses, margins = zip(*found, strict=True)
        return torch.cat(losses), torch.cat(margins)


def _texts(
    values: torch.Tensor, labels: torch.Tensor, lengths: tuple[int, ...] | None, *, last: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """What is of each text where one row holds several, without its ``last`` positions; all rows without ``lengths``."""
    if lengths is None:
        yield values, labels
        return
    start = 0
    for length in lengths:
        part = slice(start, start + length - last)
        yield values[:, part], labels[:, part]
        start += length


@dataclass(frozen=True, eq=False)
class Asking:
    """How to ask a model: its task, the data of all samples in the order of their ids, and how they make a batch.

    columns  the names of a record's fields that the collate function takes; None: all
    labels   (samples,) of the samples table, -1 where it has none
    tokens   keep what a language model says of each token
    """

    task: Task
    data: Any
    collate: Callable[[list[Any]], Any]
    columns: frozenset[str] | None
    batch: int
    labels: np.ndarray
    tokens: bool = False

    def __post_init__(self) -> None:
        check_holds_all(self.data, len(self.labels))

    def loss_and_margin(self, model: nn.Module, ids: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and margin (len(ids),) of the samples ``ids``, the model in eval mode."""
        found = [batch_loss_and_margin(self.task, logits, y) for logits, y in self._outputs(model, ids)]
        losses, margins = zip(*found, strict=True)
        return torch.cat(losses), torch.cat(margins)

    def answers(self, model: nn.Module, ids: np.ndarray, *, where: str) -> Answers:
        """What the finished model says of the samples ``ids``; of texts loss and phi only, without logits."""
        if self.task == "causal-lm":
            lists: dict[str, Any] = {}
            if self.tokens:
                found = joined([token_losses(logits, y) for logits, y in self._outputs(model, ids)])
                loss = found.means()
                lists = {"token_losses": found.parts(found.loss), "token_z": found.parts(found.z)}
            else:
                loss = self.loss_and_margin(model, ids)[0].cpu().numpy().astype(np.float64)
            empty = np.isnan(loss)
            if empty.any():
                raise InvalidInput(
                    f"{where} gives no loss for {int(empty.sum())} samples, the first of them {ids[empty.argmax()]}: "
                    "a text of fewer than two tokens has nothing to predict, or the model has diverged"
                )
            # Not what is predicted, but what a text is about: attacks that go by class go by that.
            labels = self.labels[ids]
            return Answers(loss, phi_from_loss(loss), labels if (labels >= 0).all() else None, **lists)
        outputs = [
            (as_logits(z).float().cpu().numpy(), y.cpu().numpy().reshape(-1))
            for z, y in self._outputs(model, ids)
        ]
        logits, labels = (np.concatenate(each) for each in zip(*outputs, strict=True))
        return answers_from_logits(logits, labels, where=where)

    def _outputs(self, model: nn.Module, ids: np.ndarray) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        device = device_of(model)
        with undisturbed_randomness(device), eval_mode(model):
            for part, inputs in self._batches(ids):
                labels = inputs["labels"]
                if self.task == "classification":
                    check_classes(labels)
                    check_labels(self.labels, labels.reshape(-1), part)
                given = {
                    name: value.to(device) if isinstance(value, torch.Tensor) else value
                    for name, value in inputs.items()
                    if name != "labels"
                }
                logits = logits_of(model(**given))
                if self.task == "causal-lm":
                    logits = own_positions(logits, labels.shape[1], virtual_tokens(model))
                yield logits, labels

    def _batches(self, ids: np.ndarray) -> Iterator[tuple[np.ndarray, Any]]:
        for start in range(0, len(ids), self.batch):
            part = ids[start : start + self.batch]
            inputs = self.collate([self._record(int(number)) for number in part])
            if len(inputs["labels"]) == len(part):
                yield part, inputs
                continue
            for number in part:  # where several texts would stand in one row
                yield number[None], self.collate([self._record(int(number))])

    def _record(self, number: int) -> Any:
        record = self.data[number]
        if self.columns is None:
            return record
        return {name: value for name, value in record.items() if name in self.columns}
