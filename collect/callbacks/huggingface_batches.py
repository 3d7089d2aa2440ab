"""Sample ids and labels on their way through the Trainer's loader, in the batch itself.

The Trainer fetches batches ahead (one, and all those of an accumulated step), shards them over processes and may skip
some when it resumes. Ids inside the batch stay with their rows through all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

from ...store.errors import InvalidInput
from ..hook.inputs import read_batch_ids
from ..signals.evaluation import undisturbed_randomness

ID_COLUMN = "sample_id"


class NumberedRecords(Dataset[tuple[int, Any]]):
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
        return int(record[ID_COLUMN]), {name: value for name, value in record.items() if name != ID_COLUMN}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "inner" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.inner, name)


class CollateWithIds:
    """A collate function over (id, record): the batch as ``inner`` makes it, with ids and labels under keys of their own.

    The labels go along a second time because the Trainer takes ``labels`` out where it computes the loss itself.
    """

    def __init__(self, inner: Callable[[list[Any]], Any], key: str, samples: int) -> None:
        self.inner, self.key, self.samples = inner, key, samples

    def __call__(self, records: list[tuple[int, Any]]) -> Any:
        batch = self.inner([record for _, record in records])
        if not isinstance(batch, MutableMapping) or "labels" not in batch:
            what = sorted(batch) if isinstance(batch, MutableMapping) else type(batch).__name__
            raise InvalidInput(f"the data collator gives {what}; the callback needs a mapping with labels")
        ids = torch.from_numpy(read_batch_ids([number for number, _ in records], self.samples))
        if len(batch["labels"]) != len(ids):
            raise InvalidInput(
                f"the data collator makes {len(batch['labels'])} rows of {len(ids)} records; packed and otherwise "
                "rearranged batches have no loss a sample"
            )
        batch[f"{self.key}_ids"] = ids
        batch[f"{self.key}_labels"] = batch["labels"]
        return batch


def first_record(data: Any) -> Any:
    """The first record of a data set, every random stream left as it was."""
    with undisturbed_randomness(torch.device("cpu")):
        return data[0]


def own_ids(data: Any, *, columns_removed: bool) -> bool:
    """Whether the records of a Trainer's data set carry their ids in a column ``sample_id``.

    Raises InvalidInput for streams, and for a data set of the library datasets whose unknown columns the Trainer has
    removed: whether there was one can no longer be seen, and the wrong ids would go unnoticed.
    """
    if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        raise InvalidInput(
            f"the training data is a {type(data).__name__}, whose records have no position that says which sample they "
            "are; give the Trainer a map-style data set"
        )
    record = first_record(data)
    if isinstance(record, Mapping) and ID_COLUMN in record:
        return True
    if columns_removed and type(data).__module__.split(".")[0] == "datasets":
        raise InvalidInput(
            "the Trainer has removed the columns that the model does not take, a column sample_id too if there was one; "
            "give the callback ids=, the sample id of each record, or set TrainingArguments(remove_unused_columns=False)"
        )
    return False
