"""What a language model says of each token, as imports bring it: a row a text, NaN after its last token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...store.errors import InvalidInput
from ...store.write.token_lists import token_columns

TOKENS = ("token_losses", "token_z", "lower_loss")


def tokens_of(values: Mapping[str, np.ndarray], origin: str) -> dict[str, Any]:
    """The columns of tokens among ``values``, as a run's writer takes them: token_losses and token_z (n, T) as a list a text.

    Raises InvalidInput, naming ``origin``, for a text without tokens, and for what the lake would refuse.
    """
    given: dict[str, Any] = {
        name: _lists(values[name], name, origin) if values[name].ndim == 2 else values[name]
        for name in TOKENS
        if name in values
    }
    if given:
        rows = np.arange(len(next(iter(given.values()))))
        token_columns(origin, rows, *(given.get(name) for name in TOKENS))
    return given


def mean_losses(values: Mapping[str, np.ndarray]) -> np.ndarray:
    """The loss of each text, (n,): the mean over its tokens, float32; NaN for one that has none, which is refused later."""
    losses = np.asarray(values["token_losses"], dtype=np.float64)
    counted = ~np.isnan(losses)
    with np.errstate(invalid="ignore"):
        means = np.where(counted, losses, 0).sum(axis=1) / counted.sum(axis=1)
    return means.astype(np.float32)


def _lists(matrix: np.ndarray, name: str, origin: str) -> list[np.ndarray]:
    there = ~np.isnan(matrix)
    lengths = there.sum(axis=1)
    holes = (there != (np.arange(matrix.shape[1]) < lengths[:, None])).any(axis=1)
    if holes.any():
        row = int(np.flatnonzero(holes)[0])
        raise InvalidInput(
            f"{name} of {origin}: row {row} has NaN before its last token; only what follows it may be NaN"
        )
    return [row[:length] for row, length in zip(matrix, lengths, strict=True)]
