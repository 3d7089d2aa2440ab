"""A data loader that tells which samples are in each batch, whatever shuffles, collates or loads them."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from ...store.errors import InvalidInput
from .collated import check_order_is_kept
from .positions import refuse_unknown

_BY_HAND = "name the field of a batch that holds its samples' ids or keys by key=, or call run.batch(ids) before each call of the criterion, and run.end_epoch() after each epoch"


class _Followed:
    """Yields a loader's batches as they are, and tells of each who is in it; anything else is the loader's own.

    ``on_pass`` is called before a pass, ``on_batch`` before each batch, ``on_end`` after a pass; not after one that is left by ``break``.
    """

    def __init__(
        self,
        loader: Any,
        on_pass: Callable[[], None],
        on_batch: Callable[[Any], None],
        on_end: Callable[[], None],
    ) -> None:
        self._loader = loader
        self._on_pass, self._on_batch, self._on_end = on_pass, on_batch, on_end
        self._under_way = False

    def _begin(self) -> bool:
        """Begin a pass; whether it only looks: without gradients, in the midst of another one, as for an accuracy."""
        looks = self._under_way and not torch.is_grad_enabled()
        if not looks:
            self._on_pass()
            self._under_way = True
        return looks

    def _walk(self, batches: Iterable[tuple[Any, Any]], *, looks: bool) -> Iterator[Any]:
        """The batches, each given with what `_who` tells its samples by."""
        for batch, by in batches:
            if not looks:
                self._on_batch(self._who(by))
            yield batch
        if not looks:
            self._under_way = False
            self._on_end()

    def _who(self, by: Any) -> Any:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_loader" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._loader, name)


class WatchedLoader(_Followed):
    """A DataLoader that is followed through its sampler. `check_followable` must let it pass.

    ``ids`` (len(dataset),) is the sample id at each position of the loader's data set; ``on_batch`` gets sample ids.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        ids: np.ndarray,
        *,
        on_pass: Callable[[], None],
        on_batch: Callable[[np.ndarray], None],
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(loader, on_pass, on_batch, on_end)
        self._ids = ids
        sampler = "sampler" if loader.batch_sampler is None else "batch_sampler"
        self._sampler = _TellingSampler(getattr(loader, sampler))
        self._twin = _with_sampler(loader, sampler, self._sampler)
        for name, inner in _inside(loader):
            self._twin.__dict__[name] = _with_sampler(inner, sampler, self._sampler)

    def __iter__(self) -> Iterator[Any]:
        told = self._sampler.begin()
        batches = self._with_positions(iter(self._twin), told)
        return self._walk(batches, looks=self._begin())

    def _with_positions(self, batches: Iterator[Any], told: deque[Any]) -> Iterator[tuple[Any, np.ndarray]]:
        for batch in batches:
            if not told:
                raise InvalidInput(
                    f"{type(self._loader).__name__} hands out batches that its sampler was not asked for, as loaders around another one do; watch "
                    f"that one before it is wrapped, or {_BY_HAND}"
                )
            # Loaders hand batches out in the order in which they asked the sampler for them.
            yield batch, np.atleast_1d(np.asarray(told.popleft()))

    def _who(self, positions: np.ndarray) -> np.ndarray:
        if not len(positions):
            return self._ids[:0]
        if not np.issubdtype(positions.dtype, np.integer):
            raise InvalidInput(
                f"the sampler yields {positions.dtype} indices, not positions in the data set; {_BY_HAND}"
            )
        if len(positions) and (positions.min() < 0 or positions.max() >= len(self._ids)):
            raise InvalidInput(
                f"the sampler yields index {positions.max()} of a data set of {len(self._ids)}"
            )
        return self._ids[positions]


_HOLDS = ("base_dataloader", "_dataloader")
"""Where the loaders of accelerate and of Lightning's Fabric hold the one that they draw from."""


def _inside(loader: Any) -> list[tuple[str, DataLoader[Any]]]:
    held = getattr(loader, "__dict__", {})
    return [(name, held[name]) for name in _HOLDS if isinstance(held.get(name), DataLoader)]


