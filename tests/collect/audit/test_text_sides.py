"""What stands beside a language model in an audit: functions around its tokenizer, pad tokens of their own, adapters, other models."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from losslake.collect.audit.collect import collect_audit
from losslake.store.errors import InvalidInput
from losslake.store.lake import Lake
from tiny_gpt2 import PAD, gpt2, made_texts, tokenizer_of
from torch import nn

pytest.importorskip("transformers", reason="needs the extra losslake[huggingface]")
pytest.importorskip("peft", reason="needs peft, of losslake's test extra")

MEMBERS, OTHERS = made_texts(6, 1), made_texts(6, 2)


def of(**more: Any) -> Any:
    return tokenizer_of([*MEMBERS, *OTHERS], **more)


def added_pad() -> Any:
    """A tokenizer with a pad token that the model's embeddings lack."""
    tokenizer = of()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    return tokenizer


@pytest.fixture(scope="module")
def model() -> Any:
    return gpt2(len(of(pad_token="<pad>")))


def lists_of(folder: Path, model: Any, tokenizer: Any, **more: Any) -> list[list[float]]:
    lake = Lake.open(folder / f"lake{len(list(folder.iterdir()))}", create=True)
    collect_audit(lake, "audit", model, MEMBERS, OTHERS, tokenizer=tokenizer, **more)
    return lake.sql("select token_losses from signals where run = 'target' order by sample_id")[
        "token_losses"
    ].to_list()


def padded() -> Any:
    backend = of(pad_token="<pad>")
    backend._tokenizer.enable_padding(length=30, pad_id=PAD)
    return backend


AROUND: dict[str, Callable[[], Any]] = {
    "pads": lambda: functools.partial(of(pad_token="<pad>"), padding=True),
    "pads on the left": lambda: functools.partial(of(pad_token="<pad>", padding_side="left"), padding=True),
    "tensors": lambda: functools.partial(of(pad_token="<pad>"), padding=True, return_tensors="pt"),
    "a saved setting": padded,
    "a pad token of its own": added_pad,
}


@pytest.mark.parametrize("kind", AROUND)
def test_padding_is_none_of_a_texts_tokens(tmp_path: Path, model: Any, kind: str) -> None:
    plain = lists_of(tmp_path, model, of(pad_token="<pad>"))
    for one, other in zip(lists_of(tmp_path, model, AROUND[kind]()), plain, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_function_that_cannot_say_what_is_cut_is_refused(tmp_path: Path, model: Any) -> None:
    with pytest.raises(InvalidInput, match="cannot say which part"):
        lists_of(tmp_path, model, functools.partial(of(pad_token="<pad>")), max_tokens=np.int64(4))
    several = functools.partial(
        of(pad_token="<pad>"), truncation=True, max_length=4, return_overflowing_tokens=True
    )
    with pytest.raises(InvalidInput, match="lists of tokens for 12 texts"):
        lists_of(tmp_path, model, several)


def test_half_a_character_is_refused(tmp_path: Path, model: Any) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    with pytest.raises(InvalidInput, match=r"record 1 of members is no text: character 2"):
        collect_audit(lake, "audit", model, ["a text", "ab\ud800"], OTHERS, tokenizer=of())


def test_weights_that_do_not_train_do_not_afterwards(tmp_path: Path) -> None:
    adapted = gpt2(len(of()), lora=True)
    for number, weight in enumerate(adapted.parameters()):
        weight.requires_grad_(number % 3 == 0)
    before = [weight.requires_grad for weight in adapted.parameters()]
    lists_of(tmp_path, adapted, of(), references=["base"])
    assert before == [weight.requires_grad for weight in adapted.parameters()]


class Own(nn.Module):
    """A model that does not say how many tokens it knows."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.inner, self.head = nn.Embedding(tokens, 8), nn.Linear(8, tokens)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(input_ids))


def test_a_reference_that_does_not_say_its_tokens_is_asked(tmp_path: Path, model: Any) -> None:
    torch.manual_seed(0)
    plain = lists_of(tmp_path, model, of())
    assert lists_of(tmp_path, model, of(), references=[Own(len(of()))]) == plain
