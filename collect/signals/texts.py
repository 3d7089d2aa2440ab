"""Asking a causal language model about texts: padded batches in bounded memory, each token's loss as if its text were asked alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ...store.errors import InvalidInput
from ..losses.cross_entropy import IGNORED
from ..losses.tokens import Tokens, token_losses
from ..random_streams import undisturbed_randomness
from ..ranks import inner_model
from .evaluation import device_of, eval_mode

Batch = dict[str, torch.Tensor]
AskTokens = Callable[[nn.Module, Batch], Any]
"""(model, {input_ids, attention_mask}) -> logits (B, T, V), or what holds them as transformers' models do."""

_LOGITS_AT_ONCE = 1 << 26
"""Logits of a batch, 256 MB of them in float32. One text alone may have more."""

_SAME = {torch.float64: 1e-6, torch.float32: 1e-3}
"""How near logits must be that are to be the same, in their standard deviations; in half precision, where a batch's shape matters, 0.3."""

_LOOKED_AT = 64
"""Tokens of a text that show whether a model sees later ones."""


def logits_of(output: Any) -> torch.Tensor:
    """The logits in a model's output, detached. Raises InvalidInput where there are none."""
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(output, torch.Tensor):
        logits = output
    if not isinstance(logits, torch.Tensor):
        raise InvalidInput(
            f"the model's {type(output).__name__} has no logits; switch off fused losses (use_liger_kernel) and return_dict=False"
        )
    return logits.detach()


def virtual_tokens(model: Any) -> int:
    """How many tokens of its own a model of peft puts before each text, as in prompt tuning; 0 of any other."""
    try:
        config = model.active_peft_config
    except (AttributeError, KeyError, TypeError, ValueError):  # none, or several at once
        return 0
    learns = bool(getattr(config, "is_prompt_learning", False))
    return int(getattr(config, "num_virtual_tokens", None) or 0) if learns else 0


def own_positions(said: torch.Tensor, positions: int, virtual: int) -> torch.Tensor:
    """What is said (B, positions, ...) at a text's own tokens, without what is at the ``virtual`` ones before it, where there is."""
    before = said.shape[1] - positions if said.ndim > 1 else 0
    return said[:, before:] if before and before == virtual else said


def plain_call(model: nn.Module, batch: Batch) -> Any:
    """The model as transformers has them."""
    return model(**batch)


def ask_tokens(
    model: nn.Module,
    texts: Sequence[Sequence[int]],
    *,
    pad: int,
    width: int,
    batch_size: int,
    call: AskTokens = plain_call,
    z: bool = True,
) -> Tokens:
    """The tokens of texts (R,), given as token ids, in eval mode and without gradients; the first token of a text is not predicted.

    Batches are of texts of about one length, padded on the right with ``pad``, where a causal model's other positions do not see it, and
    as large as ``batch_size`` and a bound on their logits let them be; ``width`` is how many tokens the model knows. Where the model's
    tokenizer would pad does not matter. Modes and random streams are left as they were.
    """
    # The longest first: where memory does not suffice, that is known at once.
    order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
    losses: list[Any] = [None] * len(texts)
    scaled: list[Any] = [None] * len(texts)
    for part in _parts([len(texts[number]) for number in order], width, batch_size):
        numbers = order[part]
        found = _ask(model, [texts[number] for number in numbers], pad, call, z=z)
        for number, loss, above in zip(numbers, found.parts(found.loss), found.parts(found.z), strict=True):
            losses[number], scaled[number] = loss, above
    counts = np.array([len(each) for each in losses], dtype=np.int64)
    none = np.empty(0)
    return Tokens(np.concatenate([none, *losses]), np.concatenate([none, *scaled]), counts)


def check_causal(
    model: nn.Module, text: Sequence[int], other: int, *, pad: int, call: AskTokens = plain_call
) -> None:
    """Raises InvalidInput where what the model says after a text's tokens depends on later ones, or on the padding behind.

    ``other`` is a token to put into the last one's place. Such a model sees what it is to predict. A few tokens of the text are asked about.
    """
    text = text[:_LOOKED_AT]
    alone = _logits(model, _batch([text], pad), call)[0].double()
    changed, padded = _logits(
        model, _batch([[*text[:-1], other], text[: len(text) // 2]], pad), call
    ).double()
    near = _SAME.get(next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32), 0.3)
    for again, length in ((changed, len(text) - 1), (padded, len(text) // 2)):
        if _apart(alone[:length], again[:length]) > near:
            raise InvalidInput(
                f"what {type(model).__name__} says after a token changes with the tokens behind it: it is no causal language model, and sees "
                "what it is to predict (of a BERT with a language head: config.is_decoder=True)"
            )


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """How far apart logits (T, V) lie, in standard deviations of a token's; what is no number tells nothing."""
    spread = one.masked_fill(~one.isfinite(), 0).std(dim=1, keepdim=True)
    return float(((one - other).abs() / spread).nan_to_num(0.0, 0.0).max()) if one.numel() else 0.0


def _parts(lengths: Sequence[int], width: int, batch_size: int) -> Iterator[slice]:
    """Batches of texts whose ``lengths`` descend."""
    start = 0
    while start < len(lengths):
        rows = max(1, min(batch_size, _LOGITS_AT_ONCE // max(1, lengths[start] * width)))
        yield slice(start, min(start + rows, len(lengths)))
        start += rows


def _ask(model: nn.Module, texts: Sequence[Sequence[int]], pad: int, call: AskTokens, *, z: bool) -> Tokens:
    batch = _batch(texts, pad)
    labels = batch["input_ids"].where(batch["attention_mask"] == 1, IGNORED)
    return token_losses(_logits(model, batch, call), labels, z=z)


def _batch(texts: Sequence[Sequence[int]], pad: int) -> Batch:
    longest = max(map(len, texts))
    ids = torch.full((len(texts), longest), pad, dtype=torch.int64)
    mask = torch.zeros((len(texts), longest), dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.as_tensor(text, dtype=torch.int64)
        mask[row, : len(text)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _logits(model: nn.Module, batch: Batch, call: AskTokens) -> torch.Tensor:
    model = inner_model(model)
    device = device_of(model)
    with undisturbed_randomness(device), eval_mode(model):
        found = logits_of(call(model, {name: value.to(device) for name, value in batch.items()}))
        return own_positions(found, batch["input_ids"].shape[1], virtual_tokens(model))
