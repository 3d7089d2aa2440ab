"""A data loader that stays one, for Lightning to change as it likes, and tells which samples its batches hold."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from ...store.errors import InvalidInput
from ..hook.loader import WatchedLoader, check_followable, watch

_WATCHED = "_losslake_watched"


def telling(loader: Any, ids: np.ndarray, told: deque[np.ndarray]) -> DataLoader[Any]:
    """A copy of the loader whose passes put the sample ids of each batch, as it is handed out, into ``told``.

    It is of a subclass of the loader's class, made here: Lightning builds loaders anew to exchange their sampler
    (DistributedSampler under DDP, a sequential one for overfit_batches), of the same class, and without what is only
    in the instance. So what is told is always what the final sampler draws. A new pass empties ``told``.
    ``ids`` (len(dataset),) is the sample id at each position.
    """
    plain = type(loader)

    def passes(self: DataLoader[Any]) -> Iterator[Any]:
        watched = self.__dict__.get(_WATCHED)
        if watched is None:
            twin = copy.copy(self)
            _set_class(twin, plain)
            watched = watch(twin, ids, on_pass=told.clear, on_batch=told.append, on_end=_nothing)
            self.__dict__[_WATCHED] = watched
        return iter(watched)

    mine = copy.copy(loader)
    _set_class(mine, type(plain.__name__, (plain,), {"__iter__": passes, "__module__": plain.__module__}))
    return mine


def only_loader(loader: Any) -> DataLoader[Any]:
    """The loader that Lightning was given, checked. Raises InvalidInput for several, and for what cannot be followed."""
    if isinstance(loader, WatchedLoader):
        raise InvalidInput("the callback watches the loader itself; give Lightning the plain DataLoader")
    if not isinstance(loader, DataLoader):
        raise InvalidInput(f"the callback follows one torch DataLoader, not {type(loader).__name__}")
    check_followable(loader)
    return loader


def _set_class(loader: DataLoader[Any], kind: type) -> None:
    # Lightning notes what is set on a loader, to do the same to the one that it builds.
    object.__setattr__(loader, "__class__", kind)


def _nothing() -> None:
    pass
