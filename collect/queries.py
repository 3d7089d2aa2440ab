"""Queries: deterministic views of a sample at inference, the same for every model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..store.errors import InvalidOption
from ..store.schema import ORIGINAL
from .choices import unknown_choice

QUERIES = {"original": ORIGINAL, "flip": 1}
"""Name to the number that the lake stores. A number never changes its meaning."""


def parse_queries(text: str | Sequence[str] | None, *, pictures: bool) -> tuple[str, ...]:
    """Query names, in the order of their numbers, from a list or from text such as "original,flip".

    None means all that fit: original and flip for pictures, else original. Raises InvalidOption for a name
    that does not exist, for none at all, and for a flip of what is no picture.
    """
    if text is None:
        return tuple(QUERIES) if pictures else ("original",)
    names = [part.strip() for part in text.split(",")] if isinstance(text, str) else list(text)
    for name in names:
        if name not in QUERIES:
            raise unknown_choice("query", name, QUERIES)
    if not names:
        raise InvalidOption(f"no query given; valid: {', '.join(QUERIES)}")
    if "flip" in names and not pictures:
        raise InvalidOption(
            "query 'flip' is for pictures; these records are rows of features: use 'original'"
        )
    return tuple(sorted(set(names), key=lambda name: QUERIES[name]))


def view(x: torch.Tensor, query: str) -> torch.Tensor:
    """The view of a batch: x itself for "original", mirrored left to right, (B, C, H, W), for "flip"."""
    return x.flip(3) if query == "flip" else x
