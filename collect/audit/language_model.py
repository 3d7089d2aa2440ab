"""A causal language model with its tokenizer, as an audit is given it, and texts as they show it; or why it cannot be asked about them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...store.errors import InvalidInput, InvalidOption
from ..callables import a
from .answers import is_module
from .cut_texts import cut_itself, part_of, token_ids

if TYPE_CHECKING:
    from torch import nn

    from ..signals.texts import AskTokens

BASE = "base"
"""A reference model by name: that below the adapters of a peft model."""

_NO_LIMIT = 1 << 20
"""Tokenizers that know no longest text say a number far beyond."""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """What is audited.

    most   tokens that it sees of a text; None: all
    pad    a token to fill batches with
    call   how it is called
    """

    name: str
    model: nn.Module
    tokenizer: Any
    most: int | None
    batch_size: int
    pad: int
    call: AskTokens


@dataclass(frozen=True, eq=False)
class Shown:
    """Texts as a model sees them: token ids (R,), the part of each text that they are of, and which were cut; ``itself``: by a tokenizer
    that was given to cut them."""

    ids: list[list[int]]
    texts: list[str]
    cut: list[bool]
    itself: list[bool]


def language_model(
    model: Any,
    tokenizer: Any,
    max_tokens: int | None = None,
    *,
    batch_size: int = 512,
    forward: Any = None,
    **others: Any,
) -> LanguageModel | None:
    """A causal language model with its tokenizer, or a pipeline of both; None for any other model.

    ``others`` are options of classifiers. Raises InvalidInput and InvalidOption for a language model without tokenizer, for other models
    with one, and for options that are not of language models.
    """
    model, own = of_pipeline(model)
    tokenizer = own if tokenizer is None else tokenizer
    if tokenizer is None:
        if is_module(model) and forward is None and _is_causal(inner_of(model)):
            raise InvalidInput(
                f"{type(inner_of(model)).__name__} is a language model; give its tokenizer=, and members and non-members as texts"
            )
        if max_tokens is not None:
            raise InvalidOption("max_tokens cuts texts; give a language model and its tokenizer=")
        return None
    if not is_module(model):
        raise InvalidOption(
            f"tokenizer goes with a language model of torch, and the model is {a(type(model).__name__)}; leave tokenizer= out"
        )
    if not callable(tokenizer) or isinstance(tokenizer, type):
        raise InvalidOption(
            f"tokenizer is {a(type(tokenizer).__name__)}; give one of transformers, such as AutoTokenizer.from_pretrained(...) or "
            "PreTrainedTokenizerFast(tokenizer_object=...)"
        )
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise InvalidOption(f"{given[0]} is of classifiers, and the model is asked about texts; leave it out")
    if max_tokens is not None and (
        isinstance(max_tokens, bool) or not isinstance(max_tokens, (int, np.integer)) or max_tokens < 2
    ):
        raise InvalidOption(
            f"max_tokens is {max_tokens!r}; it is how many tokens of a text the model sees, 2 or more"
        )
    from ..signals.texts import plain_call, virtual_tokens

    inner = inner_of(model)
    if forward is None:
        _check_causal_class(inner)
    context = _context(inner, tokenizer, virtual_tokens(model))
    if max_tokens is not None and context is not None and max_tokens > context:
        raise InvalidOption(
            f"max_tokens is {max_tokens}, and {type(inner).__name__} takes {context} tokens at most"
        )
    pad = next(
        (
            each
            for name in ("pad_token_id", "eos_token_id")
            if (each := getattr(tokenizer, name, None)) is not None
        ),
        0,
    )
    known = tokens_known(model)
    return LanguageModel(
        type(inner).__name__,
        model,
        tokenizer,
        context if max_tokens is None else int(max_tokens),
        batch_size,
        # Whatever fills a batch is not looked at; a pad token that was added to the tokenizer alone is none of the model's.
        int(pad) if known is None or 0 <= pad < known else 0,
        forward or plain_call,
    )


def of_pipeline(model: Any) -> tuple[Any, Any]:
    """(model, tokenizer) of a text-generation pipeline; (model, None) of anything else."""
    if (
        getattr(model, "task", None) == "text-generation"
        and hasattr(model, "tokenizer")
        and hasattr(model, "model")
    ):
        return model.model, model.tokenizer
    return model, None


def inner_of(model: Any) -> Any:
    """The model that adapters of peft, or a compiled or distributed wrapper, keep inside."""
    model = getattr(model, "_orig_mod", model)
    model = getattr(model, "module", model)
    base = getattr(model, "get_base_model", None)
    return base() if base is not None else model


@contextlib.contextmanager
def without_adapters(model: Any) -> Iterator[None]:
    """The model below the adapters of peft, which lets weights train again that did not when it turns the adapters on."""
    before = [(weight, weight.requires_grad) for weight in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for weight, trains in before:
            weight.requires_grad_(trains)


def tokens_known(model: nn.Module) -> int | None:
    """How many tokens the model has embeddings of; None where it does not say."""
    inner = inner_of(model)
    embeddings = getattr(inner, "get_input_embeddings", None)
    if embeddings is None:
        return None
    count = getattr(embeddings(), "num_embeddings", None)
    return None if count is None else int(count)


def shown(tokenizer: Any, texts: Sequence[str], most: int | None) -> Shown:
    """Texts by the tokenizer as it is called in training, tokenizer(text), cut to ``most`` tokens as truncation=True cuts them.

    It may cut them itself, as partial(tokenizer, truncation=True, max_length=64) does. What its attention_mask leaves out, as a function
    around a tokenizer may pad, is none of a text's tokens. Raises InvalidInput where it gives other than one list a text, and where it
    cannot say which part of a text it has cut.
    """
    given = list(texts)
    quiet = {"verbose": False} if hasattr(tokenizer, "model_max_length") else {}
    ids = token_ids(tokenizer(given, **quiet), len(given)) if given else []
    parts, itself = cut_itself(tokenizer, given, ids)
    cut = [most is not None and len(each) > most for each in ids]
    for number in (i for i, is_cut in enumerate(cut) if is_cut):
        options: dict[str, Any] = {"truncation": True, "max_length": most, **quiet}
        fast = bool(getattr(tokenizer, "is_fast", False))
        if not fast and not hasattr(tokenizer, "decode"):
            raise InvalidInput(
                f"a text has {len(ids[number])} tokens, more than {most}, and tokenizer, {a(type(tokenizer).__name__)}, cannot say which part "
                "of it these are; give a tokenizer of transformers itself, or texts that are cut"
            )
        found = tokenizer([given[number]], return_offsets_mapping=fast, **options)
        ids[number] = token_ids(found, 1)[0]
        if fast:
            parts[number] = part_of(given[number], found["offset_mapping"][0])
        else:
            parts[number] = tokenizer.decode(ids[number], skip_special_tokens=True)
    return Shown(ids, parts, [one or other for one, other in zip(cut, itself, strict=True)], itself)


def _is_causal(model: Any) -> bool:
    if "transformers" not in sys.modules:
        return False
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    encodes = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() and not encodes


def _check_causal_class(model: Any) -> None:
    """Raises InvalidInput for a model of transformers that does something else than to write on from a text."""
    name, config = type(model).__name__, getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise InvalidInput(
            f"{name} writes one text from another; losslake.audit asks causal language models about texts, and others by forward= or a function"
        )
    if (
        "For" in name
        and not name.endswith(("ForCausalLM", "LMHeadModel"))
        and config is not None
        and not _is_causal(model)
    ):
        raise InvalidInput(
            f"{name} is no causal language model; leave tokenizer= out and give tokenized records, with forward= to say how it is called"
        )


def _context(model: Any, tokenizer: Any, virtual: int) -> int | None:
    """The tokens that model and tokenizer take at most of a text, ``virtual`` ones of the model's standing before it."""
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    takes = getattr(config, "max_position_embeddings", None)
    said = [takes - virtual if isinstance(takes, int) else None, getattr(tokenizer, "model_max_length", None)]
    known = [int(each) for each in said if isinstance(each, (int, float)) and 1 < each < _NO_LIMIT]
    return min(known, default=None)
