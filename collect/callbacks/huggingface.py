"""Recording a run of the Hugging Face Trainer: a callback, and nothing else to change.

with losslake.open("lake").start_run("texts", samples=topics, members=ids) as run:
    callback = losslake.huggingface_callback(run, ids=ids, data=every_text, eval_trace=True)
    Trainer(model, args, train_dataset=texts_trained_on, callbacks=[callback]).train()
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ...store.errors import InvalidInput, InvalidOption, MissingExtra
from ...store.format.schema import CROSS_ENTROPY
from ..hook.loader import read_batch_ids
from ..hook.recorded_run import RecordedRun
from ..losses.cross_entropy import IGNORED
from ..random_streams import undisturbed_randomness
from ..signals.from_logits import Answers
from ..signals.queries import AS_IT_IS, Query
from ..signals.texts import logits_of, virtual_tokens
from .huggingface_answers import (
    Asking,
    Task,
    check_classes,
    task_of,
    text_loss_and_margin,
)

try:
    from transformers import TrainerCallback
except ImportError as missing:
    raise MissingExtra(
        "the Hugging Face callback needs transformers and accelerate; install them: pip install 'losslake[huggingface]'"
    ) from missing

_ID_COLUMN = "sample_id"


class HuggingFaceCallback(TrainerCallback):
    """What `huggingface_callback` returns; the Trainer calls its methods."""

    def __init__(
        self, run: RecordedRun, *, ids: Any, data: Any, eval_trace: bool, task: Task | None, tokens: bool
    ) -> None:
        if eval_trace and data is None:
            raise InvalidOption(
                "eval_trace needs data=, the records of all samples in the order of sample ids"
            )
        if tokens and data is None:
            raise InvalidOption("tokens needs data=, the records of all samples in the order of sample ids")
        self._run, self._ids, self._data, self._eval_trace, self._named = run, ids, data, eval_trace, task
        self._tokens = tokens
        # A key of its own: an older callback's hooks, left by a training that failed, take nothing from this one.
        self._key = f"losslake_{secrets.token_hex(4)}"
        self._task: Task = "classification"
        self._asking: Asking | None = None
        self._arrived: tuple[torch.Tensor, torch.Tensor, tuple[int, ...] | None] | None = None
        self._hooks: list[Any] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Follow the loader and the model; the point before training of the eval trace."""
        model, loader = given["model"], given["train_dataloader"]
        _check_supported(args, state)
        self._task = task_of(model, self._named)
        if self._tokens and self._task != "causal-lm":
            raise InvalidOption("tokens keeps the losses of a language model's tokens; leave it out")
        # accelerate wraps the loader that it iterates.
        inner: DataLoader[Any] = getattr(loader, "base_dataloader", loader)
        records, collate = inner.dataset, inner.collate_fn
        self._number(inner, columns_removed=args.remove_unused_columns, shuffled=_shuffles(args))
        if self._data is not None:
            batch = args.per_device_eval_batch_size
            columns = _columns(records)
            self._asking = Asking(
                self._task, self._data, collate, columns, batch, self._run.labels, self._tokens
            )
        # Outermost, around peft's adapters too: these are called with what the collator made, and return the logits.
        # Under torch.compile both stay outside the graph.
        for hook in self._hooks:  # of a try that ended by itself, as auto_find_batch_size begins anew
            hook.remove()
        self._hooks = [
            model.register_forward_pre_hook(torch.compiler.disable(self._before), with_kwargs=True),
            model.register_forward_hook(torch.compiler.disable(self._after)),
        ]
        if not self._run.traced_points:
            # A second train(), or try, goes on with the model as the last point has it.
            self._trace(model)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The epoch's train trace, and a point of the eval trace."""
        if not self._run.recording:
            raise InvalidInput(
                f"no batch of this epoch of run {self._run.name!r} reached the model with its sample ids; a compute_loss "
                "of one's own must call model(**inputs) with all that is in inputs"
            )
        self._run.end_epoch()
        self._trace(given["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The signals of the finished model: of the best one with load_best_model_at_end."""
        for hook in self._hooks:
            hook.remove()
        self._run.end_epoch()
        asking = self._asking
        if asking is not None:

            def ask(ids: np.ndarray, query: Query) -> Answers:
                if query != AS_IT_IS:
                    raise InvalidOption(
                        f"query {query.kind!r} is of pictures; start the run without queries="
                    )
                return asking.answers(given["model"], ids, where=f"the model of run {self._run.name!r}")

            self._run.evaluate_by(ask)

    def _number(self, loader: DataLoader[Any], *, columns_removed: bool, shuffled: bool) -> None:
        """Let the loader's batches carry the ids and labels of their samples."""
        data = loader.dataset
        own = self._ids is None and _own_ids(data, columns_removed=columns_removed)
        if shuffled and not own:
            raise InvalidInput(
                "shuffle_dataset has put the training data into another order, in which no record says which sample it is; leave it out (each "
                "epoch is shuffled all the same), or give the records a column sample_id and set remove_unused_columns=False"
            )
        ids = None if own else self._run.positions(data, self._ids)
        # The constructor is past, and a new loader would draw other random numbers: only what it reads is exchanged.
        loader.__dict__["dataset"] = _NumberedRecords(data, ids)
        loader.collate_fn = _CollateWithIds(loader.collate_fn, self._key, len(self._run.labels))

    def _before(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        ids, labels, lengths = (
            kwargs.pop(f"{self._key}_{name}", None) for name in ("ids", "labels", "lengths")
        )
        self._arrived = None if ids is None or labels is None else (ids, labels, lengths)
        return args, kwargs

    def _after(self, model: nn.Module, args: Any, output: Any) -> None:
        arrived, self._arrived = self._arrived, None
        # Without gradients it is asked once more about a batch of training, as for metrics.
        if arrived is None or not torch.is_grad_enabled():
            return
        ids, labels, lengths = arrived
        if self._task == "classification":
            logits = logits_of(output)
            self._run.batch(ids)
            check_classes(labels)
            self._run.record_logits(logits, labels)
            return
        found = text_loss_and_margin(output, labels, lengths, virtual=virtual_tokens(model))
        self._run.batch(ids)
        self._run.record(*found, name=CROSS_ENTROPY)

    def _trace(self, model: nn.Module) -> None:
        asking = self._asking
        if asking is not None and self._eval_trace:
            self._run.trace_eval_by(lambda ids: (*asking.loss_and_margin(model, ids), None))


def huggingface_callback(
    run: RecordedRun,
    *,
    ids: Any = None,
    data: Any = None,
    eval_trace: bool = False,
    task: Task | None = None,
    tokens: bool = False,
) -> HuggingFaceCallback:
    """A callback for a transformers Trainer that records the training as ``run``; leaving the run's block commits it.

    In every training step it records each sample's clean loss and margin (neither label smoothing nor accumulation is
    in them), for the train trace. Training itself is bitwise what it was. It works with mixed precision, gradient
    accumulation, every sampler of the Trainer, padding, DDP (torchrun), torch.compile and peft's adapters. trl's SFTTrainer
    is a Trainer too, which gives losses without margins; with completion masks the tokens of prompts count in no loss. Texts that
    follow each other in one row (padding_free, DataCollatorWithFlattening) have each its own loss; a data set of packed
    rows has none, as nothing in it says which texts they are of, and is refused.

    ids         (len(train_dataset),) the sample id of each record of train_dataset; by default its column sample_id,
                or else the members, in the order given to `start_run`. With a data set of the library datasets give
                ids, or set remove_unused_columns=False: the Trainer drops columns that the model does not take
    data        all samples in the order of sample ids, records like those of train_dataset: with it the finished
                model's signals are recorded
    eval_trace  record the loss and margin of every audit sample before training and after each epoch too
    task        "classification": cross-entropy, phi and logits of logits (batch, classes). "causal-lm": one number a
                sequence, means over its target tokens (labels other than -100): the loss is the mean negative
                log-likelihood, phi = log(p / (1 - p)) with p = exp(-loss); see `losses.cross_entropy`. By default as the
                model's class says
    tokens      of a language model's finished model, with ``data``: keep the loss of each counted token, and its z of Min-K%++
                (token_losses, token_z), at the price of a few passes over the logits

    Raises InvalidOption and InvalidInput, most of them when training begins: for a resumed training, DataParallel,
    FSDP and DeepSpeed, packing, a data set that trl has shuffled, and for ids and data that do not fit.
    """
    return HuggingFaceCallback(run, ids=ids, data=data, eval_trace=eval_trace, task=task, tokens=tokens)


def _check_supported(args: Any, state: Any) -> None:
    if state.global_step > 0:
        raise InvalidInput(
            f"training resumes at step {state.global_step}, and what the steps before recorded is lost; train from the start"
        )
    if args.n_gpu > 1:
        raise InvalidInput(
            "the Trainer splits batches over GPUs in one process; start it with torchrun, or show it one GPU"
        )
    if args.deepspeed or args.fsdp:
        raise InvalidInput(
            "the callback does not follow models that are sharded by FSDP or DeepSpeed; use DDP"
        )
    if getattr(args, "packing", False):
        raise InvalidInput(f"packing puts several texts into a row, and nothing says which: {_NO_PACKING}")


_NO_PACKING = "train with packing=False, or padding_free=True, which wastes nothing on padding either"


def _shuffles(args: Any) -> bool:
    """Whether trl has put the data set into another order before the training."""
    return bool(getattr(args, "shuffle_dataset", False))


def _columns(data: Any) -> frozenset[str] | None:
    """The fields of the records trained on: what the Trainer removed from them, ``data`` may still have."""
    record = _first_record(data)
    return frozenset(record) - {_ID_COLUMN} if isinstance(record, Mapping) else None


def _own_ids(data: Any, *, columns_removed: bool) -> bool:
    """Whether the records of a Trainer's data set carry their ids in a column ``sample_id``.

    Raises InvalidInput for streams, and for a data set of the library datasets whose unknown columns the Trainer has
    removed: whether there was one can no longer be seen, and the wrong ids would go unnoticed.
    """
    if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        raise InvalidInput(
            f"the training data is a {type(data).__name__}, whose records have no position that says which sample they "
            "are; give the Trainer a map-style data set"
        )
    record = _first_record(data)
    if isinstance(record, Mapping) and _ID_COLUMN in record:
        return True
    if columns_removed and type(data).__module__.split(".")[0] == "datasets":
        raise InvalidInput(
            "the Trainer has removed the columns that the model does not take, a column sample_id too if there was one; "
            "give the callback ids=, the sample id of each record, or set TrainingArguments(remove_unused_columns=False)"
        )
    return False


def _first_record(data: Any) -> Any:
    """The first record of a data set, every random stream left as it was."""
    with undisturbed_randomness(torch.device("cpu")):
        return data[0]


class _NumberedRecords(Dataset[tuple[int, Any]]):
    """A data set whose records come with their sample ids: (id, record).

    ``ids`` (records,) says which sample stands where; None: the record's own ``sample_id`` does, and is taken out.
    """

    def __init__(self, inner: Any, ids: np.ndarray | None) -> None:
        self.inner = inner
        self.ids = ids

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, position: int) -> tuple[int, Any]:
        return self._numbered(position, self.inner[position])

    def __getitems__(self, positions: Sequence[int]) -> list[tuple[int, Any]]:
        # Data sets that can read many records at once do so far faster.
        many = getattr(self.inner, "__getitems__", None)
        records = many(positions) if many else [self.inner[position] for position in positions]
        return [self._numbered(*each) for each in zip(positions, records, strict=True)]

    def _numbered(self, position: int, record: Any) -> tuple[int, Any]:
        if self.ids is not None:
            return int(self.ids[position]), record
        return int(record[_ID_COLUMN]), {name: value for name, value in record.items() if name != _ID_COLUMN}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "inner" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.inner, name)


class _CollateWithIds:
    """A collate function over (id, record): the batch as ``inner`` makes it, with ids and labels under keys of their own.

    Inside the batch they stay with their rows whatever the Trainer does: it fetches batches ahead, shards them over
    processes and may skip some. The labels go along a second time because it takes ``labels`` out where it computes the
    loss itself.
    """

    def __init__(self, inner: Callable[[list[Any]], Any], key: str, samples: int) -> None:
        self.inner, self.key, self.samples = inner, key, samples

    def __call__(self, records: list[tuple[int, Any]]) -> Any:
        batch = self.inner([record for _, record in records])
        if not isinstance(batch, MutableMapping) or "labels" not in batch:
            what = sorted(batch) if isinstance(batch, MutableMapping) else type(batch).__name__
            raise InvalidInput(f"the data collator gives {what}; the callback needs a mapping with labels")
        ids = torch.from_numpy(read_batch_ids([number for number, _ in records], self.samples))
        if any(isinstance(each, Mapping) and len(each.get("seq_lengths") or ()) > 1 for _, each in records):
            raise InvalidInput(f"a record is several texts in a row (seq_lengths): {_NO_PACKING}")
        lengths = _one_after_the_other(batch, [record for _, record in records])
        if lengths is not None:
            batch[f"{self.key}_lengths"] = lengths
        elif len(batch["labels"]) != len(ids):
            raise InvalidInput(
                f"the data collator makes {len(batch['labels'])} rows of {len(ids)} records; packed and otherwise "
                "rearranged batches have no loss a sample"
            )
        batch[f"{self.key}_ids"] = ids
        batch[f"{self.key}_labels"] = batch["labels"]
        return batch


def _one_after_the_other(batch: Mapping[str, Any], records: list[Any]) -> tuple[int, ...] | None:
    """The tokens of each record where a batch is one row of several texts; None where it is something else.

    Raises InvalidInput where a text's first token is predicted from the text before it.
    """
    row = batch.get("input_ids")
    if len(records) < 2 or not isinstance(row, torch.Tensor) or row.ndim != 2 or len(row) != 1:
        return None
    if not all(isinstance(record, Mapping) and "input_ids" in record for record in records):
        return None
    texts = [torch.as_tensor(record["input_ids"]) for record in records]
    whole = torch.cat(texts)
    if len(whole) > row.shape[1] or not torch.equal(row[0, : len(whole)], whole.to(row.dtype)):
        return None
    lengths = tuple(map(len, texts))
    starts = torch.tensor(lengths).cumsum(0)[:-1]
    labels = batch["labels"]
    if (
        labels.shape != row.shape
        or bool((labels[0, starts] != IGNORED).any())
        or bool((labels[0, len(whole) :] != IGNORED).any())
    ):
        raise InvalidInput(
            "the data collator puts several texts into a row, where the first token of a text is predicted from the text before it; its label must "
            "be -100, as in DataCollatorWithFlattening and trl's padding_free"
        )
    return lengths