def _with_sampler(loader: DataLoader[Any], name: str, sampler: Any) -> DataLoader[Any]:
    """A copy of the loader with that attribute exchanged.

    It keeps its class, workers, generator and collation, so that it draws the same random numbers. The constructor would lose
    what it does not know of.
    """
    twin = copy.copy(loader)
    twin.__dict__.update({name: sampler, "_iterator": None})
    return twin


class KeyedLoader(_Followed):
    """Any iterable of batches, of which a field of each names its samples: ``on_batch`` gets that field.

    ``key`` is the name of a field of batches that are mappings or objects, or the place of one in tuples.
    """

    def __init__(
        self,
        loader: Any,
        key: str | int,
        *,
        on_pass: Callable[[], None],
        on_batch: Callable[[Any], None],
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(loader, on_pass, on_batch, on_end)
        self._key = key

    def __iter__(self) -> Iterator[Any]:
        looks = self._begin()
        return self._walk(((batch, batch) for batch in self._loader), looks=looks)

    def _who(self, batch: Any) -> Any:
        return _field(batch, self._key)


def _field(batch: Any, key: str | int) -> Any:
    try:
        if isinstance(batch, Mapping) or isinstance(key, int):
            return batch[key]
        return getattr(batch, key)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        has = (
            f"a mapping of {', '.join(map(str, batch))}"
            if isinstance(batch, Mapping)
            else f"a {type(batch).__name__}"
        )
        raise InvalidInput(
            f"a batch of the loader is {has} without a field {key!r}; key= names the one with the sample ids or keys of its records, or "
            "gives its place in a tuple"
        ) from error


class _TellingSampler:
    """A sampler or batch sampler that notes what it yields in the queue of the pass under way."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._told: deque[Any] = deque()

    def begin(self) -> deque[Any]:
        self._told = deque()
        return self._told

    def __iter__(self) -> Iterator[Any]:
        # The inner iterator is made at once: some samplers draw their random numbers there. A loader with
        # workers asks for two iterators and uses one; the other one never runs, so it notes nothing.
        return self._tell(iter(self._inner), self._told)

    @staticmethod
    def _tell(indices: Iterator[Any], told: deque[Any]) -> Iterator[Any]:
        for index in indices:
            told.append(list(index) if isinstance(index, (list, tuple)) else index)
            yield index

    def __len__(self) -> int:
        return len(self._inner)


def unwatched(loader: Any, is_over: Callable[[Any], bool]) -> Any:
    """The loader as it was before it was watched, where that is over, as when the cell of a notebook runs again."""
    while isinstance(loader, _Followed) and is_over(loader._on_pass):
        loader = loader._loader
    return loader


def check_followable(loader: Any) -> None:
    """Raises InvalidInput for a loader whose batches cannot be told apart from outside."""
    if isinstance(loader, _Followed):
        raise InvalidInput(
            f"the loader is watched by another run that is on its way; give watch_loader the plain one, or {_BY_HAND}"
        )
    if not isinstance(loader, DataLoader) and not _inside(loader):
        raise InvalidInput(f"watch_loader takes a torch DataLoader, not {type(loader).__name__}; {_BY_HAND}")
    if isinstance(loader.dataset, IterableDataset):
        raise InvalidInput(
            f"{type(loader.dataset).__name__} is an IterableDataset, whose records have no position that says which "
            f"sample they are; {_BY_HAND}"
        )
    if not getattr(loader, "in_order", True):
        raise InvalidInput(
            f"a loader with in_order=False gives batches in any order; leave it out, or {_BY_HAND}"
        )
    check_order_is_kept(loader)


def read_batch_ids(ids: Any, samples: int) -> np.ndarray:
    """The sample ids of one batch, on any device, as int64 (B,). Raises InvalidInput for what they cannot be."""
    array = read_numbers(ids)
    refuse_unknown(array, samples)
    return array


def read_numbers(ids: Any) -> np.ndarray:
    """Whole numbers, one a record, on any device, as int64 (B,). Raises InvalidInput for what they cannot be."""
    array = np.asarray(ids.detach().cpu() if isinstance(ids, torch.Tensor) else ids)
    if array.shape == (0,):
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise InvalidInput(
            f"the ids of a batch are {array.dtype} {array.shape}; they must be integers (batch,)"
        )
    return array.astype(np.int64)
