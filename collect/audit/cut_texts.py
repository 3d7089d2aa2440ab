"""Texts that a tokenizer, or a function around one, has cut itself: which they are, and what is left of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from ...store.errors import InvalidInput

_NOT_OF_TOKENS = ("padding", "return_tensors", "pad_to_multiple_of", "return_overflowing_tokens", "verbose")
_OF_CUTS = ("truncation", "max_length", "stride")


def cut_itself(
    tokenizer: Any, texts: Sequence[str], ids: Sequence[list[int]]
) -> tuple[list[str], list[bool]]:
    """The part of each text that its ``ids`` are of, as tokenizer(texts) gives them, and whether that is less than all of it.

    A partial of a tokenizer of transformers says which part; a tokenizer itself cuts nothing unless it is told. What other functions
    cut is not known here (see `check_cuts`).
    """
    parts, cut = list(texts), [False] * len(texts)
    inner, options = _inside(tokenizer)
    if inner is not None and options.get("truncation") and texts:
        shared = {name: value for name, value in options.items() if name not in _NOT_OF_TOKENS}
        plain = {name: value for name, value in shared.items() if name not in _OF_CUTS}
        whole = token_ids(inner(list(texts), verbose=False, **plain), len(texts))
        fast = bool(getattr(inner, "is_fast", False))
        for number, (all_of_it, left) in enumerate(zip(whole, ids, strict=True)):
            if len(all_of_it) <= len(left):
                continue
            cut[number] = True
            if fast:
                places = inner([texts[number]], **{**shared, "return_offsets_mapping": True})
                parts[number] = part_of(texts[number], places["offset_mapping"][0])
            else:
                parts[number] = inner.decode(left, skip_special_tokens=True)
    return parts, cut


def part_of(text: str, offsets: Sequence[tuple[int, int]]) -> str:
    """The part of a text from its first token to its last, by where each begins and ends."""
    places = [(start, end) for start, end in offsets if end > start]
    return text[min(p[0] for p in places) : max(p[1] for p in places)] if places else ""


def token_ids(found: Any, count: int) -> list[list[int]]:
    """The tokens of each of ``count`` texts in what a tokenizer gives, without its padding."""
    rows = found["input_ids"]
    if len(rows) != count:
        raise InvalidInput(
            f"tokenizer gives {len(rows)} lists of tokens for {count} texts; it is called as tokenizer(texts), and gives one a text"
        )
    masks = found["attention_mask"] if "attention_mask" in found else [None] * count
    return [
        [int(each) for each in row]
        if mask is None
        else [int(each) for each, counts in zip(row, mask, strict=True) if counts]
        for row, mask in zip(rows, masks, strict=True)
    ]


def _inside(tokenizer: Any) -> tuple[Any, Mapping[str, Any]]:
    """The tokenizer of transformers itself, or in partials, and what these call it with; None for another function."""
    options: dict[str, Any] = {}
    while isinstance(tokenizer, functools.partial) and not tokenizer.args:
        options = {**tokenizer.keywords, **options}
        tokenizer = tokenizer.func
    return (tokenizer if hasattr(tokenizer, "model_max_length") else None), options


def check_cuts(tokenizer: Any, texts: Sequence[str], ids: Sequence[list[int]]) -> None:
    """Raises InvalidInput for a function that has cut a text: it gives one twice over no more tokens, and some without their ends the same."""
    if not texts or _inside(tokenizer)[0] is not None:
        return
    most = max(map(len, ids))
    longest = texts[[len(each) for each in ids].index(most)]
    if len(token_ids(tokenizer([f"{longest} {longest}"]), 1)[0]) > most:
        return
    full = [number for number, each in enumerate(ids) if len(each) == most]
    shorter = token_ids(tokenizer([_without_end(texts[number]) for number in full]), len(full))
    cut = sum(left == ids[number] for number, left in zip(full, shorter, strict=True))
    if cut:
        raise InvalidInput(
            f"tokenizer, a function, cuts texts to {most} tokens ({cut:,} of {len(texts):,} at least), and cannot say which part of them is left; give "
            f"the tokenizer itself with max_tokens={most}, functools.partial(tokenizer, truncation=True, max_length={most}), or texts that are cut"
        )


def _without_end(text: str) -> str:
    """A text without its last word; of one word, without its last character."""
    words = text.split()
    return text[: text.rindex(words[-1])] if len(words) > 1 else text.rstrip()[:-1]
